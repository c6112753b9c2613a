"""Every family variant, at several growths, is the same function to stock transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import models
from hyperclone_cli.clone import expand
from hyperclone_cli.request import Request

EMBED_AND_FFN = [(2, 2), (3, 2), (2, 1), (1, 3), (4, 4)]
Sources = Callable[[str], Path]


def assert_same_function(src: Path, clone: Path) -> None:
    one, other = models.load(src), models.load(clone)
    assert models.relative_error(models.logits(other), models.logits(one)) <= 1e-5
    assert torch.equal(models.decode(other), models.decode(one))


@pytest.mark.parametrize("embed, ffn", EMBED_AND_FFN)
@pytest.mark.parametrize("variant", models.VARIANTS)
def test_clone_computes_the_source(variant: str, embed: int, ffn: int, source: Sources, tmp_path: Path) -> None:
    expand(source(variant), tmp_path / "clone", Request(embed_mult=embed, ffn_mult=ffn))
    assert_same_function(source(variant), tmp_path / "clone")
