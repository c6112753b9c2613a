"""--target-params: the shape whose number of parameters is the closest, or a refusal."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from hyperclone_cli import plan
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models

Sources = Callable[[str], Path]


@pytest.mark.parametrize("variant, target", [("llama-gqa-tied", "1M"), ("gemma3-gqa", 600_000), ("pythia", "0.9M")])
def test_a_number_of_parameters_leads_to_the_closest_shape(
    variant: str, target: int | str, wide_source: Sources, tmp_path: Path
) -> None:
    request = Request(target_params=target, multiple_of=8)
    plan = expand(wide_source(variant), tmp_path / "clone", request)
    wanted = request.target_params
    assert isinstance(wanted, int)
    assert abs(models.load(tmp_path / "clone").num_parameters() / wanted - 1) <= 0.02
    assert plan.growths["embed"].target % 32 == 0
    assert plan.growths["ffn"].target % 8 == 0
    assert plan.request.target_params is None  # the record is of the sizes, which make the same clone again
    assert plan.notes[0].startswith(f"--target-params {wanted:,}: hidden_size {plan.growths['embed'].target}")
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


def test_a_step_of_the_width_may_add_no_parameter(source: Sources) -> None:
    """All layers are experts, half as wide as a feed-forward layer: one unit of its width is none of theirs."""
    made = plan(source("qwen3_moe-tied"), Request(target_params="0.4M", multiple_of=1))
    assert abs(made.parameters()[1].total() / 400_000 - 1) <= 0.02


def test_a_tied_head_that_is_stored_twice_is_not_read_for_every_shape_that_is_tried(
    wide_source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = Path(shutil.copytree(wide_source("llama-gqa-tied"), tmp_path / "src"))
    tensors = load_file(src / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    compared: list[str] = []
    same_bytes = Source.same_bytes

    def counted(self: Source, one: str, other: str) -> bool:
        compared.append(one)
        return same_bytes(self, one, other)

    monkeypatch.setattr(Source, "same_bytes", counted)
    plan = make_plan(open_source(src), Request(target_params="1M", multiple_of=8))
    assert set(plan.dropped) == {"lm_head.weight"}
    assert len(compared) == 2  # for the source as it is, and for the shape that was chosen


@pytest.mark.parametrize("variant, target", [("opt-350m", "600k"), ("olmo", "600k"), ("openai-gpt", "300k")])
def test_a_number_of_parameters_leads_to_a_shape_that_the_architecture_can_have(
    variant: str, target: str, tmp_path: Path
) -> None:
    """These cannot be padded, or state no feed-forward width of their own."""
    src = models.build(variant, tmp_path / "src")
    plan = make_plan(open_source(src), Request(target_params=target, multiple_of=8))
    growth = plan.growths["embed"]
    assert growth.target > growth.source
    assert not growth.padding


@pytest.mark.parametrize(
    "request_, reason, hint",
    [
        (Request(target_params="10k"), "the smallest shape has", "At least"),
        (Request(target_params="10k", head_dim_mult=2), "the smallest shape has", "At least"),
        (Request(target_params="900T"), "more than any shape", "At most"),
        (Request(target_params="1M", num_heads=7, num_kv_heads=2), "no shape of this architecture", ""),
    ],
)
def test_a_number_of_parameters_that_no_shape_has_is_refused(
    request_: Request, reason: str, hint: str, wide_source: Sources
) -> None:
    with pytest.raises(RequestError, match=reason) as refusal:
        make_plan(open_source(wide_source("llama-gqa-tied")), request_)
    assert refusal.value.hint.startswith(hint)


@pytest.mark.parametrize("variant", ["gpt2", "gptj", "falcon-40b", "phi3"])
def test_parameters_of_fused_and_transposed_tensors_are_counted_too(
    variant: str, source: Sources, tmp_path: Path
) -> None:
    expand(source(variant), tmp_path / "clone", Request(target_params="600K", multiple_of=8))
    assert abs(models.load(tmp_path / "clone").num_parameters() / 600_000 - 1) <= 0.05
    report = verify(tmp_path / "clone", weights_only=True)
    assert report.passed, report.failures


def test_a_number_of_parameters_leads_to_a_mixture_of_that_size(source: Sources, tmp_path: Path) -> None:
    made = expand(source("qwen3_moe"), tmp_path / "clone", Request(target_params=400_000, multiple_of=8))
    assert abs(made.parameters()[1].total() / 400_000 - 1) <= 0.02


def test_the_shape_that_a_number_of_parameters_leads_to_is_named_wherever_the_config_states_it(source: Sources) -> None:
    note = plan(source("dbrx"), target_params=400_000).notes[0]
    assert "d_model 108, ffn_config.ffn_hidden_size 128" in note


def test_a_number_of_parameters_leads_to_whole_multiples_under_a_threshold(source: Sources) -> None:
    made = plan(source("gemma3n-sparse"), target_params="300K")
    assert made.config["intermediate_size"] in ([width] * 4 for width in (80, 160, 240, 320))
    assert made.config["hidden_size"] > 48


@pytest.mark.parametrize("variant, layers", [("llama-gqa-tied", 4), ("jamba", 8), ("openai-gpt", 2)])
def test_the_aspect_of_a_shape_is_kept_where_the_architecture_can_have_the_layers(
    variant: str, layers: int, tmp_path: Path
) -> None:
    """Eight times the parameters are twice the width and twice the depth, in whole periods, or no depth at all."""
    config: dict[str, Any] = {"num_hidden_layers": 4} if variant == "jamba" else {}
    src = models.build(variant, tmp_path / "src", **config)
    before = make_plan(open_source(src), Request()).parameters()[0]
    target = before["embedding"] * 2 + (before.total() - before["embedding"]) * 8
    made = make_plan(open_source(src), Request(target_params=target, multiple_of=8, aspect="keep"))
    assert len(made.order) == layers
    assert made.request.aspect == "wide"  # the record is of the sizes
    assert abs(made.parameters()[1].total() / target - 1) <= 0.15


def test_an_aspect_is_kept_by_nothing_but_a_number_of_parameters() -> None:
    options: dict[str, Any]
    for options in ({"aspect": "keep"}, {"aspect": "keep", "target_params": "1M", "depth_mult": 2}):
        with pytest.raises(RequestError, match="--aspect keep chooses"):
            Request(**options)
