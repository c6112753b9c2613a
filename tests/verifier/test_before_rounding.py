"""Rounding to 16 bits may flip a router's choice: then the clone before rounding decides, and nothing else does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.verifier import before_rounding, verify
from hyperclone_cli.writing.pipeline import expand
from support import models

FLIPPED: dict[str, tuple[str, str, int, Request]] = {
    "logits in bfloat16": ("qwen3_moe", "float32", 6, Request(embed_mult=1.5, dtype="bfloat16")),
    "logits in float16": ("deepseek_v2", "float16", 12, Request(embed_mult=2.5)),
    "logits at a padded width": ("phimoe", "bfloat16", 1, Request(hidden_size=120)),
    "decoding alone": ("phimoe", "float16", 1, Request(hidden_size=120)),
}
"""(variant, its dtype, its seed, a request): clones that differ from their source by more than rounding moves that."""


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose logits rounding moves too far; its source is beside it. Not to be changed."""
    directory = tmp_path_factory.mktemp("flipped")
    models.build("phimoe", directory / "src", torch.bfloat16, seed=1)
    expand(directory / "src", directory / "clone", Request(hidden_size=120))
    return directory / "clone"


@pytest.fixture
def clone(flipped: Path, tmp_path: Path) -> Path:
    shutil.copytree(flipped.parent, tmp_path / "copy")
    return tmp_path / "copy" / "clone"


@pytest.mark.parametrize("variant, dtype, seed, asked", FLIPPED.values(), ids=list(FLIPPED))
def test_a_clone_whose_rounding_flips_a_choice_passes(
    variant: str, dtype: str, seed: int, asked: Request, tmp_path: Path
) -> None:
    src = models.build(variant, tmp_path / "src", getattr(torch, dtype), seed=seed)
    expand(src, tmp_path / "clone", asked)
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    exact = report.as_json()["before_rounding"]
    assert exact["passed"]
    assert exact["relative_error"] <= exact["tolerance"] == 1e-5
    assert exact["generation"]["parted"] == ()
    assert any("Before rounding the clone computes the same function" in note for note in report.notes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone", "src"]
    assert "before rounding" in (tmp_path / "clone" / "README.md").read_text()
    expand(src, tmp_path / "exact", replace(asked, dtype="float32"))
    models.assert_same_function(src, tmp_path / "exact")  # which transformers alone says


Change = Callable[[dict[str, torch.Tensor]], object]
GATE = "model.layers.0.block_sparse_moe.gate.weight"


def off_by_its_last_bit(tensors: dict[str, torch.Tensor]) -> None:
    tensors[GATE].view(torch.int16)[0, 0] ^= 1


def noise_that_cancels(tensors: dict[str, torch.Tensor]) -> None:
    """So loud that rounding moves what the copies sum to; the weights' comparison allows for that."""
    width = 48
    noise = 64 * torch.randn(tensors[GATE].shape[0], width, generator=torch.Generator().manual_seed(0))
    tensors[GATE][:, :width] += noise.bfloat16()
    tensors[GATE][:, width : 2 * width] -= noise.bfloat16()


def swapped_layers(tensors: dict[str, torch.Tensor]) -> None:
    other = GATE.replace(".0.", ".1.", 1)
    tensors[GATE], tensors[other] = tensors[other], tensors[GATE]


def padding_that_is_read(tensors: dict[str, torch.Tensor]) -> None:
    """No sum of copies has a part in what reads padding: any finite number passes the weights' comparison."""
    tensors[GATE][:, 96:] *= 1000


@pytest.mark.parametrize("change", [off_by_its_last_bit, noise_that_cancels, swapped_layers, padding_that_is_read])
def test_rounding_excuses_no_other_number(change: Change, clone: Path) -> None:
    tensors = load_file(clone / "model.safetensors")
    change(tensors)
    save_file(tensors, clone / "model.safetensors", metadata={"format": "pt"})
    report = verify(clone)
    assert report.before_rounding is None
    assert not report.passed


@pytest.mark.parametrize("key, value", [("router_jitter_noise", 0.5), ("rope_theta", 2e6), ("rms_norm_eps", 0.5)])
def test_rounding_excuses_no_other_config(key: str, value: Any, clone: Path) -> None:
    config = json.loads((clone / "config.json").read_text())
    (clone / "config.json").write_text(json.dumps(config | {key: value}))
    report = verify(clone)
    assert report.before_rounding is None
    assert not report.passed


def test_loud_noise_is_not_excused(tmp_path: Path) -> None:
    src = models.build("llama-gqa-tied", tmp_path / "src", torch.bfloat16)
    expand(src, tmp_path / "clone", Request(embed_mult=3, ffn_mult=3, mixing=Mixing("diagonal", noise_snr_db=0)))
    report = verify(tmp_path / "clone")
    assert not report.passed
    assert report.before_rounding is None
    assert any("louder than 10 dB" in note for note in report.notes)


def test_without_a_record_nothing_is_excused(clone: Path) -> None:
    (clone / "hyperclone.json").unlink()
    assert not verify(clone, src=clone.parent / "src").passed


def test_without_room_it_is_said_and_nothing_is_excused(flipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before_rounding, "bytes_needed", lambda _: 1 << 60)
    report = verify(flipped)
    assert not report.passed
    assert any("is not known: no room for the clone in float32" in note for note in report.notes)


def test_of_a_chain_all_growths_are_made_before_rounding(flipped: Path, tmp_path: Path) -> None:
    expand(flipped, tmp_path / "again", Request(embed_mult=2, ffn_mult=2))
    report = verify(tmp_path / "again", flipped.with_name("src"))
    assert report.passed, report.failures
    assert report.growths == 2
    assert report.before_rounding is not None
    assert report.before_rounding.relative_error <= 1e-5
