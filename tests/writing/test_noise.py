"""Noise has the power that was asked for, cancels between copies, and depends on the seed alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.growth.request import Dtype, Request
from hyperclone_cli.growth.strategies import STRATEGIES, Mixing, Strategy
from hyperclone_cli.growth.widths import nest, tiled
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.writing.noise import zero_sum_noise
from hyperclone_cli.writing.pipeline import expand

Sources = Callable[[str], Path]


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
    assert any("Verification may fail" in note for note in notes) is noted


def test_the_seed_decides_the_noise(source: Sources, tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> bytes:
        mixing = Mixing(noise_snr_db=10.0, seed=seed)
        expand(source("llama-mha"), tmp_path / name, Request(embed_mult=2, mixing=mixing))
        return (tmp_path / name / "model.safetensors").read_bytes()

    assert weights("one", 1) == weights("same", 1) != weights("other", 2)
