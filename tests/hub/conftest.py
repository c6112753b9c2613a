"""A Hub of the tests' own, and the command line as its client."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import models, opt_350m
from support.command_line import Run, hyperclone
from support.local_hub import TOKEN, LocalHub


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in four shards of 60 kB and less, with files beside it that nobody needs."""
    path = models.build("llama-gqa-tied", tmp_path_factory.mktemp("hub") / "sharded", max_shard_size="60KB")
    (path / "LICENSE").write_text("be kind")
    (path / "README.md").write_text("---\nlicense: mit\n---\n# The small one\n")
    for name in (
        "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "model.fp16.safetensors", "model-Q4.gguf",
        "onnx/model.onnx", "original/consolidated.00.pth", "original/tokenizer.model", "fp16/modeling_mine.py",
    ):  # fmt: skip
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"not needed" * 1000)
    return path


@pytest.fixture(scope="session")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return opt_350m.build(tmp_path_factory.mktemp("opt") / "opt-350m")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of the Hub waits for seconds before it tries again."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 50))


@pytest.fixture
def hub(sharded: Path) -> Iterator[LocalHub]:
    """A Hub that holds the sharded Llama as a/llama."""
    with LocalHub() as hub:
        hub.add("a/llama", sharded)
        yield hub


@pytest.fixture
def run(hub: LocalHub, tmp_path: Path) -> Run:
    """`run("plan", …)`: the command line as a client of `hub`, in tmp_path, with a cache of its own."""

    def run(
        *arguments: object, code: int = 0, token: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        env = hub.environment(tmp_path / "home", token) | environment
        result = hyperclone(*arguments, code=code, cwd=tmp_path, env=env)
        assert "Traceback" not in result.stderr
        assert TOKEN not in result.stdout + result.stderr
        return result

    return run
