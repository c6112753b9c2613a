"""A training state that lies in a distributed checkpoint (DCP) comes back as one, and torch goes on from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from hyperclone_cli import expand, verify
from support import models

Sources = Callable[[str], Path]
GROWN: dict[str, Any] = {"embed_mult": 2, "depth_mult": 2}


@dataclass
class Run:
    """A model and its optimizer in training; `epoch` stands for a schedule."""

    model: Any
    optimizer: torch.optim.Optimizer
    epoch: int = 0

    @classmethod
    def begin(cls, path: Path) -> Run:
        """A run of a model at random of the shape at `path`; vectors have a group of their own."""
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), dtype=torch.float32)
        groups: list[dict[str, Any]] = [
            {"params": [one for one in model.parameters() if one.dim() > 1]},
            {"params": [one for one in model.parameters() if one.dim() == 1], "weight_decay": 0.0},
        ]
        return cls(model, torch.optim.AdamW(groups, lr=1e-3))

    def step(self) -> float:
        ids = torch.arange(24).reshape(2, 12) % self.model.config.vocab_size
        loss = cross_entropy(self.model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.epoch += 1
        return loss.item()

    def states(self, flat: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
        return get_state_dict(self.model, self.optimizer, options=StateDictOptions(flatten_optimizer_state_dict=flat))

    def set(self, weights: dict[str, Any], state: dict[str, Any], flat: bool = False) -> None:
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=weights,
            optim_state_dict=state,
            options=StateDictOptions(flatten_optimizer_state_dict=flat),
        )


class Fsdp:
    """As accelerate saves it: a checkpoint for the model, another for the optimizer."""

    def save(self, run: Run, out: Path) -> None:
        weights, state = run.states()
        write({"model": weights}, out / "pytorch_model_fsdp_0")
        write({"optimizer": state}, out / "optimizer_0")

    def load(self, run: Run, path: Path) -> None:
        weights, state = run.states()
        run.set(
            read({"model": weights}, path / "pytorch_model_fsdp_0")["model"],
            read({"optimizer": state}, path / "optimizer_0")["optimizer"],
        )


class Torchtitan:
    """All in one checkpoint, of a module that has a model of transformers as `model`; settings once a parameter."""

    def save(self, run: Run, out: Path) -> None:
        write(self._all(replace(run, model=torch.nn.ModuleDict({"model": run.model}))), out)

    def load(self, run: Run, path: Path) -> None:
        whole = replace(run, model=torch.nn.ModuleDict({"model": run.model}))
        found = read(self._all(whole), path)
        whole.set({name: found[name] for name in whole.model.state_dict()}, found["optimizer"], flat=True)
        run.epoch = found["lr_scheduler"]["last_epoch"]
        assert int(found["train_state"]["step"]) == run.epoch
        assert found["dataloader"] == {"dp_rank_0": bytes([run.epoch]), "world_size": 1}

    def _all(self, run: Run) -> dict[str, Any]:
        weights, state = run.states(flat=True)
        return {
            **weights,
            "optimizer": state,
            "lr_scheduler": {"last_epoch": run.epoch},
            "train_state": {"step": torch.tensor(run.epoch)},
            "dataloader": {"dp_rank_0": bytes([run.epoch]), "world_size": 1},
        }


class Nested:
    """As torch's tutorial saves it, with averages of the weights beside it, which a clone cannot have."""

    def save(self, run: Run, out: Path) -> None:
        weights, state = run.states()
        write({"app": {"model": weights, "optim": state}, "ema": weights, "epoch": run.epoch}, out / "dcp")

    def load(self, run: Run, path: Path) -> None:
        weights, state = run.states()
        found = read({"app": {"model": weights, "optim": state}, "epoch": 0}, path / "dcp")
        run.set(found["app"]["model"], found["app"]["optim"])
        run.epoch = found["epoch"]


def write(state: dict[str, Any], out: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process
        save(state, storage_writer=FileSystemWriter(out), no_dist=True)


def read(state: dict[str, Any], path: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(state, storage_reader=FileSystemReader(path), no_dist=True)
    return state


@pytest.fixture(scope="module")
def trained(source: Sources) -> Run:
    """A run after three steps. Read only."""
    run = Run.begin(source("llama-gqa-tied"))
    for _ in range(3):
        run.step()
    return run


@pytest.fixture(scope="module")
def expected(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clone of the same run with its optimizer in optimizer.pt. Read only."""
    path = tmp_path_factory.mktemp("expected")
    trained.model.save_pretrained(path / "src")
    torch.save(trained.optimizer.state_dict(), path / "src" / "optimizer.pt")
    expand(path / "src", path / "clone", optimizer=True, **GROWN)
    return path / "clone"


def checkpoint(run: Run, layout: Fsdp | Torchtitan | Nested, out: Path) -> Path:
    out.mkdir()
    run.model.config.architectures = [type(run.model).__name__]
    run.model.config.save_pretrained(out)
    layout.save(run, out)
    return out


@pytest.mark.parametrize("layout", [Fsdp(), Torchtitan(), Nested()], ids=lambda one: type(one).__name__)
def test_torch_loads_the_state_of_the_clone_and_trains_on(
    layout: Fsdp | Torchtitan | Nested, trained: Run, expected: Path, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    notes = expand(checkpoint(trained, layout, tmp_path / "src"), clone, optimizer=True, **GROWN).notes
    assert any("left behind: ema" in note for note in notes) is isinstance(layout, Nested)
    resumed = Run.begin(clone)
    layout.load(resumed, clone)
    assert resumed.epoch == (0 if isinstance(layout, Fsdp) else 3)

    other = Run.begin(expected)
    other.model.load_state_dict(models.load(expected).state_dict())
    other.optimizer.load_state_dict(torch.load(expected / "optimizer.pt", weights_only=True))
    assert same(resumed.model.state_dict(), other.model.state_dict())
    for mine, theirs in zip(resumed.model.parameters(), other.model.parameters(), strict=True):
        assert same(resumed.optimizer.state[mine], other.optimizer.state[theirs])
    settings = [{key: item for key, item in one.items() if key != "params"} for one in resumed.optimizer.param_groups]
    assert settings == [
        {key: item for key, item in one.items() if key != "params"} for one in other.optimizer.param_groups
    ]
    assert resumed.step() == other.step()
    assert same(resumed.model.state_dict(), other.model.state_dict())
    assert verify(clone, weights_only=True).passed


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
