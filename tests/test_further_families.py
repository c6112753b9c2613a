"""Architectures with laws of their own, such as paired heads or ALiBi: exact at every growth, or refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import models
from hyperclone_cli.clone import expand
from hyperclone_cli.errors import RequestError
from hyperclone_cli.mixing import Mixing
from hyperclone_cli.request import Request
from hyperclone_cli.verifier import verify
from models_further import VARIANTS

Sources = Callable[[str], Path]

GROWTHS = {
    "twice": Request(embed_mult=2, ffn_mult=2),
    "three times": Request(embed_mult=3, ffn_mult=3),
    "twice, uneven and noisy": Request(embed_mult=2, ffn_mult=2, mixing=Mixing("uneven", noise_snr_db=10)),
    "half as wide again": Request(embed_mult=1.5, ffn_mult=1.5),
    "larger heads": Request(embed_mult=2, ffn_mult=2, head_dim_mult=2),
    "feed-forward alone": Request(ffn_mult=2.5),
}

REFUSED: dict[tuple[str, str], str] = {
    ("diffllama", "larger heads"): "its λ are products",
    ("diffllama-gqa-tied", "larger heads"): "its λ are products",
    ("gpt_neox_japanese", "feed-forward alone"): "it is 4 × hidden_size",
    ("gpt_neox_japanese-untied-twofold", "feed-forward alone"): "it is 2 × hidden_size",
}
"""What an architecture cannot have, and what it says; everything else is exact."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    @functools.cache
    def build(variant: str) -> Path:
        return models.build(VARIANTS[variant], tmp_path_factory.mktemp("source") / variant)

    return build


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_growth_is_the_same_function_or_refused(
    variant: str, growth: str, source: Sources, tmp_path: Path
) -> None:
    src, out = source(variant), tmp_path / "clone"
    if (variant, growth) in REFUSED:
        with pytest.raises(RequestError, match=REFUSED[variant, growth]):
            expand(src, out, GROWTHS[growth])
        return
    expand(src, out, GROWTHS[growth])
    one, other = models.load(src), models.load(out)
    assert models.relative_error(models.logits(other), models.logits(one)) <= 1e-5
    assert torch.equal(models.decode(other), models.decode(one))
    report = verify(out)
    assert report.passed, report.failures
