"""Tensors that lie in `.bin` or GGUF files, put into a temporary safetensors file, from which they can be mapped."""

from __future__ import annotations

import json
import os
from math import prod
from pathlib import Path

from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES, write_rows
from hyperclone_cli.checkpoint.safetensors_file import create, lay_out
from hyperclone_cli.checkpoint.source import SINGLE_NAME, Source, TensorSource

_BLOCK_ELEMENTS = 1 << 21


def safetensors_of(source: Source, directory: Path) -> Path:
    """A directory with config.json and safetensors of `source`: its own, or `directory`, where they are written.

    Raises OSError if the disk has no room.
    """
    if not isinstance(source, TensorSource):
        return source.path
    (directory / "config.json").write_text(json.dumps(dict(source.config)), encoding="utf-8")
    if (source.path / "generation_config.json").is_file():  # it tells which tokens end a text
        (directory / "generation_config.json").symlink_to((source.path / "generation_config.json").absolute())
    floats = [tensor for tensor in source.tensors.values() if tensor.dtype in TORCH_DTYPES]
    path = directory / SINGLE_NAME
    head, placed = lay_out(path, [(tensor.name, tensor.dtype, tensor.shape) for tensor in floats])
    descriptor = create(path, head, len(head) + sum(tensor.nbytes for tensor in placed))
    try:
        with source.rows() as read:
            for stored, target in zip(floats, placed, strict=True):
                rows = stored.shape[0] if stored.shape else 1
                step = max(1, _BLOCK_ELEMENTS // max(1, prod(stored.shape[1:])))
                for first in range(0, rows, step):
                    write_rows(descriptor, target, first, read(stored, first, min(rows, first + step)))
    finally:
        os.close(descriptor)
    return directory
