"""Training by the recipe: groups of rates, new coordinates that begin slowly, moments that were grown."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from generated_docs import DOCS
from hyperclone_cli import expand
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.training import load_moments, parameter_groups, read_recipe, rewarm_new
from hyperclone_cli.training.parameters import trained
from support import models, training_run

Sources = Callable[[str], Path]
TWICE: dict[str, Any] = {"embed_mult": 2, "ffn_mult": 2}
RATE, DECAY = 1e-3, 0.1


@pytest.fixture
def clone(source: Sources, tmp_path: Path) -> Path:
    expand(source("llama-gqa-tied"), tmp_path / "clone", **TWICE, strategy="symmetric")
    return tmp_path / "clone"


def step(model: Any, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    ids = models.tokens()
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def test_each_parameter_is_in_one_group_at_its_rate_and_weights_decay_as_fast_as_the_sources(clone: Path) -> None:
    model = models.load(clone)
    groups = parameter_groups(model, read_recipe(clone), RATE, DECAY)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]
    }
    assert len(found) == sum(len(group["params"]) for group in groups) == len(names)
    assert {name: rates for name, rates in found.items() if name.endswith("norm.weight")}.values()
    for name, (rate, decay) in found.items():
        is_norm, is_embedding = name.endswith("norm.weight"), "embed" in name
        assert rate == (RATE if is_norm or is_embedding else RATE / 2)
        assert rate * decay == pytest.approx(0.0 if is_norm else RATE * DECAY)


def test_at_its_rates_one_step_moves_what_a_layer_computes_as_far_as_one_of_the_source(
    clone: Path, source: Sources
) -> None:
    name = "model.layers.0.mlp.gate_proj.weight"
    moved = []
    for path in (source("llama-gqa-tied"), clone):
        model = models.load(path)
        weight = model.get_parameter(name)
        before = weight.detach().clone()
        groups = parameter_groups(model, read_recipe(clone), RATE) if path == clone else model.parameters()
        step(model, torch.optim.Adam(groups, lr=RATE))
        moved.append((weight - before).detach())
    rows, columns = moved[0].shape
    assert models.relative_error(moved[1][:rows].reshape(rows, 2, columns).sum(1), moved[0]) < 0.05


@pytest.mark.parametrize("warmed", [False, True])
def test_new_coordinates_that_begin_slowly_make_the_copies_of_a_symmetric_clone_diverge(
    warmed: bool, clone: Path
) -> None:
    model, recipe = models.load(clone), read_recipe(clone)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe, RATE, DECAY))
    before = models.logits(model)
    if warmed:
        rewarm_new(optimizer, model, recipe, steps=4)
    assert torch.equal(models.logits(model), before)
    step(model, optimizer, 6)
    for name, dimension in (("embed_tokens", 1), ("layers.0.mlp.up_proj", 0), ("layers.1.self_attn.o_proj", 1)):
        halves = model.get_parameter(f"model.{name}.weight").detach().chunk(2, dimension)
        assert (models.relative_error(*halves) > 1e-3) == warmed
        assert torch.equal(*halves) != warmed


def test_step_t_of_the_warm_up_moves_what_is_new_by_its_part_and_all_else_whole(clone: Path) -> None:
    recipe, moved = read_recipe(clone), {}
    for steps in (1, 4):
        model = models.load(clone)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        warming = rewarm_new(optimizer, model, recipe, steps)
        weight = model.get_parameter("model.layers.0.mlp.down_proj.weight")
        before = weight.detach().clone()
        step(model, optimizer)
        moved[steps] = (weight - before).detach()
        assert warming.done == 1
    rows, columns = (size // 2 for size in moved[1].shape)
    part = torch.full_like(moved[1], 0.25)
    part[:rows, :columns] = 1.0
    assert models.relative_error(moved[4], part * moved[1]) < 1e-4


def test_a_run_that_was_interrupted_goes_on_in_its_warm_up(clone: Path) -> None:
    model, recipe = models.load(clone), read_recipe(clone)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert rewarm_new(optimizer, model, recipe, steps=4, done=4).done == 4
    assert not optimizer._optimizer_step_pre_hooks
    warming = rewarm_new(optimizer, model, recipe, steps=4, done=3)
    step(model, optimizer, 2)
    assert warming.done == 4
    assert not optimizer._optimizer_step_pre_hooks


OLD: dict[str, tuple[str, dict[str, Any]]] = {
    "wider": ("llama-gqa-tied", TWICE),
    "padded": ("qwen3", {"embed_mult": 1.5, "ffn_mult": 2.5}),
    "deeper": ("qwen3", {"depth_mult": 2}),
    "larger heads": ("qwen3", {**TWICE, "head_dim_mult": 2}),
    "transposed": ("gpt2", TWICE),
    "queries, keys and values in one": ("pythia", TWICE),
    "recurrent": ("mamba2", TWICE),
    "experts that transformers fuses as it loads": ("mixtral", TWICE),
    "more of such experts": ("qwen3_moe", {**TWICE, "num_experts": 8, "experts_per_token": 4}),
    "experts that are stored as (in, out), one below the other": ("dbrx", TWICE),
    "convolutions of queries, keys and values, one tensor each": ("olmo_hybrid", TWICE),
    "stacked experts": ("qwen3_moe (fused experts)", {**TWICE, "num_experts": 8, "experts_per_token": 4}),
}


@pytest.mark.parametrize("growth", OLD)
def test_the_coordinates_that_are_not_new_are_as_many_as_those_of_the_source(
    growth: str, source: Sources, tmp_path: Path
) -> None:
    variant, asked = OLD[growth]
    expand(source(variant), tmp_path / "clone", **asked, tie_embeddings="auto")
    recipe, old = read_recipe(tmp_path / "clone"), 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in trained(models.load(tmp_path / "clone"), recipe):
            new = one.new(recipe)
            old += one.parameter.numel() if new is None else int((~new).expand(one.parameter.shape).sum())
    small = models.load(source(variant))
    assert old == sum(parameter.numel() for parameter in small.parameters())


def test_names_may_have_more_or_fewer_parts_in_front_than_the_checkpoints(clone: Path) -> None:
    model, recipe = models.load(clone), read_recipe(clone)
    plain = [one.parts[0].line for one in trained(model, recipe)]
    wrapped = [(f"module._orig_mod.{name}", parameter) for name, parameter in model.named_parameters()]
    assert [one.parts[0].line for one in trained(wrapped, recipe)] == plain
    assert [one.parts[0].line for one in trained(model.model, recipe)] == plain


def test_what_the_recipe_does_not_tell_is_named_and_a_model_of_another_size_is_refused(
    clone: Path, source: Sources
) -> None:
    recipe = read_recipe(clone)
    with pytest.warns(UserWarning, match=r"says nothing of adapter\.weight"):
        parameter_groups([("adapter.weight", torch.nn.Parameter(torch.ones(2, 2)))], recipe, RATE)
    model = models.load(source("llama-gqa-tied"))
    with pytest.raises(CheckpointError, match=r"makes dimension 1 96, found shape \[96, 48\]"):
        rewarm_new(torch.optim.SGD(model.parameters(), lr=1.0), model, recipe, steps=4)
    with pytest.raises(RequestError, match="states no rate"):
        parameter_groups(model, recipe)


def test_grown_moments_are_loaded_into_the_groups_of_the_recipe_and_first_ones_are_fresh_where_new(
    source: Sources, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    training_run.trainer(source("llama-gqa-tied"), run, 3).train()
    expand(run / "checkpoint-3", tmp_path / "clone", **TWICE, strategy="symmetric", optimizer=True)
    model, recipe = models.load(tmp_path / "clone"), read_recipe(tmp_path / "clone")
    assert recipe.moments == "exact"
    states = []
    for fresh in (False, True):
        optimizer = torch.optim.AdamW(parameter_groups(model, recipe, RATE, DECAY))
        load_moments(optimizer, model, recipe, tmp_path / "clone", fresh_where_new=fresh)
        states.append(optimizer.state[model.get_parameter("model.layers.0.mlp.up_proj.weight")])
    grown, fresh_state = states
    assert float(grown["step"]) == float(fresh_state["step"]) == 3
    assert torch.equal(grown["exp_avg_sq"], fresh_state["exp_avg_sq"])
    rows, columns = (size // 2 for size in grown["exp_avg"].shape)
    assert torch.equal(grown["exp_avg"][:rows, :columns], grown["exp_avg"][rows:, columns:])
    assert torch.equal(grown["exp_avg"][:rows, :columns], fresh_state["exp_avg"][:rows, :columns])
    assert fresh_state["exp_avg"].count_nonzero() == fresh_state["exp_avg"][:rows, :columns].count_nonzero() > 0


def test_torch_alone_is_needed() -> None:
    """Nor does the package of the command line read what the helper needs."""
    blocked = ("transformers", "huggingface_hub", "typer", "rich", "safetensors", "tokenizers", "accelerate")
    code = (
        "import sys\n"
        f"sys.modules |= dict.fromkeys({blocked!r})\n"
        "import hyperclone_cli.training\n"
        "assert 'hyperclone_cli.cli' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def examples() -> list[str]:
    """The blocks of Python in docs/training.md that use the helper."""
    section = (DOCS / "training.md").read_text().split("## The recipe beside the weights\n")[1].split("\n## ")[0]
    return [block.split("```")[0] for block in section.split("```python\n")[1:]]


@pytest.mark.parametrize("number", range(2))
def test_the_examples_of_the_documentation_run(number: int, clone: Path, tmp_path: Path) -> None:
    model = models.load(clone).train()
    data = training_run.batches(model.config.vocab_size, count=16)
    batch = {key: torch.stack([one[key] for one in data[:4]]) for key in data[0]}
    names: dict[str, Any] = {"model": model, "clone": clone, "data": data, "batches": [batch] * 20, "out": tmp_path}
    with torch.no_grad():
        before = float(model(**batch).loss)
    exec(compile(examples()[number], "training.md", "exec"), names)  # the page is ours
    model.eval()
    with torch.no_grad():
        after = float(model(**batch).loss)
    assert math.isfinite(after)
    assert after < before
    halves = model.get_parameter("model.layers.0.mlp.up_proj.weight").detach().chunk(2, 0)
    assert not torch.equal(*halves)
