"""Rows of tensors: read from and written to files at known offsets, or cut from and copied into tensors in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path

import torch

from hyperclone_cli.checkpoint.safetensors_file import StoredTensor, read_into, write_all

TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""safetensors' name of each dtype that a model computes in → torch's."""
STORED_DTYPES = TORCH_DTYPES | {
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
"""The same, and the dtypes of quantised numbers and their scales, of masks and other buffers."""

Read = Callable[[StoredTensor, int, int], torch.Tensor]
"""Returns rows start … stop - 1 of a tensor: (stop - start, …) in the tensor's dtype, contiguous, on the CPU.

The rows of a transposed tensor are columns on disk. Several threads may call it at once.
"""


@contextmanager
def rows_on_disk(paths: Iterable[Path]) -> Iterator[Read]:
    """Read rows from safetensors files, which stay open. Reading raises OSError if a file is too short."""
    with ExitStack() as stack:
        descriptors = {}
        for path in sorted(set(paths)):
            descriptors[path] = os.open(path, os.O_RDONLY)
            stack.callback(os.close, descriptors[path])

        def read(path: Path, data: memoryview, offset: int) -> None:
            try:
                read_into(descriptors[path], data, offset)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from None

        yield rows_by(read)


def rows_by(read_into: Callable[[Path, memoryview, int], None]) -> Read:
    """Read rows by a function that fills memory with the bytes of a safetensors file at an offset."""

    def read(stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
        if stored.zeros:
            return _zeros(stored, start, stop)
        read = [read_matrix(*member) for member in stored.members(start, stop)]
        return read[0] if len(read) == 1 else torch.cat(read)

    def read_matrix(stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
        strips = stored.shape[0] if stored.transposed else 1
        shape = (strips, stop - start) if stored.transposed else (stop - start, *stored.shape[1:])
        data = torch.empty(shape, dtype=STORED_DTYPES[stored.dtype])
        for piece, offset in _pieces(as_bytes(data), strips, stored, start):
            read_into(stored.path, piece, offset)
        return data.T.contiguous() if stored.transposed else data

    return read


def write_rows(descriptor: int, stored: StoredTensor, start: int, rows: torch.Tensor) -> None:
    """Write `rows` (rows, …), contiguous, to a tensor in a file, as its rows start, start + 1, …"""
    written = 0
    for matrix, first, last in stored.members(start, start + len(rows)):
        part = rows[written : written + last - first]
        written += last - first
        strips = matrix.shape[0] if matrix.transposed else 1
        data = part.T.contiguous() if matrix.transposed else part
        for piece, offset in _pieces(as_bytes(data), strips, matrix, first):
            write_all(descriptor, piece, offset)


def _pieces(data: memoryview, strips: int, stored: StoredTensor, start: int) -> Iterator[tuple[memoryview, int]]:
    """(bytes, offset in the file) of each of the `strips` pieces in which rows from `start` on lie in the file."""
    pitch = stored.nbytes // strips  # bytes from one piece to the next in the file
    row_bytes = pitch // stored.shape[-1] if stored.transposed else pitch // max(1, prod(stored.shape[:1]))
    length = len(data) // strips
    for strip in range(strips):
        yield data[strip * length : (strip + 1) * length], stored.offset + strip * pitch + start * row_bytes


def rows_in_memory(weights: Mapping[str, torch.Tensor]) -> Read:
    """Read rows from tensors by name, on any device and in any memory layout."""

    def read(stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
        if stored.zeros:
            return _zeros(stored, start, stop)
        rows = torch.cat(list(_rows_of(weights[stored.name], stored, start, stop)))
        return rows.cpu().contiguous()  # other devices may round differently

    return read


def _zeros(stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
    return torch.zeros((stop - start, *stored.shape[1:]), dtype=TORCH_DTYPES[stored.dtype])


def put_rows(weight: torch.Tensor, stored: StoredTensor, start: int, rows: torch.Tensor) -> None:
    """Copy `rows` into a tensor in memory, as its rows start, start + 1, …"""
    for place in _rows_of(weight, stored, start, start + len(rows)):
        place.copy_(rows[: len(place)])
        rows = rows[len(place) :]


def _rows_of(weight: torch.Tensor, stored: StoredTensor, start: int, stop: int) -> Iterator[torch.Tensor]:
    """Views of rows start … stop - 1, one for each matrix of a stack."""
    matrices = weight.view(stored.stack or (1, *(stored.shape or (1,))))  # a scalar is a row of one
    height = matrices.shape[-1 if stored.transposed else 1]
    for number in range(start // height, -(-stop // height)):
        matrix = matrices[number].T if stored.transposed else matrices[number]
        yield matrix[max(start - number * height, 0) : stop - number * height]


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    flat = tensor.view(-1)
    flat = flat.as_strided(flat.shape, (1,))  # a single element is contiguous to torch whatever its stride
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]
