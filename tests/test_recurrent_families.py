"""Recurrent and hybrid architectures at every kind of growth: the same function, or a refusal that says why."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from hyperclone_cli.clone import expand
from hyperclone_cli.errors import RequestError
from hyperclone_cli.mixing import Mixing
from hyperclone_cli.request import Request
from hyperclone_cli.verifier import verify
from models_recurrent import VARIANTS

Sources = Callable[[str], Path]

REQUESTS: dict[str, dict[str, Any]] = {
    "2×2": {"embed_mult": 2, "ffn_mult": 2},
    "3×3": {"embed_mult": 3, "ffn_mult": 3},
    "uneven, noise": {"embed_mult": 2, "ffn_mult": 2, "mixing": Mixing("uneven", noise_snr_db=10.0)},
    "embed 1.5": {"embed_mult": 1.5, "ffn_mult": 1.5},
    "head_dim 2": {"embed_mult": 2, "ffn_mult": 2, "head_dim_mult": 2},
    "ffn 2.5": {"ffn_mult": 2.5},
}

GATED_NORM = "a norm over ssm_groups × ssm_group × ssm_value"

REFUSED: dict[str, dict[str, str]] = {
    "embed 1.5": dict.fromkeys(
        ["mamba2", "mamba2-groups-tied", "bamba", "bamba-tied", "falcon_h1", "granite", "granite-tied"], GATED_NORM
    )
    | dict.fromkeys(["rwkv", "rwkv-tied"], "leaves no room for padding"),
    "head_dim 2": dict.fromkeys(
        [variant for variant in VARIANTS if "mamba" in variant or "rwkv" in variant], "no attention heads"
    ),
    "ffn 2.5": dict.fromkeys(["mamba2", "mamba2-groups-tied"], "it is 2 × hidden_size"),
}
"""For each request the variants that cannot have it, and what they say; for all others it is exact."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    @functools.cache
    def build(variant: str) -> Path:
        return models.build(VARIANTS[variant], tmp_path_factory.mktemp("source") / variant)

    return build


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_clone_is_the_same_function_or_refused(variant: str, name: str, source: Sources, tmp_path: Path) -> None:
    src, out, request = source(variant), tmp_path / "clone", Request(**REQUESTS[name])
    if variant in REFUSED.get(name, {}):
        with pytest.raises(RequestError, match=REFUSED[name][variant]):
            expand(src, out, request)
        return
    expand(src, out, request)
    one, other = models.load(src), models.load(out)
    assert models.relative_error(models.logits(other), models.logits(one)) <= 1e-5
    assert torch.equal(models.decode(other), models.decode(one))
    report = verify(out, weights_only=name != "uneven, noise")
    assert report.passed, report.failures
