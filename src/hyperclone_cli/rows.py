"""Rows of a checkpoint's tensors as torch sees them: read from files at known offsets, or cut from tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path

import torch

from hyperclone_cli.shards import ITEM_BYTES, StoredTensor, read_into

TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Read = Callable[[StoredTensor, int, int], torch.Tensor]
"""Gives rows start … stop - 1 of a tensor, shape (stop - start, …): its own dtype, contiguous, on the CPU.

Any number of threads may call it at once.
"""


@contextmanager
def rows_on_disk(paths: Iterable[Path]) -> Iterator[Read]:
    """Read rows from safetensors files, which are open meanwhile. Reading raises OSError for a file cut short."""
    with ExitStack() as stack:
        descriptors = {}
        for path in sorted(set(paths)):
            descriptors[path] = os.open(path, os.O_RDONLY)
            stack.callback(os.close, descriptors[path])

        def read(stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
            shape = (stop - start, *stored.shape[1:])
            row_bytes = ITEM_BYTES[stored.dtype] * prod(shape[1:])
            data = torch.empty(row_bytes * shape[0], dtype=torch.uint8)
            read_into(descriptors[stored.path], as_bytes(data), stored.offset + start * row_bytes)
            return data.view(TORCH_DTYPES[stored.dtype]).view(shape)

        yield read


def rows_in_memory(weights: Mapping[str, torch.Tensor]) -> Read:
    """Cut rows from tensors by name, on whichever device and in whichever layout these are."""

    def read(stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
        rows = weights[stored.name].reshape(stored.shape or (1,))  # a scalar is a row of one
        return rows[start:stop].cpu().contiguous()  # other devices may round otherwise

    return read


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
