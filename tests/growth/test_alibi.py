"""ALiBi: the slope of a head depends on how many heads there are, so that it decides where heads may go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.falcon.modeling_falcon import build_alibi_tensor

from hyperclone_cli import plan
from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.positions import at_their_slopes, slopes
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.inspection.inspector import inspect
from hyperclone_cli.planning.symmetry import advice
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand

Sources = Callable[[str], Path]


def slopes_of_transformers(heads: int) -> torch.Tensor:
    """(heads), in bfloat16, as stock transformers multiplies positions by them."""
    biases: torch.Tensor = build_alibi_tensor(torch.ones(1, 2), heads, torch.bfloat16)
    return biases[:, 0, 1]


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 12, 16, 28, 32, 71, 112, 128])
def test_slopes_are_those_of_transformers(heads: int) -> None:
    powers = torch.tensor([0.5 ** float(slope) for slope in slopes(heads)])
    assert torch.allclose(powers.bfloat16().float(), slopes_of_transformers(heads).float(), rtol=2**-7, atol=0)


@pytest.mark.parametrize("size", range(1, 34))
def test_every_head_keeps_its_slope_whatever_it_grows_to(size: int) -> None:
    before = slopes_of_transformers(size)
    for target in range(size, 4 * size + 3):
        growth = at_their_slopes(size, target)
        assert growth.target == target
        units = [(unit, run.silent) for run in growth.runs for unit in range(run.start, run.start + run.length)]
        assert sorted(unit for unit, silent in units if not silent) == list(range(size))
        after = slopes_of_transformers(target)
        assert all(after[place] == before[unit] for place, (unit, silent) in enumerate(units) if not silent)


@pytest.fixture
def falcon_rw(source: Callable[[str], Path]) -> Path:
    return source("falcon-rw")


def test_silent_heads_are_copies_that_nobody_reads(falcon_rw: Path, tmp_path: Path) -> None:
    plan = expand(falcon_rw, tmp_path / "clone", Request(embed_mult=2, ffn_mult=2, mixing=Mixing("symmetric")))
    before, after = (load_file(path / "model.safetensors") for path in (falcon_rw, tmp_path / "clone"))
    layer = "transformer.h.0.self_attention."
    heads = after[layer + "query_key_value.weight"][:, :48].reshape(8, 36, 48) * 2
    read = after[layer + "dense.weight"][:48].reshape(48, 8, 12)
    # 4 heads have the slopes 2⁻², 2⁻⁴, 2⁻⁶, 2⁻⁸; 8 heads have 2⁻¹, 2⁻², …, 2⁻⁸
    for place, (unit, silent) in enumerate(
        [(0, True), (0, False), (2, True), (1, False), (0, True), (2, False), (2, True), (3, False)]
    ):
        assert torch.equal(heads[place], before[layer + "query_key_value.weight"].reshape(4, 36, 48)[unit])
        expected = before[layer + "dense.weight"].reshape(48, 4, 12)[:, unit]
        assert torch.equal(read[:, place], torch.zeros_like(expected) if silent else expected)
    assert plan.notes == (
        "4 of 8 heads are silent until training reads them: ALiBi gives each head a slope of its own,"
        " and 4 of these are the source's.",
    )


def test_copies_but_those_of_heads_get_equal_gradients(falcon_rw: Path, tmp_path: Path) -> None:
    plan = expand(falcon_rw, tmp_path / "alike", Request(embed_mult=2, ffn_mult=2, mixing=Mixing("symmetric")))
    assert advice(plan).startswith("All copies except those of heads get equal gradients")
    plan = expand(
        falcon_rw, tmp_path / "noisy", Request(embed_mult=2, ffn_mult=2, mixing=Mixing("uneven", noise_snr_db=10))
    )
    assert not advice(plan)
    found = inspect(tmp_path / "alike", gradients=True).gradients
    assert found is not None
    assert found.largest_difference is not None
    assert found.largest_difference > 0.5


@pytest.mark.parametrize("request_", [Request(embed_mult=3), Request(embed_mult=1.25, tie_embeddings="untie")])
def test_clones_with_alibi_pass_verification(request_: Request, falcon_rw: Path, tmp_path: Path) -> None:
    expand(falcon_rw, tmp_path / "clone", request_)
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


@pytest.mark.parametrize("variant, heads", [("bloom", "n_head"), ("mpt", "n_heads")])
def test_alibi_keeps_the_number_of_heads(variant: str, heads: str, source: Sources) -> None:
    made = plan(source(variant), embed_mult=3, ffn_mult=3)
    assert made.config[heads] == 4
    before, after = made.kv_cache_bytes()
    assert after == 3 * before
    with pytest.raises(RequestError, match="heads grow in size alone"):
        plan(source(variant), embed_mult=2, ffn_mult=2, num_heads=8)
    larger = plan(source(variant), target_params="1M")
    assert larger.config[heads] == 4
    assert larger.growths["embed"].target % larger.growths["embed"].source == 0


@pytest.mark.parametrize("variant, scale", [("mpt", 12**-0.5), ("mpt-scaled", 0.4)])
def test_larger_heads_divide_the_scale_of_scores_in_the_config(variant: str, scale: float, source: Sources) -> None:
    made = plan(source(variant), embed_mult=4, ffn_mult=4)
    assert made.config["attn_config"]["softmax_scale"] == scale / 4
    assert made.rounded() == []
