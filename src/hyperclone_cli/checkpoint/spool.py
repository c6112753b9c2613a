"""Tensors of `.bin` and GGUF files in a temporary safetensors file, from which they are mapped or read by layer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperclone_cli.checkpoint.safetensors_file import ITEM_BYTES, StoredTensor, create, lay_out

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read

_BLOCK_ELEMENTS = 1 << 21


def write_checkpoint(
    directory: Path, config: Mapping[str, Any], tensors: Iterable[StoredTensor], read: Read
) -> list[StoredTensor]:
    """Write config.json and model.safetensors, block by block; returns where each tensor lies.

    Tensors that are not of floating-point numbers, such as masks, are left out: no architecture has weights of others.

    Raises OSError if the disk has no room.
    """
    from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES, write_rows

    (directory / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    floats = sorted((one for one in tensors if one.dtype in TORCH_DTYPES), key=lambda one: -ITEM_BYTES[one.dtype])
    path = directory / "model.safetensors"
    head, placed = lay_out(path, [(one.name, one.dtype, one.shape) for one in floats])
    descriptor = create(path, head, len(head) + sum(one.nbytes for one in placed))
    try:
        for stored, target in zip(floats, placed, strict=True):
            rows = stored.shape[0] if stored.shape else 1
            step = max(1, _BLOCK_ELEMENTS // max(1, prod(stored.shape[1:])))
            for first in range(0, rows, step):
                write_rows(descriptor, target, first, read(stored, first, min(rows, first + step)))
    finally:
        os.close(descriptor)
    return placed


def mapped(placed: Iterable[StoredTensor]) -> dict[str, torch.Tensor]:
    """Name → tensor, mapped from the safetensors files that they lie in; their data are read when they are used."""
    import torch

    from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES

    files: dict[Path, torch.Tensor] = {}
    found = {}
    for one in placed:
        if one.path not in files:
            size = one.path.stat().st_size
            files[one.path] = torch.from_file(str(one.path), shared=False, size=size, dtype=torch.uint8)
        data = files[one.path][one.offset : one.offset + one.nbytes]
        found[one.name] = data.view(TORCH_DTYPES[one.dtype]).view(one.shape)
    return found
