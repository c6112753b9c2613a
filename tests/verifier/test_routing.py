"""Which experts a verification sees chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperclone_cli import expand, verify
from hyperclone_cli.verifier import html_report
from support.command_line import hyperclone

Sources = Callable[[str], Path]


def test_a_verification_counts_the_tokens_of_each_expert(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-gqa-tied"), tmp_path / "clone", num_experts=8, experts_per_token=2)
    report = verify(tmp_path / "clone", new_tokens=1)
    assert report.passed
    assert report.logits is not None
    assert [layer for layer, _ in report.routing] == ["layer 0", "layer 1"]
    assert {sum(counts) for _, counts in report.routing} == {2 * report.logits.tokens}
    assert {len(counts) for _, counts in report.routing} == {8}
    page = html_report.render(report)
    assert page.count('<span class="histogram">') == 2
    assert "12.5% of the choices if all were even" in page
    shown = hyperclone("verify", tmp_path / "clone", "--new-tokens", "1").stdout
    assert "12.5% if even" in shown


def test_parts_of_one_feed_forward_have_the_same_tokens(source: Sources, tmp_path: Path) -> None:
    asked = {"num_experts": 16, "experts_per_token": 4, "expert_granularity": 4}
    expand(source("granite"), tmp_path / "clone", **asked)  # type: ignore[arg-type]
    for _, counts in verify(tmp_path / "clone", new_tokens=1).routing:
        assert all(len(set(counts[first : first + 4])) == 1 for first in range(0, 16, 4))


@pytest.mark.parametrize("variant, layers", [("deepseek_v3", 1), ("gpt_oss", 2), ("llama-gqa-tied", 0)])
def test_layers_without_experts_are_not_counted(variant: str, layers: int, source: Sources, tmp_path: Path) -> None:
    expand(source(variant), tmp_path / "clone", ffn_mult=2)
    report = verify(tmp_path / "clone", new_tokens=1)
    assert len(report.routing) == layers
    assert ("Experts</h2>" in html_report.render(report)) is bool(layers)
