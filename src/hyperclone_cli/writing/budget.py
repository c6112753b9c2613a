"""How much memory and how many threads the work on blocks may take."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from hyperclone_cli.checkpoint.safetensors_file import ITEM_BYTES
from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.request import Writing, bytes_of
from hyperclone_cli.planning.tensors import GrownTensor

LARGEST_BLOCK_BYTES = 4 << 20
"""Bytes of one grown block: small enough to stay in the processor's cache, large enough to write well."""

SURVEY_BLOCK_BYTES = 1 << 20
"""The same where sums are taken over a whole tensor: always this, for sums depend on how they are cut."""

NOISE_ROWS = 64
"""Rows whose noise comes from one generator, and so are made together."""

_COPIES = 16
"""How many times its block's bytes a thread holds at worst: source rows, noise, and all of it in wider dtypes."""


@dataclass(frozen=True)
class Budget:
    """So many threads, each at work on one grown block of about so many bytes."""

    threads: int
    block_bytes: int


def plan_budget(
    tensors: Iterable[GrownTensor], threads: int | None = None, max_memory: int | str = Writing.max_memory
) -> Budget:
    """What to work with on `tensors`: fewer threads than asked for where so many would exceed the memory.

    threads     None: one for each core
    max_memory  bytes, or a size such as "512MB", of all blocks that are worked on at once

    Raises RequestError for a memory that is no size, or too small for a single thread.
    """
    if threads is not None and threads < 1:
        raise RequestError(f"--threads {threads}: expected 1 or more.")
    memory = bytes_of("--max-memory", max_memory)
    smallest = max([SURVEY_BLOCK_BYTES, *map(_least_block_bytes, tensors)])
    if memory < _COPIES * smallest:
        raise RequestError(
            f"--max-memory {max_memory}: one thread needs {_COPIES * smallest:,} bytes for this model's widest rows.",
            f"Use --max-memory {-(-_COPIES * smallest // 10**6)}MB or more.",
        )
    most = min(threads or _cores(), memory // (_COPIES * smallest))
    return Budget(most, min(LARGEST_BLOCK_BYTES, memory // most // _COPIES))


def _cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _least_block_bytes(tensor: GrownTensor) -> int:
    """The smallest block of a tensor: a row, or as many as have their noise in common."""
    row_bytes = prod(growth.target for growth in tensor.growths[1:]) * ITEM_BYTES[tensor.dtype]
    return row_bytes * (NOISE_ROWS // 4 if tensor.noisy or tensor.reads_padding else 1)
