"""Recurrent layers: the numbers that would follow a width, and configs that contradict themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperclone_cli import plan
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models

Sources = Callable[[str], Path]


def doubled(src: Path, out: Path) -> dict[str, Any]:
    """The config of a clone twice as wide, which is verified to be the same function."""
    made = expand(src, out, Request(embed_mult=2, ffn_mult=2))
    report = verify(out)
    assert report.passed, report.failures
    return dict(made.config)


@pytest.mark.parametrize("rank", ["auto", None])
@pytest.mark.parametrize("variant, key", [("mamba", "time_step_rank"), ("jamba", "mamba_dt_rank")])
def test_a_rank_that_would_follow_the_width_is_written_out(
    variant: str, key: str, rank: str | None, source: Sources, tmp_path: Path
) -> None:
    config: dict[str, Any] = {key: rank}
    src = models.edited(source(variant), tmp_path / "src", **config)
    assert doubled(src, tmp_path / "clone")[key] == 3


def test_a_head_size_that_would_follow_the_width_is_written_out(source: Sources, tmp_path: Path) -> None:
    src = models.edited(source("bamba"), tmp_path / "src", mamba_d_head="auto")
    config = doubled(src, tmp_path / "clone")
    assert (config["mamba_d_head"], config["mamba_n_heads"], config["mamba_n_groups"]) == (12, 16, 2)


def test_a_width_that_transformers_adjusts_is_stated_as_it_is(source: Sources, tmp_path: Path) -> None:
    """LFM2 takes two thirds of what its config states, rounded up, unless told not to: 80 is 64 units."""
    config = doubled(source("lfm2-adjusted-untied"), tmp_path / "clone")
    assert (config["intermediate_size"], config["block_auto_adjust_ff_dim"]) == (128, False)


def test_the_keys_that_lfm2_has_on_the_hub_are_read_and_kept(source: Sources, tmp_path: Path) -> None:
    hub: dict[str, Any] = {"block_dim": 48, "block_ff_dim": 80, "conv_dim": 48, "num_heads": 4, "tie_embedding": True}
    src = models.edited(source("lfm2"), tmp_path / "src", **hub, intermediate_size=None, tie_word_embeddings=None)
    config = doubled(src, tmp_path / "clone")
    assert {key: config[key] for key in hub} == {
        "block_dim": 96,
        "block_ff_dim": 160,
        "conv_dim": 96,
        "num_heads": 8,
        "tie_embedding": True,
    }
    assert (
        expand(src, tmp_path / "untied", Request(embed_mult=2, tie_embeddings="untie")).config["tie_embedding"] is False
    )


def test_the_width_of_a_mamba_block_grows_alone(source: Sources, tmp_path: Path) -> None:
    made = expand(source("mamba"), tmp_path / "clone", Request(ffn_mult=1.5))
    assert (made.config["hidden_size"], made.config["intermediate_size"], made.config["expand"]) == (48, 144, 2)
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


@pytest.mark.parametrize(
    "variant, config, words",
    [
        ("mamba2", {"head_dim": 10}, "expand × hidden_size"),
        ("bamba", {"mamba_n_groups": 3}, "mamba_n_heads 8 is not a multiple of mamba_n_groups 3"),
        ("jamba", {"mamba_expand": 0}, "mamba_expand should be a number above 0"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(
    variant: str, config: dict[str, Any], words: str, source: Sources, tmp_path: Path
) -> None:
    src = models.edited(source(variant), tmp_path / "src", **config)
    with pytest.raises(CheckpointError, match=words):
        plan(src, embed_mult=2)
