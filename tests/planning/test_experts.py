"""Experts whose rows are not aligned: `plan` says so, `verify` runs them, and the width that is named needs no note."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperclone_cli import expand, plan, verify
from support import models
from support.models import VARIANTS, experts

MIXTURES = [
    *(name for name in experts.SEPARATE if not name.startswith("olmoe")),
    *("granitemoe", "granitemoeshared", "gpt_oss", "jamba", "gemma4-untied-experts", "qwen3_next"),
]
"""One unit wider is no width for OLMoE, whose norm spans all heads."""
WORDS = 'experts_implementation="eager"'


def widened(variant: str) -> dict[str, Any]:
    """Keywords that give an expert a width of no multiple of 8."""
    own = "moe_intermediate_size" in VARIANTS[variant].config
    return {"moe_ffn_mult": 1.025} if own else {"intermediate_size": 82}


@pytest.mark.parametrize("variant", MIXTURES)
def test_the_width_that_is_named_has_aligned_rows(variant: str, source: Callable[[str], Path]) -> None:
    asked = widened(variant)
    found = plan(source(variant), dtype="bfloat16", **asked)
    note = next(note for note in found.notes if WORDS in note)
    words = shlex.split(re.search(r"or use (--.*)\.$", note)[1])  # type: ignore[index]
    named: dict[str, Any] = {words[0].removeprefix("--").replace("-", "_"): float(words[1])}
    named = {key: int(number) if number.is_integer() else number for key, number in named.items()}
    assert named.keys() == asked.keys()
    assert not any(WORDS in note for note in plan(source(variant), dtype="bfloat16", **named).notes)


@pytest.mark.parametrize("variant", ["mixtral", "qwen3_moe (fused experts)", "gpt_oss", "granitemoe"])
def test_transformers_stops_where_the_note_says(variant: str, source: Callable[[str], Path], tmp_path: Path) -> None:
    grown = expand(source(variant), tmp_path / "clone", **widened(variant))
    assert any(WORDS in note for note in grown.notes)
    with pytest.raises(RuntimeError, match="multiple of 16 bytes"):
        models.logits(models.load(tmp_path / "clone"))
    report = verify(tmp_path / "clone", new_tokens=2)
    assert report.passed, report.failures
    assert any(WORDS in note for note in report.notes)


@pytest.mark.parametrize("variant", ["mixtral", "gpt_oss", "dbrx", "llama-mha"])
def test_aligned_rows_need_no_note(variant: str, source: Callable[[str], Path], tmp_path: Path) -> None:
    assert not any(WORDS in note for note in expand(source(variant), tmp_path / "clone", embed_mult=2).notes)
    assert not any(WORDS in note for note in verify(tmp_path / "clone", new_tokens=1).notes)


def test_a_width_that_16_bits_leave_unaligned_is_run_in_float32(source: Callable[[str], Path]) -> None:
    assert any(WORDS in note for note in plan(source("mixtral"), intermediate_size=84, dtype="bfloat16").notes)
    assert not any(WORDS in note for note in plan(source("mixtral"), intermediate_size=84).notes)
