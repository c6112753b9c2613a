"""A checkpoint in an object store: headers and small files are fetched, rows are read by ranges as they are used.

It is opened as any directory is, from a copy in which weights are holes behind their headers: files as long as the
objects, which take no room. Whatever is checked of a checkpoint on a disk is checked of it too.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from shutil import rmtree
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import finalize

from hyperclone_cli.checkpoint.boundary import MOST_BYTES
from hyperclone_cli.checkpoint.object_store import Objects, Stored, StoreUrl
from hyperclone_cli.checkpoint.open_source import open_source, read_index
from hyperclone_cli.checkpoint.safetensors_file import MAX_HEADER_BYTES, StoredTensor
from hyperclone_cli.checkpoint.source import INDEX_NAME, SIDE_FILES, SINGLE_NAME, Fingerprint, Source, matches_any
from hyperclone_cli.errors import CheckpointError, HypercloneError

if TYPE_CHECKING:
    from hyperclone_cli.checkpoint.row_io import Read

_SMALL = (*SIDE_FILES, "README.md", "config.json", "adapter_config.json", "hyperclone.json", INDEX_NAME)
"""Objects that are fetched whole."""

_HEADER_BYTES = 1 << 20
"""Fetched of a file of weights at first: more than most headers have."""

_CHUNK_BYTES = 4 << 20

_AHEAD = 4
"""Chunks that are fetched before they are asked for: as many requests are under way at once."""

_CHUNKS = 4 * _AHEAD
"""Chunks that are kept in memory while rows are read, for each shard that is written: 64 MiB."""


class _Copy:
    """A temporary directory of this name, removed when nothing refers to it any more."""

    def __init__(self, name: str) -> None:
        parent = Path(tempfile.mkdtemp(prefix="hyperclone-")).resolve()
        finalize(self, rmtree, parent, ignore_errors=True)
        self.path = parent / name
        self.path.mkdir()


@dataclass(frozen=True)
class StoredSource(Source):
    """A checkpoint at a URL. Its `path` is the copy without weights, which goes when the source is not used any more.

    found   the objects when it was opened
    chunks  of them, those that were read last
    """

    objects: Objects
    found: dict[str, Stored]
    copy: _Copy
    chunks: _Chunks

    @property
    def place(self) -> StoreUrl:
        """Its URL."""
        return self.objects.place

    def fingerprint(self) -> Fingerprint:
        """As of any source, asked of the store anew."""
        now = self.objects.list()
        names = sorted({path.name for tensor in self.tensors.values() for path in tensor.paths})
        return {name: list(astuple(now[name])) for name in names if name in now}

    def same_bytes(self, one: str, other: str) -> bool:
        """Whether two tensors, by name, have the same dtype, shape and bytes."""
        a, b = self.tensors[one], self.tensors[other]
        return (a.dtype, a.shape) == (b.dtype, b.shape) and self._same_rows(a, b)

    def _contents(self, stored: StoredTensor) -> bytes:
        return bytes(self.objects.read(stored.path.name, stored.offset, stored.nbytes))

    @contextmanager
    def _stored_rows(self) -> Iterator[Read]:
        from hyperclone_cli.checkpoint.row_io import rows_by

        with self.chunks.kept():
            yield rows_by(self.chunks.read_into)


class _Chunks:
    """Reads through chunks of objects, the last of which are kept: the rows of neighbours lie in one chunk."""

    def __init__(self, objects: Objects, found: Mapping[str, Stored]) -> None:
        self._objects, self._found, self._threads = objects, found, ThreadPoolExecutor(_AHEAD)
        self._lock, self._readers = Lock(), 0
        self._kept: OrderedDict[tuple[str, int], Future[memoryview]] = OrderedDict()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A block that reads from one place after another: as many chunks more are kept meanwhile."""
        with self._lock:
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1

    def read_into(self, path: Path, data: memoryview, offset: int) -> None:
        """Fill `data` with the bytes of an object at `offset`; several threads may call it at once."""
        name = path.name
        while data:
            number, start = divmod(offset, _CHUNK_BYTES)
            got = self._chunk(name, number).result()[start : start + len(data)]
            if not got:
                raise OSError(errno.EIO, f"the object ends at byte {offset:,}: it changed while it was read", name)
            data[: len(got)] = got
            data, offset = data[len(got) :], offset + len(got)

    def _chunk(self, name: str, number: int) -> Future[memoryview]:
        with self._lock:
            for ahead in range(number, number + 1 + _AHEAD):
                start = ahead * _CHUNK_BYTES
                if start < self._found[name].nbytes and (name, ahead) not in self._kept:
                    length = min(_CHUNK_BYTES, self._found[name].nbytes - start)
                    self._kept[name, ahead] = self._threads.submit(self._objects.read, name, start, length)
            self._kept.move_to_end((name, number))
            while len(self._kept) > _CHUNKS * max(1, self._readers):
                self._kept.popitem(last=False)
            return self._kept[name, number]


def open_stored(place: StoreUrl, dtype: str | None = None) -> Source:
    """Open a checkpoint in an object store, of safetensors; weights are not fetched.

    Raises CheckpointError if it is unsupported or damaged, StorageError if the store fails.
    """
    objects = Objects(place)
    found = objects.list()
    if not found:
        raise CheckpointError(f"{place}: nothing is there.", "Name the prefix of a checkpoint: what holds config.json.")
    copy = _Copy(place.name)

    def stored(source: Source) -> Source:
        given: dict[str, Any] = {field.name: getattr(source, field.name) for field in fields(Source)}
        given["foreign"] = True  # transformers finds no weights in the copy
        return StoredSource(**given, objects=objects, found=found, copy=copy, chunks=_Chunks(objects, found))

    try:
        _fetch(objects, found, copy.path)
        return open_source(copy.path, dtype, stored)
    except HypercloneError as error:
        message, hint = (text.replace(str(copy.path), str(place)) for text in (error.message, error.hint))
        raise type(error)(message, hint) from None


def _fetch(objects: Objects, found: dict[str, Stored], directory: Path) -> None:
    for name, one in found.items():
        if not matches_any(name, _SMALL):
            continue
        if one.nbytes > MOST_BYTES:
            raise CheckpointError(
                f"{objects.place}/{name}: {one.nbytes:,} bytes, more than the {MOST_BYTES:,} that a file beside the"
                " weights may have.",
                "Move it out of the checkpoint.",
            )
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(objects.read(name))
    index = directory / INDEX_NAME
    if SINGLE_NAME in found:
        shards = [SINGLE_NAME]
    elif index.exists():
        shards = sorted({*read_index(index).values()} & found.keys())
    else:
        raise CheckpointError(
            f"{objects.place}: neither {SINGLE_NAME} nor {INDEX_NAME} is there.",
            "From an object store safetensors are read. Fetch other checkpoints, and name the directory.",
        )
    for name in shards:
        hollow(objects, name, found[name].nbytes, directory / name)


def hollow(objects: Objects, name: str, nbytes: int, path: Path) -> None:
    """Make a file as long as an object, with the header of its safetensors and nothing behind that."""
    head = objects.read(name, 0, min(_HEADER_BYTES, nbytes)) if nbytes else memoryview(b"")
    end = 8 + int.from_bytes(head[:8], "little")
    if len(head) < end <= min(nbytes, 8 + MAX_HEADER_BYTES):
        head = objects.read(name, 0, end)
    with path.open("wb") as file:
        file.write(head[:end])
    os.truncate(path, nbytes)
