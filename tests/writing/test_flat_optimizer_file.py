"""An optimizer in safetensors, its groups in JSON beside it, comes back as that, and torch goes on from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from hyperclone_cli import expand, verify
from hyperclone_cli.errors import CheckpointError
from support import models
from support.flat_optimizer import GROUPS, STATE, load, save

Sources = Callable[[str], Path]
BESIDE = ("scheduler_state.json", "training_step.json", "rng_state.safetensors")


def optimizer_of(model: Any, **options: Any) -> torch.optim.AdamW:
    """AdamW with matrices in one group, and vectors, which do not decay, in another."""
    matrices = [one for one in model.parameters() if one.dim() >= 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": [one for one in model.parameters() if one.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, **options)


def step(model: Any, optimizer: torch.optim.Optimizer, seed: int) -> None:
    ids = torch.randint(0, model.config.vocab_size, (4, 12), generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def trained(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Write the model at `source` to `out` after two steps; returns the state of its optimizer."""
    model = models.load(source)
    optimizer = optimizer_of(model, lr=1e-3, weight_decay=0.1, **options)
    for seed in (1, 2):
        step(model, optimizer, seed)
    model.save_pretrained(out)
    return optimizer.state_dict()


@pytest.mark.parametrize(
    "variant, growth",
    [
        ("llama-gqa-tied", {"embed_mult": 2, "ffn_mult": 2}),
        ("llama-gqa-tied", {"embed_mult": 1.5, "heads_mult": 1, "depth_mult": 2, "tie_embeddings": "untie"}),
        ("mixtral", {"embed_mult": 2, "num_experts": 8, "experts_per_token": 4}),
        ("opt-350m", {"ffn_mult": 2, "strategy": "symmetric"}),
    ],
)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_torch_loads_it_and_makes_the_step_that_it_makes_from_optimizer_pt(
    variant: str, growth: dict[str, Any], amsgrad: bool, source: Sources, tmp_path: Path
) -> None:
    stepped = []
    for form in ("optimizer.pt", STATE):
        src, clone = tmp_path / form / "src", tmp_path / form / "clone"
        state = trained(source(variant), src, amsgrad=amsgrad)
        if form == STATE:
            save(state, src)
        else:
            torch.save(state, src / form)
        expand(src, clone, optimizer=True, **growth)
        assert {path.name for path in clone.glob("*optimizer*")} == ({form} if form != STATE else {STATE, GROUPS})
        model = models.load(clone)
        optimizer = optimizer_of(model, amsgrad=amsgrad)
        optimizer.load_state_dict(load(clone) if form == STATE else torch.load(clone / form, weights_only=True))
        step(model, optimizer, 3)
        stepped.append((model.state_dict(), optimizer.state_dict()))
    (one, one_state), (other, other_state) = stepped
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one_state["state"].keys() == other_state["state"].keys()
    assert [group["params"] for group in one_state["param_groups"]] == [
        group["params"] for group in other_state["param_groups"]
    ]


def test_what_lies_beside_it_is_carried_over_and_loaders_do_not_take_it_for_weights(
    source: Sources, tmp_path: Path
) -> None:
    src, clone = tmp_path / "src", tmp_path / "clone"
    save(trained(source("llama-gqa-tied"), src), src)
    for name in BESIDE:
        (src / name).write_bytes(name.encode())
    expand(src, clone, embed_mult=2, optimizer=True)
    assert all((clone / name).read_bytes() == name.encode() for name in BESIDE)
    assert verify(clone).passed
    (note,) = [note for note in expand(src, tmp_path / "other", embed_mult=2).notes if "training run" in note]
    assert all(name in note for name in (STATE, *BESIDE))
    assert {path.name for path in (tmp_path / "other").glob("*optimizer*")} == set()


VECTOR = torch.zeros(3)
GROUP = [{"lr": 0.1, "params": [0]}]


@pytest.mark.parametrize(
    "tensors, groups, words",
    [
        ({"layers.0.m": VECTOR}, GROUP, "tensors named state/NUMBER/KEY, this has 'layers.0.m'"),
        ({"state/model.norm.weight/exp_avg": VECTOR}, GROUP, "this has 'state/model"),
        ({"state/00/exp_avg": VECTOR}, GROUP, "this has 'state/00/exp_avg'"),
        ({"state/0/momentum_buffer": VECTOR}, GROUP, "SGD with momentum, or Muon"),
        ({"state/0/exp_avg": VECTOR, "state/0/exp_avg_sq": VECTOR[:2]}, GROUP, "differ in shape"),
        ({"state/0/exp_avg": VECTOR.int(), "state/0/exp_avg_sq": VECTOR}, GROUP, "not floating-point numbers"),
        (
            {"state/0/step": VECTOR, "state/0/exp_avg": VECTOR, "state/0/exp_avg_sq": VECTOR},
            GROUP,
            "steps of a parameter are no single number",
        ),
        ({"state/1/exp_avg": VECTOR, "state/1/exp_avg_sq": VECTOR}, GROUP, "not those of its groups"),
        ({"state/0/exp_avg": VECTOR, "state/0/exp_avg_sq": VECTOR}, GROUP, "groups of 1 parameters are not those"),
        ({"state/0/exp_avg": VECTOR, "state/0/exp_avg_sq": VECTOR}, {"params": [0]}, "its groups in optimizer_param"),
        ({"state/0/exp_avg": VECTOR, "state/0/exp_avg_sq": VECTOR}, [{"lr": 1}], "its groups in optimizer_param"),
        ({"state/0/exp_avg": VECTOR, "state/0/exp_avg_sq": VECTOR}, None, "optimizer_param_groups.json: expected a"),
    ],
)
def test_what_is_no_flattened_adamw_of_the_model_is_refused_by_name(
    tensors: dict[str, torch.Tensor], groups: object, words: str, source: Sources, tmp_path: Path
) -> None:
    src = models.edited(source("llama-gqa-tied"), tmp_path / "src")
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, src / STATE)
    if groups is not None:
        (src / GROUPS).write_text(json.dumps(groups))
    with pytest.raises(CheckpointError, match=words):
        expand(src, tmp_path / "clone", ffn_mult=2, optimizer=True)
    assert not (tmp_path / "clone").exists()
