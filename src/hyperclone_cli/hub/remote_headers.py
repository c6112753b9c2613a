"""A checkpoint on the Hub as its headers describe it: enough for a plan. Reads ranges of files, fetches no weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from hyperclone_cli.checkpoint.json_config import read_config
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor, header_of
from hyperclone_cli.checkpoint.source import Origin, Source, stored_tensors
from hyperclone_cli.errors import CheckpointError, RequestError, last_line
from hyperclone_cli.families import known_family
from hyperclone_cli.hub.download import Access, hub_session, open_checkpoint, open_snapshot
from hyperclone_cli.progress import Progress

_BLOCK_BYTES = 1 << 16
"""Read from the Hub at a time, and compared of two tensors that may be equal."""

Opened = Callable[[str], Any]
"""Opens a file of a repository by its name, for reading; its `size` is in bytes."""


@dataclass(frozen=True)
class RemoteSource(Source):
    """A checkpoint that is not here: `path` is its name on the Hub, and its tensors can be planned but not read."""

    access: Access

    def same_bytes(self, one: str, other: str) -> bool:
        """Whether two tensors begin alike, as far as a block goes. Those of `.bin` files need only look alike."""
        a, b = self.tensors[one], self.tensors[other]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        if a.path.suffix == ".bin":
            return True
        assert self.origin is not None
        with remote_files(self.origin, self.access) as opened:
            return _beginning(opened, a) == _beginning(opened, b)


def open_headers(place: Path | Origin, access: Access, progress: Progress, dtype: str | None = None) -> Source:
    """The checkpoint at `place`, good for a plan: on the Hub, config and headers are read and no weights are fetched.

    Weights that are in the cache already are taken from there. Headers of `.bin` files need torch, those
    of safetensors do not. Raises RequestError, CheckpointError and StorageError.
    """
    if isinstance(place, Path):
        return open_checkpoint(place, access, progress, dtype)
    progress.fetch(f"the headers of {place.repo_id}")
    snapshot = open_snapshot(place, access)
    config, weights = read_config(snapshot.path), snapshot.weights()
    if all((snapshot.path / name).exists() for name in weights):
        return open_checkpoint(snapshot.origin, access, progress)
    path = Path(snapshot.origin.repo_id)
    tensors: dict[str, StoredTensor] = {}
    with remote_files(snapshot.origin, access) as opened:
        for name in weights:
            read = header_of if name.endswith(".safetensors") else _bin_header
            with opened(name) as file:
                tensors |= read(cast(BinaryIO, file), path / name, file.size)
    source = RemoteSource(path, config, tensors, access, origin=snapshot.origin)
    return replace(source, notes=_notes(source))


def _notes(source: RemoteSource) -> tuple[str, ...]:
    """What the plan takes for granted of weights that were not read: that a tied head's second copy is one."""
    family = known_family(source.config)
    if not family or not family.value(source.config, "tie_word_embeddings"):
        return ()
    stored = {full: name for name in source.tensors for full, _, _ in family.matches(name)}
    head, embedding = (stored.get(f"{module}.weight") for module in (family.head, family.embedding))
    if head is None or embedding is None or not source.same_bytes(head, embedding):
        return ()
    tensor = source.tensors[head]
    if tensor.path.suffix != ".bin" and tensor.nbytes <= _BLOCK_BYTES:
        return ()
    return (
        f"{head} is stored apart from the embedding that it is tied to, and was not compared with it in full:"
        " taken for the same. `expand` compares all of it.",
    )


def _beginning(opened: Opened, tensor: StoredTensor) -> bytes:
    with opened(tensor.path.name) as file:
        file.seek(tensor.offset)
        return bytes(file.read(min(tensor.nbytes, _BLOCK_BYTES)))


def _bin_header(file: BinaryIO, path: Path, file_bytes: int) -> dict[str, StoredTensor]:
    """What the pickle in a `.bin` file says of its tensors; the tensors themselves are not read."""
    import torch

    magic = file.read(4)
    file.seek(0)
    if magic != b"PK\x03\x04":
        raise RequestError(
            f"{path}: in torch's old format, of which nothing is known before all {file_bytes:,} bytes are fetched.",
            "`hyperclone expand` fetches them; or `hf download` it, and plan again.",
        )
    try:
        return stored_tensors(path, torch.load(file, map_location="meta", weights_only=True))
    except OSError:
        raise
    except Exception as error:  # the unpickler and the zip reader raise what they like
        raise CheckpointError(
            f"{path}: refused: no plain state dict, or damaged ({last_line(error)}).",
            "Use a safetensors version of the model.",
        ) from None


@contextmanager
def remote_files(origin: Origin, access: Access) -> Iterator[Opened]:
    """What opens a file of the repository by name: read by ranges, as it is asked for."""
    from huggingface_hub import HfFileSystem

    with hub_session(origin.repo_id, access.token):
        files = HfFileSystem(token=access.token, skip_instance_cache=True)  # it keeps what it knows of the repository
        place = f"{origin.repo_id}@{origin.revision}"
        yield lambda name: files.open(f"{place}/{name}", "rb", block_size=_BLOCK_BYTES, cache_type="readahead")
