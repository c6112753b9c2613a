"""Parts of a tensor in a distributed checkpoint (DCP): each is a file of torch.save inside a `.distcp` file.

Its numbers lie uncompressed at a known place, from which rows are read as those of any other tensor. Source: torch's
distributed/checkpoint/filesystem.py.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from hyperclone_cli.checkpoint.boundary import regular_file
from hyperclone_cli.checkpoint.quantised.packed import Packed
from hyperclone_cli.checkpoint.restricted_pickle import TENSOR, unpickle
from hyperclone_cli.checkpoint.safetensors_file import ITEM_BYTES, StoredTensor

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read

_MOST_BYTES = 1 << 16
"""Of the pickle of one tensor, whose numbers lie beside it: torch writes some 400 bytes."""


def joined(name: str, size: tuple[int, ...], chunks: list[StoredTensor], places: list[tuple[int, ...]]) -> StoredTensor:
    """The tensor that chunks make, each at its place. Raises ValueError if they leave a gap."""
    inside = all(
        len(place) == len(chunk.shape) == len(size)
        and all(at >= 0 and at + length <= whole for at, length, whole in zip(place, chunk.shape, size, strict=True))
        for place, chunk in zip(places, chunks, strict=True)
    )
    if not inside or sum(prod(chunk.shape) for chunk in chunks) != prod(size):
        raise ValueError(f"the parts of tensor {name!r} do not make its shape {list(size)}")
    first = chunks[0]
    if len(chunks) == 1:
        return StoredTensor(name, first.dtype, size, first.path, first.offset)
    if len(size) > 3:
        raise ValueError(f"tensor {name!r} has {len(size)} dimensions and is cut into parts")
    chunks_in_order = [chunk for _, chunk in sorted(zip(places, chunks, strict=True), key=lambda pair: pair[0])]
    return StoredTensor(
        name,
        first.dtype,
        size,
        first.path,
        0,
        packed=Chunks(tuple(chunks_in_order), False, tuple(sorted(places)), size),
    )


@dataclass(frozen=True)
class Chunks(Packed):
    """`parts` are boxes cut out of a tensor.

    places  where the first number of each lies in the tensor
    size    of the tensor
    """

    places: tuple[tuple[int, ...], ...]
    size: tuple[int, ...]

    def rows(self, read: Read, start: int, stop: int) -> torch.Tensor:
        """Rows start … stop - 1, numbered across all matrices: (rows, columns) in the tensor's dtype."""
        import torch

        from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES

        _, height, width = _three(self.size)
        found = torch.zeros((stop - start, width), dtype=TORCH_DTYPES[self.parts[0].dtype])
        for part, place in zip(self.parts, self.places, strict=True):
            (matrix, row, column), (count, tall, wide) = _three(place, fill=0), _three(part.shape)
            flat = StoredTensor(part.name, part.dtype, (count * tall, wide), part.path, part.offset)
            for number in range(max(matrix, start // height), min(matrix + count, -(-stop // height))):
                top = number * height + row
                first, last = max(start, top), min(stop, top + tall)
                if first < last:
                    skipped = (number - matrix) * tall - top
                    rows = read(flat, first + skipped, last + skipped)
                    found[first - start : last - start, column : column + wide] = rows
        return found


def _three(sizes: tuple[int, ...], fill: int = 1) -> tuple[int, int, int]:
    """(matrices, rows, columns) of a tensor; a vector is a column."""
    padded = (fill, *sizes, fill) if len(sizes) == 1 else (*(fill,) * (3 - len(sizes)), *sizes)
    return padded[0], padded[1], padded[2]


def part_of(directory: Path, source: Path, info: Any, expected: tuple[str, str, tuple[int, ...]]) -> StoredTensor:
    """Where the numbers of a part lie, whose place is told by `info` and whose (name, dtype, shape) is `expected`.

    Raises ValueError or BadZipFile, among others, if they do not lie there.
    """
    name, dtype, shape = expected
    if PurePosixPath(info.relative_path).name != info.relative_path or getattr(info, "transform_descriptors", None):
        raise ValueError(f"{name} lies in {info.relative_path!r}, elsewhere or compressed")
    path = directory / info.relative_path
    regular_file(path, source)
    with path.open("rb") as whole:
        part = io.BufferedReader(_Slice(whole, info.offset, info.length))
        with ZipFile(part) as archive:
            entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
            order = _small(archive, entries["byteorder"]) if "byteorder" in entries else b"little"
            found = unpickle(_small(archive, entries["data.pkl"]), TENSOR)
            data = entries[f"data/{found.key}"]
        part.seek(data.header_offset)
        lengths = struct.unpack("<26xHH", part.read(30))  # of the name and the extra field that follow
    strides = [prod(shape[place + 1 :]) for place in range(len(shape))]
    contiguous = all(size == 1 or ours == own for size, ours, own in zip(shape, strides, found.strides, strict=True))
    begin = data.header_offset + 30 + sum(lengths) + found.first * ITEM_BYTES[dtype]
    stored = StoredTensor(name, dtype, shape, path, info.offset + begin)
    if (found.dtype, found.shape) != (dtype, shape) or not contiguous or order != b"little":
        raise ValueError(f"{name} is not stored as a contiguous tensor of {dtype} {list(shape)}")
    if data.compress_type != ZIP_STORED or begin + stored.nbytes > info.length or found.first < 0:
        raise ValueError(f"{name} lies beyond its file")
    return stored


def _small(archive: ZipFile, entry: ZipInfo) -> bytes:
    """What a file beside the numbers holds, which torch does not compress. Raises ValueError for a large one."""
    if entry.compress_type != ZIP_STORED or entry.file_size > _MOST_BYTES:
        raise ValueError(f"{entry.filename} is compressed, or larger than the description of a tensor")
    return archive.read(entry)


class _Slice(io.RawIOBase):
    """Bytes offset … offset + length - 1 of a file, as a file."""

    def __init__(self, whole: BinaryIO, offset: int, length: int) -> None:
        if not 0 <= offset <= offset + length <= whole.seek(0, io.SEEK_END):
            raise BadZipFile("a part lies beyond its file")
        self._whole, self._offset, self._length, self._place = whole, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._length}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        self._whole.seek(self._offset + self._place)
        data = self._whole.read(min(len(buffer), max(0, self._length - self._place)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
