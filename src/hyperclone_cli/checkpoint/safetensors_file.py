"""The safetensors file: a length, a JSON header, then every tensor's bytes at a known offset.

The safetensors library writes a file only from tensors that are all in memory, so headers are read and written here.
Source: the format's description in the safetensors repository.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from hyperclone_cli.errors import DEQUANTISE, CheckpointError

if TYPE_CHECKING:
    from hyperclone_cli.checkpoint.quantised.packed import Packed

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
FLOAT_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""torch's name of a float dtype → safetensors' name of it."""
DTYPES = FLOAT_DTYPES | {
    **{f"int{bits}": f"I{bits}" for bits in (64, 32, 16, 8)}, "uint8": "U8", "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
"""The same of every dtype in ITEM_BYTES: masks and other buffers have one of these."""

MAX_HEADER_BYTES = 100_000_000
"""Of a file's header: the safetensors library's own limit."""

_MAX_DIMENSIONS = 8  # no weight has more, and the product of very many would take forever


class StoredTensor(NamedTuple):
    """Where a tensor lies in a safetensors file.

    shape       as stored on disk
    offset      of its first byte, from the start of the file
    transposed  whether the file stores (columns, rows); of a stack, whether it stores each matrix so
    zeros       whether it lies nowhere, and is all zeros
    packed      how it is stored as other tensors, if it is: then it has no offset
    stack       (matrices, …) if the tensor is a stack of matrices, such as fused experts, whose first two dimensions
                `shape` may merge into one; empty for a single matrix. Rows are numbered across the whole stack
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    transposed: bool = False
    stack: tuple[int, ...] = ()
    zeros: bool = False
    packed: Packed | None = None

    @property
    def paths(self) -> set[Path]:
        """The files that it lies in."""
        if self.packed:
            return {path for part in self.packed.parts for path in part.paths}
        return set() if self.zeros else {self.path}

    @property
    def originals(self) -> tuple[StoredTensor, ...]:
        """The tensors of the checkpoint that it is made of: itself, unless it shows parts of others, or none."""
        if self.packed is None or not self.packed.is_view:
            return (self,)
        return tuple(one for part in self.packed.parts for one in part.originals)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]

    def members(self, start: int, stop: int) -> Iterator[tuple[StoredTensor, int, int]]:
        """(matrix, first row, row after the last) of every matrix of the stack that holds rows start … stop - 1."""
        if not self.stack:
            yield self, start, stop
            return
        height = self.stack[-1 if self.transposed else 1]
        for number in range(start // height, -(-stop // height)):
            first = number * height
            one = self._replace(shape=self.stack[1:], stack=())
            one = one._replace(offset=self.offset + number * one.nbytes)
            yield one, max(start - first, 0), min(stop - first, height)


def check_regular_file(path: Path) -> None:
    """Raise CheckpointError for a directory or a pipe, which would fail or block when opened. Absence is no error."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: expected a file, found a directory or a special file.", "Fetch the file.")


def read_header(path: Path, file: BinaryIO | None = None) -> dict[str, StoredTensor]:
    """Tensor name → place of one safetensors file, in the order of their bytes.

    file  an open remote file to read instead of the one at `path`, which then only names it

    Nothing in the header is trusted. Raises CheckpointError unless `path` is a regular file, the header is well formed
    and the tensors fill the file exactly.
    """
    again = "Fetch the file again."
    if file is None:
        check_regular_file(path)
    with file or path.open("rb") as opened:
        file_bytes = opened.seek(0, os.SEEK_END)
        opened.seek(0)
        data_start = 8 + int.from_bytes(opened.read(8), "little")
        if data_start - 8 > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path}: not a safetensors file, or damaged: its header would take {data_start - 8:,} bytes,"
                f" more than the {MAX_HEADER_BYTES:,} that the format allows.",
                again,
            )
        if data_start > file_bytes:
            raise CheckpointError(
                f"{path}: truncated: the header ends at byte {data_start:,}, the file has {file_bytes:,} bytes.", again
            )
        text = opened.read(data_start - 8)
    try:
        header = json.loads(text, object_pairs_hook=_no_duplicates)
        header.pop("__metadata__", None)
        entries = sorted(header.items(), key=lambda entry: entry[1]["data_offsets"])
        kinds: dict[tuple[str, tuple[int, ...]], _Kind] = {}
        tensors = [_stored_tensor(path, data_start, name, entry, kinds) for name, entry in entries]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the safetensors header is damaged ({error}).", again) from None
    end = data_start
    for tensor, (_, entry) in zip(tensors, entries, strict=True):
        if tensor.offset != end:
            raise CheckpointError(f"{path}: tensor {tensor.name!r} starts at {tensor.offset}, not at {end}.", again)
        end = data_start + entry["data_offsets"][1]
    if end != file_bytes:
        wrong = "truncated" if file_bytes < end else "too long"
        raise CheckpointError(f"{path}: {wrong}: expected {end:,} bytes, found {file_bytes:,}.", again)
    return {tensor.name: tensor for tensor in tensors}


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a name occurs twice")
    return unique


class _Kind(NamedTuple):
    """What the tensors of one dtype and shape share: there are few such kinds in a file, and many tensors."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def _stored_tensor(
    path: Path,
    data_start: int,
    name: str,
    entry: dict[str, Any],
    kinds: dict[tuple[str, tuple[int, ...]], _Kind],
) -> StoredTensor:
    """The tensor that an entry of an untrusted header describes. Raises ValueError where it contradicts itself.

    kinds  those of the header so far, by dtype and shape
    """
    begin, end = entry["data_offsets"]
    if type(entry["shape"]) is not list:
        raise ValueError(f"tensor {name!r}: shape is a {type(entry['shape']).__name__}, expected a list")
    shape = tuple(entry["shape"])
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"tensor {name!r} has {len(shape)} dimensions, expected at most {_MAX_DIMENSIONS}")
    for number in (begin, end, *shape):
        if type(number) is not int or number < 0:
            raise ValueError(f"tensor {name!r} has shape {shape} and offsets {begin}, {end}")
    kind = kinds.get((entry["dtype"], shape))
    if kind is None:
        if entry["dtype"] not in ITEM_BYTES:
            raise CheckpointError(
                f"{path}: tensor {name!r} has dtype {entry['dtype']}, which no unquantised model uses.", DEQUANTISE
            )
        kind = _Kind(intern(entry["dtype"]), shape, prod(shape) * ITEM_BYTES[entry["dtype"]])
        kinds[kind.dtype, shape] = kind
    dtype, shape, nbytes = kind
    if nbytes != end - begin:
        raise ValueError(f"tensor {name!r} should take {nbytes} bytes, its offsets span {end - begin}")
    return StoredTensor(name, dtype, shape, path, data_start + begin)


def lay_out(path: Path, tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, list[StoredTensor]]:
    """(header bytes, place of each tensor) of a file at `path` that will hold `tensors`: (name, dtype, shape)."""
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
    """Create or open a file, give it `total_bytes` and write `head`; returns its descriptor, for reading and writing.

    Bytes after `head` that an existing file holds are kept. Space is allocated at once where the filesystem can, so
    that a full disk raises OSError before any work is done.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        allocate(descriptor, total_bytes)
        os.ftruncate(descriptor, total_bytes)
        write_all(descriptor, memoryview(head), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def allocate(descriptor: int, total_bytes: int) -> None:
    """Take the room for a file's bytes where the filesystem can. Raises OSError if there is too little."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(descriptor, 0, total_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # filesystems that cannot preallocate answer so
            raise


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, however many calls the system needs."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def read_into(descriptor: int, data: memoryview, offset: int) -> None:
    """Fill `data` with the bytes at `offset`. Raises OSError if the file ends before."""
    while data:
        got = os.preadv(descriptor, [data], offset)
        if got == 0:
            raise OSError(errno.EIO, f"the file ends at byte {offset:,}: it changed while it was read")
        data, offset = data[got:], offset + got
