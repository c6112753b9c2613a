"""The safetensors file: a length, a JSON header, then every tensor's bytes at a known offset.

Written here rather than by the safetensors library because that one needs all tensors of a file in
memory at once. Source: the format's description in the safetensors repository.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from hyperclone_cli.checkpoint.ordinary_file import check_is_file
from hyperclone_cli.errors import DEQUANTISE, CheckpointError

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOAT_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""torch's name of a float dtype → safetensors' name of it."""

_MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
_MAX_DIMENSIONS = 8  # no weight has more; the product of very many would take forever


@dataclass(frozen=True)
class StoredTensor:
    """A tensor inside a safetensors file: `offset` counts from the file's first byte.

    `shape` is the one on disk. What is `transposed` is stored as (columns, rows). `stack` is the shape of a stack
    of matrices, (matrices, …), which `shape` may hold without the first dimension; empty for a single one.
    The rows of a stack are numbered through, and transposed is each matrix by itself.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    transposed: bool = False
    stack: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]

    def members(self, start: int, stop: int) -> Iterator[tuple[StoredTensor, int, int]]:
        """(matrix, its first row, its row after the last) of every matrix of a stack that has rows start … stop - 1."""
        if not self.stack:
            yield self, start, stop
            return
        height = self.stack[-1 if self.transposed else 1]
        for number in range(start // height, -(-stop // height)):
            first = number * height
            one = replace(self, shape=self.stack[1:], stack=())
            one = replace(one, offset=self.offset + number * one.nbytes)
            yield one, max(start - first, 0), min(stop - first, height)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Name → tensor of one file, in the order of their bytes.

    Raises CheckpointError unless it is an ordinary file, the header is well formed, and the tensors fill the file
    exactly.
    """
    check_is_file(path)
    with path.open("rb") as file:
        return header_of(file, path, path.stat().st_size)


def header_of(file: BinaryIO, path: Path, file_bytes: int) -> dict[str, StoredTensor]:
    """As `read_header`, of an open file that need not be on this disk; `path` is what it is called."""
    broken = "Fetch the file again."
    length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path}: no safetensors file, or a damaged one: its header should take {length:,} bytes,"
            f" more than the {_MAX_HEADER_BYTES:,} that the format allows.",
            broken,
        )
    if file_bytes < 8 or length > file_bytes - 8:
        raise CheckpointError(
            f"{path}: truncated: the header should take {length + 8:,} bytes, the file has {file_bytes:,}.", broken
        )
    try:
        header = json.loads(file.read(length), object_pairs_hook=_no_duplicates)
        header.pop("__metadata__", None)
        entries = sorted(header.items(), key=lambda entry: entry[1]["data_offsets"])
        tensors = [_entry(path, 8 + length, name, entry) for name, entry in entries]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the safetensors header is damaged ({error}).", broken) from None
    end = 8 + length
    for tensor in tensors:
        if tensor.offset != end:
            raise CheckpointError(f"{path}: tensor {tensor.name!r} starts at {tensor.offset}, not at {end}.", broken)
        end += tensor.nbytes
    if end != file_bytes:
        raise CheckpointError(f"{path}: truncated: expected {end:,} bytes, found {file_bytes:,}.", broken)
    return {tensor.name: tensor for tensor in tensors}


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a name occurs twice")
    return unique


def _entry(path: Path, data_start: int, name: str, entry: dict[str, Any]) -> StoredTensor:
    begin, end = entry["data_offsets"]
    if type(entry["shape"]) is not list:
        raise ValueError(f"tensor {name!r} has no shape but a {type(entry['shape']).__name__}")
    shape = tuple(entry["shape"])
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"tensor {name!r} has {len(shape)} dimensions, at most {_MAX_DIMENSIONS} are expected")
    if any(type(number) is not int or number < 0 for number in (begin, end, *shape)):
        raise ValueError(f"tensor {name!r} has shape {shape} and offsets {begin}, {end}")
    if entry["dtype"] not in ITEM_BYTES:
        raise CheckpointError(
            f"{path}: tensor {name!r} has dtype {entry['dtype']}, which no unquantised model uses.",
            DEQUANTISE,
        )
    tensor = StoredTensor(name, entry["dtype"], shape, path, data_start + begin)
    if tensor.nbytes != end - begin:
        raise ValueError(f"tensor {name!r} should take {tensor.nbytes} bytes, its offsets span {end - begin}")
    return tensor


def lay_out(path: Path, tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, list[StoredTensor]]:
    """The header of a file that will hold `tensors` (name, dtype, shape), and where each will lie."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for the format
    end = 0
    placed = []
    for name, dtype, shape in tensors:
        tensor = StoredTensor(name, dtype, shape, path, end)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + tensor.nbytes]}
        placed.append(tensor)
        end += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start on a multiple of eight, as the library writes them
    start = 8 + len(text)
    head = len(text).to_bytes(8, "little") + text
    return head, [StoredTensor(t.name, t.dtype, t.shape, path, start + t.offset) for t in placed]


def create(path: Path, head: bytes, total_bytes: int) -> int:
    """A file of `total_bytes` that begins with `head`; returns its descriptor, open for reading and writing.

    Bytes that it has already stay. The space is claimed at once where the filesystem can, so that a full disk
    shows before any work.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _claim_space(descriptor, total_bytes)
        os.ftruncate(descriptor, total_bytes)
        write_all(descriptor, memoryview(head), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _claim_space(descriptor: int, total_bytes: int) -> None:
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(descriptor, 0, total_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # what filesystems without it answer
            raise


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, however many calls the system needs."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def read_into(descriptor: int, data: memoryview, offset: int) -> None:
    """Fill `data` from `offset`. Raises OSError if the file ends before."""
    while data:
        got = os.preadv(descriptor, [data], offset)
        if got == 0:
            raise OSError(errno.EIO, f"the file ends at byte {offset:,}: it changed while it was read")
        data, offset = data[got:], offset + got
