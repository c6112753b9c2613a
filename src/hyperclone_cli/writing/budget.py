"""How many threads work on blocks, and how large the blocks are, within a limit of memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from hyperclone_cli.checkpoint.safetensors_file import ITEM_BYTES
from hyperclone_cli.checkpoint.views import DRAWN_ROWS
from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.numbers import bytes_of
from hyperclone_cli.planning.grown_tensor import TensorKind

LARGEST_BLOCK_BYTES = 4 << 20
"""Most bytes of one grown block: few enough for the processor's cache, enough for a fast write."""

SURVEY_BLOCK_BYTES = 1 << 20
"""Bytes of the blocks that a whole tensor is summed in. Fixed, because sums depend on how a tensor is cut."""

_BLOCKS_BYTES = 512 * 10**6

_COPIES = 16
"""Most memory of a thread, in multiples of its block: source rows, noise, and both in wider dtypes."""


@dataclass(frozen=True)
class Budget:
    """The number of threads, and the bytes of the grown block that each works on."""

    threads: int
    block_bytes: int

    @property
    def nbytes(self) -> int:
        """Most memory of all blocks at once."""
        return self.threads * _COPIES * self.block_bytes


def plan_budget(kinds: Iterable[TensorKind], threads: int | None = None, max_memory: int | str | None = None) -> Budget:
    """The budget for growing tensors of these kinds: fewer threads than asked for if so many would exceed the memory.

    threads     None: one for each core
    max_memory  bytes, or a size such as "512MB", of all blocks that are in memory at once; None: 512MB

    Raises RequestError if `max_memory` is not a size, or too small for a single thread.
    """
    if threads is not None and threads < 1:
        raise RequestError(f"--threads {threads}: expected 1 or more.")
    memory = _BLOCKS_BYTES if max_memory is None else bytes_of("--max-memory", max_memory)
    smallest = max([SURVEY_BLOCK_BYTES, *map(_least_block_bytes, kinds)])
    if memory < _COPIES * smallest:
        raise RequestError(
            f"--max-memory {max_memory}: one thread needs {_COPIES * smallest:,} bytes for this model's widest rows.",
            f"Use --max-memory {-(-_COPIES * smallest // 10**6)}MB or more.",
        )
    most = min(threads or _cores(), memory // (_COPIES * smallest))
    return Budget(most, min(LARGEST_BLOCK_BYTES, memory // most // _COPIES))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _least_block_bytes(kind: TensorKind) -> int:
    """Bytes of the smallest block of a tensor: one row, or a quarter of the rows that share a noise generator."""
    row_bytes = prod(growth.target for growth in kind.growths[1:]) * ITEM_BYTES[kind.dtype]
    return row_bytes * (DRAWN_ROWS // 4 if kind.noisy or kind.reads_padding else 1)
