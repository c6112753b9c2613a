"""How similar experts are that began as copies of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperclone_cli import expand
from hyperclone_cli.inspection.inspector import inspect
from support.command_line import hyperclone

Sources = Callable[[str], Path]


@pytest.mark.parametrize(
    "variant, asked, copies, least, most",
    [
        ("llama-gqa-tied", {"num_experts": 8, "experts_per_token": 2}, 8, 1, 1),
        ("granite", {"num_experts": 16, "experts_per_token": 4, "expert_granularity": 4}, 4, 1, 1),
        # half of the units drawn anew: of two experts, a quarter of the units are the same in both
        ("llama-gqa-tied", {"num_experts": 8, "experts_per_token": 2, "expert_drop": 0.5}, 8, 0.1, 0.4),
        ("granite", {"num_experts": 4, "experts_per_token": 2, "expert_noise_snr_db": 20}, 4, 0.98, 0.995),
        ("mixtral", {"num_experts": 8, "experts_per_token": 4}, 2, 1, 1),
        ("gpt_oss", {"num_experts": 8, "experts_per_token": 4, "noise_snr_db": 10}, 2, 0.9, 0.99),
    ],
)
def test_copies_are_told_from_experts_that_differ(
    variant: str, asked: dict[str, Any], copies: int, least: float, most: float, source: Sources, tmp_path: Path
) -> None:
    expand(source(variant), tmp_path / "clone", **asked)
    found = inspect(tmp_path / "clone")
    assert [one.layer for one in found.experts] == [0, 1]
    assert {one.copies for one in found.experts} == {copies}
    assert all(least - 1e-6 <= one.cosine <= most + 1e-6 for one in found.experts), found.experts
    assert not found.notes


def test_the_table_of_experts(source: Sources, tmp_path: Path) -> None:
    expand(source("qwen2"), tmp_path / "clone", num_experts=4, experts_per_token=1)
    shown = hyperclone("inspect", tmp_path / "clone").stdout
    assert "experts that were copies of one" in shown
    assert shown.count("1.000") == 2
