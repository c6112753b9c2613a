"""Numbers of heads that are asked for, and those that an architecture cannot have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperclone_cli import plan
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support.growth_table import GROWTHS

Sources = Callable[[str], Path]


def test_key_value_heads_of_diffllama_stay_in_two_halves(source: Sources) -> None:
    assert plan(source("diffllama"), embed_mult=2).config["num_key_value_heads"] == 8
    with pytest.raises(RequestError, match="the number of key/value heads is even"):
        plan(source("diffllama-gqa-tied"), embed_mult=1.75, num_heads=14, num_kv_heads=7)


@pytest.mark.parametrize("variant", ["gpt_bigcode-mqa", "falcon-7b"])
def test_a_single_key_value_head_stays_single(variant: str, source: Sources, tmp_path: Path) -> None:
    before, after = make_plan(open_source(source(variant)), GROWTHS["twice"]).kv_cache_bytes()
    assert before == after
    with pytest.raises(RequestError, match="the number of key/value heads is fixed"):
        expand(source(variant), tmp_path / "clone", Request(embed_mult=2, num_kv_heads=2))


@pytest.mark.parametrize("variant", ["phi-gqa-tied-qk-norms", "phi3-longrope"])
def test_heads_and_width_grow_together_where_something_is_sized_by_the_width(variant: str, source: Sources) -> None:
    with pytest.raises(RequestError, match="hidden_size is heads × head size"):
        make_plan(open_source(source(variant)), Request(embed_mult=2, num_heads=4))
    with pytest.raises(RequestError, match="hidden_size is heads × head size"):
        make_plan(open_source(source(variant)), Request(embed_mult=1.125))


@pytest.mark.parametrize("option", ["num_heads", "heads_mult", "num_kv_heads", "kv_heads_mult", "head_dim_mult"])
def test_heads_are_refused_where_there_are_none(option: str, source: Sources) -> None:
    with pytest.raises(RequestError, match=f"--{option.replace('_', '-')} 2: mamba has no attention heads"):
        make_plan(open_source(source("mamba")), Request(**{option: 2}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "variant, request_",
    [
        ("llama-mqa", Request(embed_mult=2, kv_heads_mult=2)),
        ("llama-gqa-tied", Request(embed_mult=2, kv_heads_mult=1)),
        ("llama-gqa-tied", Request(embed_mult=2, heads_mult=1)),
        ("qwen3", Request(heads_mult=3, kv_heads_mult=1)),
        ("olmo2", Request(embed_mult=2, heads_mult=4, kv_heads_mult=2)),
        ("gemma3-mqa", Request(embed_mult=2, heads_mult=1)),
        ("mistral", Request(embed_mult=3, heads_mult=1, ffn_mult=2)),
    ],
)
def test_heads_may_grow_apart_from_the_width(variant: str, request_: Request, source: Sources, tmp_path: Path) -> None:
    expand(source(variant), tmp_path / "clone", request_)
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.logits is not None
    assert report.logits.relative_error <= 1e-5
