"""Every further architecture at every kind of growth: the same function to stock transformers, or a stated refusal."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import models
import models_more
from hyperclone_cli.clone import expand
from hyperclone_cli.errors import RequestError
from hyperclone_cli.mixing import Mixing
from hyperclone_cli.request import Request
from hyperclone_cli.verifier import verify

Sources = Callable[[str], Path]

REQUESTS: dict[str, dict[str, Any]] = {
    "2×2": {"embed_mult": 2, "ffn_mult": 2},
    "3×3": {"embed_mult": 3, "ffn_mult": 3},
    "uneven, noise": {"embed_mult": 2, "ffn_mult": 2, "mixing": Mixing("uneven", noise_snr_db=10.0)},
    "embed 1.5": {"embed_mult": 1.5},
    "head_dim 2": {"embed_mult": 2, "head_dim_mult": 2},
    "ffn 2.5": {"ffn_mult": 2.5},
}

YARN = "rotary positions of type 'yarn'"
KEY_NORM = "its LayerNorm of each key"
NO_WEIGHTS = "its norms have no weights"
FFN_NORM = "a norm over ffn"
HEADS_NORM = "a norm spans all heads"

REFUSED: dict[str, dict[str, str]] = {
    "embed 1.5": {
        "nanochat": NO_WEIGHTS,
        "nanochat-tied": NO_WEIGHTS,
        "bitnet": HEADS_NORM,
        "bitnet-tied": HEADS_NORM,
    },
    "head_dim 2": {"ministral3-yarn-tied": YARN, "cohere-qk-norm": KEY_NORM},
    "ffn 2.5": {"bitnet": FFN_NORM, "bitnet-tied": FFN_NORM},
}
"""For each request the variants that cannot have it, and what they say; for all others it is exact."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    @functools.cache
    def build(variant: str) -> Path:
        return models.build(models_more.VARIANTS[variant], tmp_path_factory.mktemp("source") / variant)

    return build


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("variant", models_more.VARIANTS)
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
    report = verify(out)
    assert report.passed, report.failures
