"""Every strategy, with and without noise, is the same function; noise has the power that was asked for and cancels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import models
from hyperclone_cli.checkpoint.source import open_source
from hyperclone_cli.growth.request import Dtype, Request
from hyperclone_cli.growth.strategies import STRATEGIES, Mixing, Strategy
from hyperclone_cli.growth.widths import nest, tiled
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.arithmetic import blocks
from hyperclone_cli.writing.noise import zero_sum_noise
from hyperclone_cli.writing.pipeline import expand

Sources = Callable[[str], Path]
NOISE = [None, 10.0]


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


@given(st.integers(0, 300), st.integers(2, 200), st.integers(1, 200))
def test_noise_is_the_same_however_rows_are_cut(start: int, rows: int, cut: int) -> None:
    columns = nest(tiled(3, 2), tiled(2, 3))
    cut = min(cut, rows - 1)
    whole = zero_sum_noise(7, "w", start, start + rows, columns)
    parts = [
        zero_sum_noise(7, "w", start, start + cut, columns),
        zero_sum_noise(7, "w", start + cut, start + rows, columns),
    ]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("variant", models.VARIANTS)
def test_every_strategy_is_the_same_function(
    variant: str, factor: int, strategy: Strategy, noise: float | None, source: Sources, tmp_path: Path
) -> None:
    request = Request(embed_mult=factor, ffn_mult=factor, mixing=Mixing(strategy, noise_snr_db=noise))
    expand(source(variant), tmp_path / "clone", request)
    found, expected = models.logits(models.load(tmp_path / "clone")), models.logits(models.load(source(variant)))
    assert models.relative_error(found, expected) <= 1e-5
    report = verify(tmp_path / "clone", weights_only=True)
    assert report.passed, report.failures


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("factor", [2, 3])
def test_noise_has_the_power_asked_for_and_cancels(
    factor: int, strategy: Strategy, dtype: Dtype, source: Sources, tmp_path: Path
) -> None:
    """In every tensor that reads a replicated width, the untied head included, and in no other."""
    request = Request(embed_mult=factor, ffn_mult=factor, dtype=dtype, mixing=Mixing(strategy))
    plan = expand(source("llama-mha"), tmp_path / "plain", request)
    with_noise = replace(request, mixing=Mixing(strategy, noise_snr_db=10.0))
    expand(source("llama-mha"), tmp_path / "noisy", with_noise)
    plain, noisy = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "noisy"))
    for tensor in plan.tensors:
        signal, noise = plain[tensor.name].double(), noisy[tensor.name].double() - plain[tensor.name].double()
        if tensor.name.endswith(("proj.weight", "lm_head.weight")):
            snr = 10 * torch.log10(signal.square().mean() / noise.square().mean())
            assert abs(float(snr) - 10) <= 0.1, tensor.name
            blocks = [part.view(len(part), factor, -1).sum(1) for part in (signal + noise, signal)]
            eps = torch.finfo(getattr(torch, dtype)).eps
            assert float((blocks[0] - blocks[1]).abs().max()) <= 4 * eps * float(signal.abs().max())
        else:
            assert not noise.any(), tensor.name


@pytest.mark.parametrize(
    "noise, dtype, noted",
    [(6.0, "bfloat16", True), (10.0, "bfloat16", False), (6.0, None, False), (None, "float16", False)],
)
def test_noise_that_16_bits_may_not_bear_is_noted(
    noise: float | None, dtype: Dtype | None, noted: bool, source: Sources
) -> None:
    request = Request(embed_mult=2, dtype=dtype, mixing=Mixing(noise_snr_db=noise))
    notes = make_plan(open_source(source("llama-mha")), request).notes
    assert any("verification may fail" in note for note in notes) is noted


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_that_copies_read_differently_are_cut_one_after_the_other(strategy: Strategy, source: Sources) -> None:
    request = Request(embed_mult=3, ffn_mult=3, mixing=Mixing(strategy))
    for tensor in make_plan(open_source(source("llama-mha")), request).tensors:
        starts = [block.start for block in blocks(tensor, 4096)]
        assert starts == sorted(starts)


def test_the_seed_decides_the_noise(source: Sources, tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> bytes:
        mixing = Mixing(noise_snr_db=10.0, seed=seed)
        expand(source("llama-mha"), tmp_path / name, Request(embed_mult=2, mixing=mixing))
        return (tmp_path / name / "model.safetensors").read_bytes()

    assert weights("one", 1) == weights("same", 1) != weights("other", 2)


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
