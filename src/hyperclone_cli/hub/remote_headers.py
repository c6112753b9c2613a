"""A checkpoint on the Hub for planning: only its config and headers are read, by byte ranges, and no weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from hyperclone_cli.checkpoint.json_config import read_config
from hyperclone_cli.checkpoint.open_source import code_notes
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor, read_header
from hyperclone_cli.checkpoint.source import Origin, Place, Source, stored_tensors
from hyperclone_cli.errors import CheckpointError, RequestError, last_line
from hyperclone_cli.families import known_family
from hyperclone_cli.hub.download import Access, hub_session, open_checkpoint, open_snapshot
from hyperclone_cli.progress import Progress

_BLOCK_BYTES = 1 << 16
"""Read from the Hub at a time, and the most that is compared of two tensors."""

OpenFile = Callable[[str], Any]
"""Opens a file of a repository by its name, for reading in binary."""


@dataclass(frozen=True)
class RemoteSource(Source):
    """A checkpoint that is not downloaded: `path` is its name on the Hub. Rows of its tensors cannot be read."""

    access: Access

    def _contents(self, stored: StoredTensor) -> bytes:
        raise RequestError(
            f"{self.path}: quantised, and shapes lie among the weights, as in {stored.name}: headers are not enough.",
            f"Download it, and plan the directory: hf download {self.path}",
        )

    def same_bytes(self, one: str, other: str) -> bool:
        """Whether two tensors have the same dtype, shape and, unless they are in `.bin` files, first block."""
        a, b = self.tensors[one], self.tensors[other]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        if a.path.suffix == ".bin":
            return True
        assert self.origin is not None
        parts = [one.packed.parts if one.packed else (one,) for one in (a, b)]
        with remote_files(self.origin, self.access) as open_file:
            first = [[_first_block(open_file, part) for part in stored] for stored in parts]
        return first[0] == first[1]


def open_headers(place: Place, access: Access, progress: Progress, dtype: str | None = None) -> Source:
    """Open the checkpoint at `place` for planning. From the Hub, only its config and headers are downloaded.

    Weights that are already in the cache are used. Headers of `.bin` files need torch, those of safetensors do not.

    Raises RequestError, CheckpointError if it is unsupported or damaged, StorageError if it cannot be downloaded.
    """
    if not isinstance(place, Origin):
        return open_checkpoint(place, access, progress, dtype)
    progress.fetch(f"the headers of {place.repo_id}")
    snapshot = open_snapshot(place, access)
    config, weights = read_config(snapshot.path), snapshot.weights()
    if all((snapshot.path / name).exists() for name in weights):
        return open_checkpoint(snapshot.origin, access, progress, dtype)
    path = Path(snapshot.origin.repo_id)
    tensors: dict[str, StoredTensor] = {}
    with remote_files(snapshot.origin, access) as open_file:
        for name in weights:
            read = read_header if name.endswith(".safetensors") else _read_bin_header
            tensors |= read(path / name, open_file(name))
    notes = code_notes(snapshot.files)
    source = RemoteSource(path, config, tensors, access, origin=snapshot.origin, notes=notes)
    source = source.plainly_named().unpacked(dtype)
    return replace(source, notes=(*source.notes, *_head_notes(source)))


def _head_notes(source: RemoteSource) -> tuple[str, ...]:
    """A note if a tied head that is stored twice was taken for equal to the embedding without reading all of it."""
    family = known_family(source.config, source.tensors)
    if not family or not family.is_tied(source.config):
        return ()
    stored = {match.name: name for name in source.tensors for match in family.tensor_names.matches(name)}
    head, embedding = (stored.get(f"{module}.weight") for module in (family.head, family.embedding))
    if head is None or embedding is None or not source.same_bytes(head, embedding):
        return ()
    tensor = source.tensors[head]
    if tensor.path.suffix != ".bin" and tensor.nbytes <= _BLOCK_BYTES:
        return ()
    return (
        f"{head} is stored apart from the embedding that it is tied to, and was not compared with it in full: the plan"
        " takes it for the same. `expand` compares all of it.",
    )


def _first_block(open_file: OpenFile, tensor: StoredTensor) -> bytes:
    with open_file(tensor.path.name) as file:
        file.seek(tensor.offset)
        return bytes(file.read(min(tensor.nbytes, _BLOCK_BYTES)))


def _read_bin_header(path: Path, file: BinaryIO) -> dict[str, StoredTensor]:
    """Name → dtype and shape of the tensors in a remote `.bin` file, from its pickle alone; `path` names the file."""
    import torch

    with file:
        magic, file_bytes = file.read(4), file.seek(0, os.SEEK_END)
        file.seek(0)
        if magic != b"PK\x03\x04":
            raise RequestError(
                f"{path}: in torch's old format, which has to be downloaded as a whole, {file_bytes:,} bytes.",
                "`hyperclone expand` downloads it; or use `hf download`, and plan again.",
            )
        try:
            return stored_tensors(path, torch.load(file, map_location="meta", weights_only=True))
        except OSError:
            raise
        except Exception as error:  # the unpickler and the zip reader raise their own kinds
            raise CheckpointError(
                f"{path}: refused: damaged, or not a state dict of tensors alone ({last_line(error)}).",
                "Use a safetensors version of the model.",
            ) from None


@contextmanager
def remote_files(origin: Origin, access: Access) -> Iterator[OpenFile]:
    """A function that opens files of the repository, which are downloaded in blocks as they are read."""
    from huggingface_hub import HfFileSystem

    with hub_session(origin.repo_id, access.token):
        files = HfFileSystem(token=access.token, skip_instance_cache=True)  # cached ones remember old listings
        place = f"{origin.repo_id}@{origin.revision}"
        yield lambda name: files.open(f"{place}/{name}", "rb", block_size=_BLOCK_BYTES, cache_type="readahead")
