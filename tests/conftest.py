from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import models

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`source(variant)`: the path of a random checkpoint of that variant, float32. Read only: tests share it."""
    built: dict[str, Path] = {}

    def get(variant: str) -> Path:
        if variant not in built:
            built[variant] = models.build(variant, tmp_path_factory.mktemp(variant) / variant)
        return built[variant]

    return get
