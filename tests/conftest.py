from __future__ import annotations

import functools
import gc
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

# For this process and those that tests start: neither a Hub nor a terminal, and one thread, for xdist has a process for
# every core. Libraries read it when they are imported.
os.environ |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "100", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: meanwhile another worker does the rest."""
    items.sort(key=lambda item: item.get_closest_marker("real") is None)


def pytest_collection_finish() -> None:
    _keep_all_that_lives()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    _keep_all_that_lives()


def _keep_all_that_lives() -> None:
    """Let the garbage collector visit no object again that lives now.

    A million objects are imported by and by and stay. `verify` collects after every model, which else visits them all.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`source(variant)`: the path of a random checkpoint of that variant, float32. Read only: tests share it."""
    from support import models

    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sources"
    shared.mkdir(exist_ok=True)

    @functools.cache
    def build(name: str) -> Path:
        if not (shared / name).exists():
            built = models.build(name, tmp_path_factory.mktemp("source") / name)
            with suppress(OSError):  # another worker was first
                built.rename(shared / name)
        return shared / name

    return build


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Tests kill processes but never the power, which is all that fsync is for; descriptors are still checked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(autouse=True, scope="session")
def _equal_headers_are_loaded_once() -> Iterator[None]:
    """Every expansion has transformers load the headers of its source; most tests expand one of a few hundred."""
    from hyperclone_cli.checkpoint import transformers_model

    load = transformers_model.load_without_weights
    loaded: dict[str, tuple[Any, dict[str, Any]]] = {}

    def load_or_recall(config: Any, tensors: Any, path: Any) -> tuple[Any, dict[str, Any]]:
        headers = [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]
        key = json.dumps([str(path), config, headers])
        if key not in loaded:
            loaded[key] = load(config, tensors, path)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers_model, "load_without_weights", load_or_recall)
        yield
