"""Expansions that are interrupted by a signal, a full disk or a limit, and how a test finishes and compares them."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from support.forked import Forked

JOURNAL = ".hyperclone-partial"


def wide_source(path: Path, hidden_size: int = 256, layers: int = 4) -> Path:
    """A random Llama in bfloat16, large enough for its expansion to be cut anywhere."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    return path


def command(src: Path, out: Path, *options: object) -> list[str]:
    """The words after `hyperclone` that expand `src` at 4×4 to `out`, not verified."""
    words = ["--no-verify", "--src", src, "--out", out, "--embed-mult", 4, "--ffn-mult", 4, *options]
    return ["expand", *map(str, words)]


class Running(Protocol):
    """A process: one of `subprocess`, or forked."""

    def poll(self) -> int | None: ...


def wait_for(moment: Callable[[], bool], process: Running) -> None:
    """Wait until `moment` is true, or the process has ended."""
    deadline = time.monotonic() + 600
    while process.poll() is None and not moment():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def cut(words: Sequence[str], sent: signal.Signals, moment: Callable[[], bool], pause_s: float) -> tuple[int, str]:
    """Start a command, and send it a signal `pause_s` seconds after `moment` is true: (its exit status, its stderr)."""
    process = Forked(words)
    wait_for(moment, process)
    time.sleep(pause_s)
    process.send_signal(sent)
    return process.finish()


def contents(directory: Path) -> dict[str, bytes]:
    """Name → bytes of every file below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def moments(count: int, longest_s: float, seed: int = 0) -> list[float]:
    """Random pauses in seconds."""
    generator = random.Random(seed)
    return [generator.uniform(0, longest_s) for _ in range(count)]


def without_override() -> list[str]:
    """What to begin a command with, so that the modes of files and directories bind it even if it is root's."""
    rights = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []


def can_mount() -> bool:
    """Whether this user may mount a small filesystem of its own."""
    return sys.platform == "linux" and os.geteuid() == 0
