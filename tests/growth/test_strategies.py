"""Every strategy, with and without noise, gives a clone that computes the same function."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import STRATEGIES, Mixing, Strategy
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.blocks import cut_blocks
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.growth_table import CROSSED, GROWTHS
from support.models import EACH

Sources = Callable[[str], Path]


@given(st.sampled_from(STRATEGIES), st.integers(1, 6), st.integers(0, 6))
def test_what_an_output_copy_reads_sums_to_one(strategy: Strategy, copies: int, output_copy: int) -> None:
    mixing = Mixing(strategy)
    assert sum(mixing.share(output_copy, copy, copies) for copy in range(copies)) == 1


def test_the_strategies_at_two_copies() -> None:
    def matrix(strategy: Strategy) -> list[list[Fraction]]:
        return [[Mixing(strategy).share(a, b, 2) for b in range(2)] for a in range(2)]

    half, third, fifth = Fraction(1, 2), Fraction(1, 3), Fraction(1, 5)
    assert matrix("symmetric") == [[half, half], [half, half]]
    assert matrix("diagonal") == [[1, 0], [0, 1]]
    assert matrix("uneven") == [[third, 2 * third], [fifth, 4 * fifth]]
    assert matrix("halving") == [[1, 0], [half, half]]


def test_halving_reads_in_powers_of_two() -> None:
    shares = [[Mixing("halving").share(a, b, 4) for b in range(4)] for a in range(5)]
    half, quarter, eighth = (Fraction(1, 2**power) for power in (1, 2, 3))
    assert shares == [
        [1, 0, 0, 0],
        [half, half, 0, 0],
        [half, quarter, quarter, 0],
        [half, quarter, eighth, eighth],
        [1, 0, 0, 0],
    ]


def test_a_ratio_is_used_where_it_fits_the_copies() -> None:
    mixing = Mixing("uneven", uneven_ratio=(1, 3))
    assert mixing.share(0, 1, 2) == Fraction(3, 4)
    assert mixing.share(1, 1, 2) == Fraction(9, 10)
    assert mixing.share(0, 2, 3) == Fraction(3, 6)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_halving_rounds_nothing_at_any_whole_multiple(factor: int, source: Sources) -> None:
    request = Request(embed_mult=factor, ffn_mult=factor, mixing=Mixing("halving"))
    assert make_plan(open_source(source("llama-mha")), request).rounded() == []


@pytest.mark.parametrize("copies", [2, 3, 4])
@pytest.mark.parametrize("strategy", ["uneven", "halving"])
def test_copies_are_read_unequally_and_none_repeats_the_others(strategy: Strategy, copies: int) -> None:
    """Unequal column sums part the gradients, and an invertible C wastes no rank."""
    shares = [[float(Mixing(strategy).share(a, b, copies)) for b in range(copies)] for a in range(copies)]
    matrix = torch.tensor(shares, dtype=torch.float64)
    assert len(set(matrix.sum(0).tolist())) == copies
    assert torch.linalg.matrix_rank(matrix) == copies


NOISE = (None, 10.0)
MIXED = {
    f"{factor}-{strategy}-{noise}": Request(factor, factor, mixing=Mixing(strategy, noise_snr_db=noise))
    for factor in (2, 3)
    for strategy in STRATEGIES
    for noise in NOISE
}


OTHERS = [name for name, request in MIXED.items() if request not in GROWTHS.values()]
TRIED = [
    (variant, name)
    for place, variant in enumerate(CROSSED)
    for turn, name in enumerate(OTHERS)
    if variant in EACH.values() or (place + turn) % 4 == 0
]
"""The first variant of each architecture at every strategy, the others at a quarter of them, in turn."""


@pytest.mark.parametrize("variant, name", TRIED)
def test_every_strategy_is_the_same_function(variant: str, name: str, source: Sources, tmp_path: Path) -> None:
    """What every variant is tried at is in tests/families/test_every_growth.py."""
    expand(source(variant), tmp_path / "clone", MIXED[name])
    assert models.logit_error(source(variant), tmp_path / "clone") <= 1e-5
    report = verify(tmp_path / "clone", weights_only=True)
    assert report.passed, report.failures


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_that_copies_read_differently_are_cut_one_after_the_other(strategy: Strategy, source: Sources) -> None:
    request = Request(embed_mult=3, ffn_mult=3, mixing=Mixing(strategy))
    for tensor in make_plan(open_source(source("llama-mha")), request).tensors:
        starts = [block.start for block in cut_blocks(tensor, 4096)]
        assert starts == sorted(starts)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("variant", ["llama-gqa-tied", "gemma3-gqa", "pythia", "opt-350m", "olmo2"])
def test_in_bfloat16_the_error_stays_within_twice_the_dtypes_own(
    variant: str, strategy: Strategy, tmp_path: Path
) -> None:
    src = models.build(variant, tmp_path / "src", torch.bfloat16)
    for factor in (2, 3):
        mixing = Mixing(strategy, noise_snr_db=10.0)
        out = tmp_path / f"clone{factor}"
        expand(src, out, Request(embed_mult=factor, ffn_mult=factor, mixing=mixing))
        logits = verify(out).logits
        assert logits is not None
        assert logits.relative_error <= 2 * logits.floor
