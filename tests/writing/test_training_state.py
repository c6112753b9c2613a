"""The optimizer of a training checkpoint grows with its model, and the run goes on from the clone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from hyperclone_cli import expand, verify
from hyperclone_cli.checkpoint.fused_parameters import stored_rows
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.planning.moments import shares_are_exact
from hyperclone_cli.writing import open_numbers
from support import distributed, faults, flat_optimizer, models, training_run
from support.heard import Heard

Sources = Callable[[str], Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that the Trainer leaves after 3 steps of 6, beside its end. Read only."""
    directory = tmp_path_factory.mktemp("run")
    training_run.trainer(models.build("llama-gqa-tied", directory / "model"), directory, 6, save_steps=3).train()
    return directory / "checkpoint-3"


def state_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path / "optimizer.pt", weights_only=True)
    return found


def test_the_trainer_goes_on_where_the_source_was(run: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    made = expand(run, clone, embed_mult=2, ffn_mult=2, optimizer=True)
    assert any("training_args.bin" in note for note in made.notes)
    assert verify(clone, weights_only=True).passed
    goes_on = training_run.trainer(clone, tmp_path, 6)
    goes_on.train(resume_from_checkpoint=str(clone))
    assert goes_on.state.global_step == 6
    mine, sources = (
        json.loads((path / "trainer_state.json").read_text())["log_history"]
        for path in (tmp_path / "checkpoint-6", run.with_name("checkpoint-6"))
    )
    assert [one["learning_rate"] for one in mine] == [one["learning_rate"] for one in sources]
    assert mine[:3] == sources[:3]
    assert mine[3]["loss"] == pytest.approx(sources[3]["loss"], rel=1e-4)  # the same batch, and the same function
    assert {float(one["step"]) for one in state_of(tmp_path / "checkpoint-6")["state"].values()} == {6.0}


def test_the_groups_are_those_that_the_trainer_makes_of_the_clone(run: Path, tmp_path: Path) -> None:
    expand(run, tmp_path / "clone", embed_mult=2, depth_mult=2, tie_embeddings="untie", optimizer=True)
    run_again = training_run.trainer(tmp_path / "clone", tmp_path, 6)
    of_trainer = run_again.create_optimizer()
    found, expected = state_of(tmp_path / "clone"), of_trainer.state_dict()
    assert [group["params"] for group in found["param_groups"]] == [
        group["params"] for group in expected["param_groups"]
    ]
    of_trainer.load_state_dict(found)
    for parameter, state in of_trainer.state.items():
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape
    names = {parameter: name for name, parameter in run_again.model.named_parameters()}
    new = {name: state for one, state in of_trainer.state.items() if ".1." in (name := names[one])}
    assert not any(state["exp_avg"].any() for state in new.values())
    assert all(state["exp_avg_sq"].any() for state in new.values())


SYMMETRIC = {"embed_mult": 2, "ffn_mult": 2, "strategy": "symmetric"}
NO_GRADIENT = ("k_proj.bias", "c_attn.bias")
"""Biases of keys, which add the same to all scores: their gradient is rounding alone, and AdamW makes steps of it."""


@pytest.mark.parametrize(
    "variant, options, exact",
    [
        ("llama-gqa-tied", SYMMETRIC, True),
        ("llama-mha", SYMMETRIC | {"embed_mult": 3}, True),
        ("opt-350m", SYMMETRIC, True),
        ("gpt2", SYMMETRIC, True),
        ("gemma3-mqa", SYMMETRIC, True),
        ("mixtral", SYMMETRIC, True),
        ("llama-gqa-tied", {"ffn_mult": 2, "heads_mult": 2, "strategy": "symmetric"}, True),
        ("llama-mha", {"embed_mult": 2, "ffn_mult": 2}, False),
    ],
)
def test_a_step_of_the_clone_is_the_sources_step_grown(
    variant: str, options: dict[str, Any], exact: bool, source: Sources, tmp_path: Path
) -> None:
    """At rates that are as many times smaller as the weights: AdamW moves every weight by the rate, whatever its size.

    Exactly so where all copies have the same share of the gradient.
    """
    src, clone, stepped = tmp_path / "src", tmp_path / "clone", tmp_path / "stepped"
    model = models.load(source(variant))
    optimizer = torch.optim.AdamW(apart(model), lr=1e-3, weight_decay=0.1, eps=1e-12)
    for seed in (1, 2):
        step(model, optimizer, seed)
    model.save_pretrained(src)
    torch.save(optimizer.state_dict(), src / "optimizer.pt")
    step(model, optimizer, 3)
    model.save_pretrained(stepped)
    made = expand(src, clone, optimizer=True, **options)
    expand(stepped, tmp_path / "expected", **options)
    grown = models.load(clone)
    goes_on = torch.optim.AdamW(apart(grown))
    goes_on.load_state_dict(torch.load(clone / "optimizer.pt", weights_only=True))
    names = {parameter: name for name, parameter in grown.named_parameters()}
    held = stored_rows(grown)  # the tensors that fused experts are stored as have equal gains and shares
    planned = {held[tensor.name].parameter: tensor for tensor in made.tensors}
    parts = []
    for group in goes_on.param_groups:
        for parameter in group["params"]:
            tensor = planned[names[parameter]]
            share = float(max(tensor.shares(0))) if tensor.roles[-1].name == "IN" else 1.0
            times = tensor.gain * share
            rates = {"lr": group["lr"] * times, "weight_decay": group["weight_decay"] / times}
            parts.append(group | rates | {"params": [parameter]})
    goes_on.param_groups = parts
    step(grown, goes_on, 3)
    expected, before = (models.load(path).state_dict() for path in (tmp_path / "expected", clone))
    compared = {name: one.detach() for name, one in grown.named_parameters() if not name.endswith(NO_GRADIENT)}
    off = {name: float((one - expected[name]).norm() / expected[name].norm()) for name, one in compared.items()}
    far = {name: float((one - before[name]).norm() / before[name].norm()) for name, one in compared.items()}
    assert shares_are_exact(made) is exact
    assert (max(off.values()) < 1e-6) is exact, off
    assert min(far.values()) > 1e-4


def apart(model: Any) -> list[dict[str, Any]]:
    """Matrices, and vectors, which are not made smaller."""
    parameters = list(model.parameters())
    vectors = {"params": [one for one in parameters if one.dim() < 2], "weight_decay": 0.0}
    return [{"params": [one for one in parameters if one.dim() >= 2]}, vectors]


def test_an_optimizer_with_one_group_comes_back_with_one(source: Sources, tmp_path: Path) -> None:
    model = models.load(source("llama-gqa-tied"))
    optimizer = torch.optim.AdamW(model.parameters(), amsgrad=True)
    step(model, optimizer, 1)
    model.save_pretrained(tmp_path / "src")
    torch.save(optimizer.state_dict(), tmp_path / "src" / "optimizer.pt")
    expand(tmp_path / "src", tmp_path / "clone", embed_mult=1.5, heads_mult=1, depth_mult=2, optimizer=True)
    grown = models.load(tmp_path / "clone")
    goes_on = torch.optim.AdamW(grown.parameters(), amsgrad=True)
    goes_on.load_state_dict(state_of(tmp_path / "clone"))
    for parameter in grown.parameters():
        kept = goes_on.state[parameter]
        assert kept["exp_avg"].shape == kept["max_exp_avg_sq"].shape == parameter.shape
        assert float(kept["exp_avg_sq"].min()) >= 0
    step(grown, goes_on, 2)


TENSORS = {"lr": torch.tensor(1e-3), "betas": (torch.tensor(0.8), torch.tensor(0.95))}


@pytest.mark.parametrize(
    "settings, edit, legacy",
    [
        (TENSORS, {}, False),
        ({"foreach": True, "capturable": False}, {"step": 2}, False),
        ({}, {"exp_avg": torch.float64, "exp_avg_sq": torch.float64}, False),
        ({}, {"exp_avg": torch.bfloat16}, False),
        ({}, {}, True),
    ],
    ids=["settings that are tensors", "a plain number of steps", "float64", "bfloat16", "before torch 1.6"],
)
def test_other_ways_to_hold_the_same_state_lead_to_the_same_step(
    settings: dict[str, Any], edit: dict[str, Any], legacy: bool, source: Sources, tmp_path: Path
) -> None:
    """All but one parameter have a state, in numbers that bfloat16 has too."""
    stepped = []
    for odd in (False, True):
        src, clone = tmp_path / f"src-{odd}", tmp_path / f"clone-{odd}"
        model = models.load(source("llama-gqa-tied"))
        optimizer = torch.optim.AdamW(model.parameters(), betas=(0.8, 0.95), lr=1e-3)
        step(model, optimizer, 1)
        step(model, optimizer, 2)
        model.save_pretrained(src)
        state = optimizer.state_dict()
        del state["state"][3]
        for one in state["state"].values():
            one["exp_avg"] = one["exp_avg"].bfloat16().float()
            for key, change in edit.items() if odd else ():
                one[key] = one[key].to(change) if isinstance(change, torch.dtype) else change
        state["param_groups"][0] |= settings if odd else {}
        torch.save(state, src / "optimizer.pt", _use_new_zipfile_serialization=not (odd and legacy))
        expand(src, clone, ffn_mult=2, strategy="symmetric", optimizer=True)
        grown = models.load(clone)
        goes_on = torch.optim.AdamW(grown.parameters())
        goes_on.load_state_dict(state_of(clone))
        assert [float(one) for one in goes_on.param_groups[0]["betas"]] == pytest.approx([0.8, 0.95])
        step(grown, goes_on, 3)
        stepped.append(grown.state_dict())
    one, other = stepped
    off = {name: float((one[name] - other[name]).abs().max()) for name in one}
    assert max(off.values()) < 1e-6, off  # a thousandth of the rate


@pytest.mark.parametrize("kind", ["optimizer.pt", "distributed checkpoints"])
def test_moments_that_are_not_finite_are_named(kind: str, run: Path, tmp_path: Path) -> None:
    src, state = tmp_path / "src", state_of(run)
    shutil.copytree(run, src)
    state["state"][2]["exp_avg_sq"][0] = torch.inf
    torch.save(state, src / "optimizer.pt")
    made = expand(src if kind == "optimizer.pt" else fsdp(src, tmp_path / "run"), tmp_path / "clone", optimizer=True)
    assert any(note.startswith("The source contains NaN or Inf in ") and ".exp_avg_sq" in note for note in made.notes)


def step(model: Any, optimizer: torch.optim.Optimizer, seed: int) -> None:
    ids = torch.randint(0, model.config.vocab_size, (4, 12), generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@pytest.mark.parametrize("kind", ["optimizer.pt", "safetensors", "distributed checkpoints"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    kind: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"embed_mult": 2, "noise_snr_db": 20.0, "optimizer": True}
    src = run
    if kind != "optimizer.pt":
        src = (flattened if kind == "safetensors" else fsdp)(run, tmp_path / "run")
    expand(src, tmp_path / "whole", **options, threads=3)
    monkeypatch.setattr(open_numbers, "_SYNC_BYTES", 1)

    def stop(*_: int) -> None:
        step = heard.steps[-1]
        if "optimizer" in step and heard.done[step] > heard.totals[step] / 2:
            raise KeyboardInterrupt

    heard = Heard(stop)
    with pytest.raises(KeyboardInterrupt, match="resumes"):
        expand(src, tmp_path / "clone", **options, progress=heard, threads=1)
    with pytest.raises(RequestError, match="another request"):
        expand(src, tmp_path / "clone", **options | {"optimizer": False})
    begun_with: dict[str, int] = {}

    def note(done: int, _: int) -> None:
        begun_with.setdefault(kept.steps[-1], done)

    kept = Heard(note)
    expand(src, tmp_path / "clone", **options, progress=kept)
    growing = kept.steps[-2]
    assert kept.done[growing] == kept.totals[growing]
    assert begun_with[growing] > kept.totals[growing] / 4  # what was written is not written again
    assert faults.contents(tmp_path / "clone") == faults.contents(tmp_path / "whole")


def flattened(run: Path, out: Path) -> Path:
    """The checkpoint of the Trainer with its optimizer in safetensors."""
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("optimizer.pt"))
    flat_optimizer.save(state_of(run), out)
    return out


def fsdp(run: Path, out: Path, parts: int = 1) -> Path:
    """The checkpoint of the Trainer with model and optimizer as FSDP writes them."""
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("optimizer.pt", "*.safetensors"))
    made = training_run.trainer(run, out, 6).create_optimizer()
    names = dict(enumerate(training_run.names(made, run)))
    distributed.save_run(load_file(run / "model.safetensors"), state_of(run), names, out, parts)
    return out


def test_parts_of_any_size_grow_to_the_same_distributed_checkpoint(run: Path, tmp_path: Path) -> None:
    clones = []
    for parts in (1, 3):
        clones.append(tmp_path / f"clone-{parts}")
        expand(fsdp(run, tmp_path / f"run-{parts}", parts), clones[-1], embed_mult=2, depth_mult=2, optimizer=True)
    one, other = map(faults.contents, clones)
    parts_of = {name for name in one if name.endswith((".metadata", ".distcp"))}
    assert {str(Path(name).parent) for name in parts_of} == {"optimizer_0", "pytorch_model_fsdp_0"}
    assert all(one[name] == other[name] for name in parts_of)
    assert "optimizer.pt" not in one
    assert parts_of <= set(json.loads(one["hyperclone.json"])["files"])


def test_damage_to_a_distributed_optimizer_is_a_refusal(run: Path, tmp_path: Path) -> None:
    src = fsdp(run, tmp_path / "run")
    for path in (src / "optimizer_0").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="damaged, or not of a distributed checkpoint"):
        expand(src, tmp_path / "clone", ffn_mult=2, optimizer=True)


def parameters(count: int = 1, **state: object) -> dict[str, Any]:
    """The state dict of an optimizer of some parameters, each with this state."""
    numbers = list(range(count))
    return {"state": {number: dict(state) for number in numbers}, "param_groups": [{"lr": 0.1, "params": numbers}]}


VECTOR, HUGE = torch.zeros(3), torch.zeros(1).expand(1 << 20, 1 << 20)


@pytest.mark.parametrize(
    "content, words",
    [
        (parameters(momentum_buffer=VECTOR), "SGD with momentum, or Muon"),
        (parameters(exp_avg=VECTOR), "Lion"),
        (parameters(step=VECTOR, exp_avg_sq_row=VECTOR, exp_avg_sq_col=VECTOR), "Adafactor"),
        (parameters(state1=VECTOR, state2=VECTOR), "8-bit optimizer of bitsandbytes"),
        (parameters(step=VECTOR, exp_avg=VECTOR, exp_avg_sq=VECTOR, mu_product=VECTOR), "NAdam"),
        (parameters(2, step=3, exp_avg=VECTOR, exp_avg_sq=VECTOR), "groups of 2 parameters are not those"),
        (parameters(exp_avg=VECTOR, exp_avg_sq=3), "not plain tensors"),
        (parameters(exp_avg=VECTOR, exp_avg_sq=VECTOR.to_sparse()), "not plain tensors"),
        (parameters(exp_avg=VECTOR, exp_avg_sq=VECTOR.to("meta")), "not plain tensors"),
        (parameters(exp_avg=VECTOR, exp_avg_sq=VECTOR.to(torch.complex64)), "not floating-point numbers"),
        (parameters(exp_avg=VECTOR, exp_avg_sq=VECTOR[:2]), "differ in shape"),
        (parameters(exp_avg=HUGE, exp_avg_sq=HUGE), "groups of 1 parameters are not those"),
        (parameters(step="3", exp_avg=VECTOR, exp_avg_sq=VECTOR), "no single number"),
        (parameters(step=VECTOR, exp_avg=VECTOR, exp_avg_sq=VECTOR), "no single number"),
        ({"state": {}, "param_groups": [{"params": [0], "lr": VECTOR}]}, "a tensor of several numbers"),
        ({"state": {}, "param_groups": [{"params": [0, 0]}]}, "not those of its groups"),
        ({"state": {}, "param_groups": [{"params": [3]}]}, "not those of its groups"),
        ({"model": {}}, "expected the state dict of a torch optimizer"),
        ([1, 2], "expected the state dict of a torch optimizer"),
        (
            {
                "state": {0: {"exp_avg": VECTOR, "exp_avg_sq": VECTOR}},
                "param_groups": [{"params": [0], "weight_decay": 0.1, "decoupled_weight_decay": False}],
            },
            "Adam with weight decay in its gradients",
        ),
        (os.system, "refused: its pickle asks for"),
        (None, "no such file, so there is no optimizer"),
    ],
)
def test_what_is_no_adamw_of_the_model_is_refused_by_name(
    content: object, words: str, source: Sources, tmp_path: Path
) -> None:
    src = models.edited(source("llama-gqa-tied"), tmp_path / "src")
    if content is not None:
        torch.save(content, src / "optimizer.pt")
    with pytest.raises(CheckpointError, match=words):
        expand(src, tmp_path / "clone", ffn_mult=2, optimizer=True)
    assert not (tmp_path / "clone").exists()


def test_a_link_out_of_the_checkpoint_is_not_followed(run: Path, source: Sources, tmp_path: Path) -> None:
    src = models.edited(source("llama-gqa-tied"), tmp_path / "src")
    (src / "optimizer.pt").symlink_to(run / "optimizer.pt")
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        expand(src, tmp_path / "clone", ffn_mult=2, optimizer=True)


@pytest.mark.parametrize(
    "name, words",
    [
        ("optimizer.pt", "--optimizer grows the optimizer"),
        ("scheduler.pt", "takes the others along"),
        ("rng_state.pth", "takes the others along"),
        ("training_args.bin", "runs code when it is read"),
        ("optimizer.bin", "copied to optimizer.pt, it is grown"),
        ("optimizer_0", "in parts (FSDP)"),
        ("optimizer_0_rank3.bin", "save it again with use_dcp"),
        ("optimizer_state.safetensors", "--optimizer grows it where there is no optimizer.pt"),
        ("optimizer.safetensors", "torch.save(optimizer.state_dict(), 'optimizer.pt')"),
        ("global_step500", "DeepSpeed's parts: zero_to_fp32.py makes a model of the weights"),
        ("iter_0000500", "Megatron's parts: Megatron Bridge makes a model of the weights"),
        ("distrib_optim.pt", "Megatron's distributed optimizer, not grown"),
    ],
)
def test_what_lies_beside_the_weights_is_named_with_what_becomes_of_it(
    name: str, words: str, source: Sources, tmp_path: Path
) -> None:
    src = models.edited(source("llama-gqa-tied"), tmp_path / "src")
    (src / name).touch()
    (note,) = [note for note in expand(src, tmp_path / "clone", ffn_mult=2).notes if "training run" in note]
    assert name in note
    assert words in note
    assert not (tmp_path / "clone" / name).exists()


def test_without_the_option_nothing_is_taken_along(run: Path, tmp_path: Path) -> None:
    expand(run, tmp_path / "clone", ffn_mult=2)
    assert not (tmp_path / "clone" / "trainer_state.json").exists()
