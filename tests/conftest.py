from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# For this process and those that tests start: neither a Hub nor a terminal. Libraries read it when they are imported.
os.environ |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "100", "NO_COLOR": "1"}
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`source(variant)`: the path of a random checkpoint of that variant, float32. Read only: tests share it."""
    from support import models

    @functools.cache
    def build(name: str) -> Path:
        return models.build(name, tmp_path_factory.mktemp("source") / name)

    return build
