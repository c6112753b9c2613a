from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import models


@pytest.fixture(scope="session")
def wide_source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """As `source`, with a hidden size of 128, of which more fractions are whole numbers of heads."""

    @functools.cache
    def build(variant: str) -> Path:
        width: dict[str, Any] = {"n_embd" if variant.startswith("gpt2") else "hidden_size": 128}
        return models.build(variant, tmp_path_factory.mktemp("wide") / variant, **width)

    return build
