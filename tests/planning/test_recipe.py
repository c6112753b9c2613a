"""recipe.json: at which rate each kind of tensor is trained, and which of its coordinates are copies or new."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperclone_cli import expand, plan, verify
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.growth.recipe import Recipe, TensorLine, parts_of
from hyperclone_cli.growth.widths import grow_axes, units_of
from hyperclone_cli.planning.recipe import recipe_of
from support import models

Sources = Callable[[str], Path]
TWICE: dict[str, Any] = {"embed_mult": 2, "ffn_mult": 2}
GROWTHS: dict[str, tuple[str, dict[str, Any]]] = {
    "wider": ("llama-gqa-tied", TWICE),
    "padded": ("llama-gqa-tied", {"embed_mult": 1.5, "ffn_mult": 2.5}),
    "larger heads": ("qwen3", {**TWICE, "head_dim_mult": 2}),
    "deeper": ("llama-gqa-tied", {"depth_mult": 2, "depth_order": "top"}),
    "transposed": ("gpt2", TWICE),
    "queries, keys and values in one": ("falcon-7b", TWICE),
    "layers that differ": ("gemma4", TWICE),
    "more experts": ("qwen3_moe", {**TWICE, "num_experts": 8, "experts_per_token": 4}),
    "noisy experts": ("qwen3_moe", {"num_experts": 8, "experts_per_token": 4, "noise_snr_db": 20}),
    "stacked experts": ("qwen3_moe (fused experts)", TWICE),
    "a dense model as a mixture": ("qwen3", {"num_experts": 4, "experts_per_token": 2}),
    "recurrent": ("mamba2", TWICE),
    "modules that are counted": ("rwkv", TWICE),
}


def lines_of(recipe: Recipe, name: str) -> list[TensorLine]:
    return [line for line in recipe.tensors if line.numbers_in(name) is not None]


@pytest.mark.parametrize("name", GROWTHS)
def test_each_tensor_has_one_line_whose_widths_are_those_that_it_grows_by(name: str, source: Sources) -> None:
    variant, growth = GROWTHS[name]
    made = plan(source(variant), **growth)
    recipe = recipe_of(made)
    assert Recipe.of(json.loads(recipe.as_text())).as_text() == recipe.as_text()
    targets = {width: one.target for width, one in recipe.widths.items()}
    for tensor in made.tensors:
        (line,) = lines_of(recipe, tensor.name)
        assert line.new == (not tensor.source.originals)
        if line.new or "noise_snr_db" in growth:
            continue
        for packed, grown in zip(line.dimensions, tensor.growths, strict=True):
            if packed != "*":
                runs = grow_axes(parts_of(packed), recipe.widths).runs
                units = [(run.start, run.length, run.copy, run.is_padding) for run in runs]
                assert units == [(run.start, run.length, run.copy, run.is_padding) for run in grown.runs], line
                assert units_of(parts_of(packed), targets) == grown.target


RATES: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {
    "what reads a width, by 1/width": (
        "llama-gqa-tied",
        {"embed_mult": 3, "ffn_mult": 2},
        {"up_proj": 1 / 3, "q_proj": 1 / 3, "down_proj": 1 / 2, "o_proj": 1 / 3, "embed_tokens": 1, "norm": 1},
    ),
    "padding counts": ("llama-mha", {"embed_mult": 1.5}, {"up_proj": 2 / 3, "down_proj": 1, "lm_head": 2 / 3}),
    "depth alone changes none": ("llama-mha", {"depth_mult": 2}, {"up_proj": 1, "lm_head": 1}),
    "an embedding that is multiplied by the root of the width": ("gemma-gqa", TWICE, {"embed_tokens": math.sqrt(0.5)}),
}


@pytest.mark.parametrize("name", RATES)
def test_rates_are_those_at_which_a_step_moves_a_layer_as_far_as_one_of_the_source_did(
    name: str, source: Sources
) -> None:
    variant, growth, rates = RATES[name]
    lines = recipe_of(plan(source(variant), **growth)).tensors
    found = {part: [*{line.rate for line in lines if line.name.endswith(f"{part}.weight")}] for part in rates}
    assert found == {part: [pytest.approx(rate)] for part, rate in rates.items()}
    assert not any(line.decays for line in lines if line.name.endswith(("norm.weight", "bias")))


@pytest.mark.parametrize(
    ("variant", "more", "growth"),
    [
        ("llama-gqa-tied", {"num_hidden_layers": 6}, TWICE),
        ("qwen3_moe", {"num_experts": 16, "num_hidden_layers": 3}, {**TWICE, "num_experts": None}),
    ],
)
def test_the_file_does_not_grow_with_layers_and_experts(
    variant: str, more: dict[str, Any], growth: dict[str, Any], source: Sources, tmp_path: Path
) -> None:
    small = recipe_of(plan(source(variant), **growth)).as_text()
    large = recipe_of(plan(models.build(variant, tmp_path / "large", **more), **growth)).as_text()
    assert large.count("\n") == small.count("\n")
    assert len(large) < 1.1 * len(small)


def test_a_clone_carries_the_recipe_of_its_last_growth(source: Sources, tmp_path: Path) -> None:
    expand(source("qwen3"), tmp_path / "wider", **TWICE, source_lr=4e-3)
    made = expand(tmp_path / "wider", tmp_path / "deeper", depth_mult=2)
    report = verify(tmp_path / "deeper")
    assert report.passed
    assert not [note for note in report.notes if "recipe" in note]
    texts = [(tmp_path / name / "recipe.json").read_text() for name in ("wider", "deeper")]
    wider, deeper = (Recipe.of(json.loads(text)) for text in texts)
    assert texts[1] == recipe_of(made).as_text()
    assert (wider.source_rate, wider.widths["embed"].grows, wider.new_layers()) == (4e-3, True, frozenset())
    assert (deeper.source_rate, deeper.widths["embed"].grows, deeper.new_layers()) == (None, False, frozenset({1, 3}))
    assert "peak rates (0.002 for" in (tmp_path / "wider" / "README.md").read_text()


DAMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "another schema": ({"schema_version": 2}, "schema_version 1, found 2"),
    "no widths": ({"widths": None}, "damaged"),
    "a run of no length": ({"widths": {"layers": {"source": 2, "runs": [[0, "2", 0]]}}}, "is no run of units"),
    "a negative run": ({"widths": {"layers": {"source": 2, "runs": [[0, -2, 0]]}}}, "is no run of units"),
    "a width that is not there": ({"tensors": [{"name": "a", "dimensions": ["embed fnord"]}]}, "'fnord' is no width"),
    "an unknown field": ({"tensors": [{"name": "a", "colour": "red"}]}, "colour"),
    "a rate that is no number": ({"tensors": [{"name": "a", "rate": "high"}]}, "damaged"),
    "a rate below zero": ({"tensors": [{"name": "a", "rate": -1}]}, "should be from 0"),
    "a rate that is NaN": ({"warm_up": math.nan}, "should be from 0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_recipe_is_refused(damage: str, source: Sources) -> None:
    change, words = DAMAGES[damage]
    stated = json.loads(recipe_of(plan(source("qwen3"), **TWICE)).as_text()) | change
    with pytest.raises(CheckpointError, match=words):
        Recipe.of(stated, "clone/recipe.json")
