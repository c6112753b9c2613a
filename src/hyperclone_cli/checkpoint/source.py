"""A checkpoint: its config, where its tensors lie and how their rows are read, and its side files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from hyperclone_cli.checkpoint.boundary import read_file
from hyperclone_cli.checkpoint.gguf import read_tokenizer
from hyperclone_cli.checkpoint.leftovers import check_names, plain_names
from hyperclone_cli.checkpoint.object_store import StoreUrl
from hyperclone_cli.checkpoint.quantised.packed import unpacking
from hyperclone_cli.checkpoint.quantised.unpack import unpack
from hyperclone_cli.checkpoint.safetensors_file import DTYPES, StoredTensor
from hyperclone_cli.errors import first_of

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read

Name = TypeVar("Name")

Fingerprint: TypeAlias = dict[str, list[int | str]]
"""File of weights → its bytes, the time of its last change in nanoseconds, and in a store its name for the content."""

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
BIN_INDEX_NAME = "pytorch_model.bin.index.json"
BIN_NAME = "pytorch_model.bin"

_BLOCK_BYTES = 1 << 22

WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
"""Names of the safetensors files and of their index in every checkpoint that transformers writes."""

READ_WITH_MODEL = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "tekken.json",
    "emoji.json", "*.model", "*.tiktoken", "chat_template*", "additional_chat_templates/*.jinja",
    "generation_config.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
"""Optional files that decide what a model is fed and how it decodes: loaders read them with the weights."""

SIDE_FILES = (
    *READ_WITH_MODEL, "*.py",
    "LICEN[CS]E*", "Licen[cs]e*", "licen[cs]e*", "COPYING*", "NOTICE*", "Notice*", "USE_POLICY*",
)  # fmt: skip
"""Side files: tokenizer, chat template, generation config, custom code, licence. Copied byte for byte to a clone."""


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether any of the glob patterns matches `name`, a path relative to a checkpoint. `*` does not match "/"."""
    return any(name.count("/") == pattern.count("/") and fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Origin:
    """A model on the Hub. `revision` is the branch, tag or commit that was asked for; once resolved, the commit."""

    repo_id: str
    revision: str = "main"


Place = Path | Origin | StoreUrl
"""Where a checkpoint is: on this disk, on the Hub, in an object store."""


@dataclass(frozen=True)
class Source:
    """A checkpoint in safetensors.

    config   config.json as raw JSON
    tensors  name → where it lies, in the order of their bytes
    notes    what the user should know about how the checkpoint is read
    ignored  names of stored tensors that transformers does not load, which are not among `tensors`
    origin   the model on the Hub that it was fetched from; None for a local checkpoint
    foreign  whether transformers finds no such tensors in its files: they lie there under other names, or elsewhere
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    ignored: tuple[str, ...] = field(default=(), kw_only=True)
    origin: Origin | None = field(default=None, kw_only=True)
    foreign: bool = field(default=False, kw_only=True)

    @property
    def place(self) -> Place:
        """Where it can be opened again: its name on the Hub, its URL, or its path."""
        return self.origin or self.path

    def fingerprint(self) -> Fingerprint:
        """The state of the files of weights, to notice a change of the source."""
        paths = {path for tensor in self.tensors.values() for path in tensor.paths}
        found = ([*path.glob("pytorch_model*.bin")] if path.is_dir() else [path] for path in paths)
        files = sorted(file for some in found for file in some)
        return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}

    @property
    def needs_copy(self) -> bool:
        """Whether transformers would read other weights from its files than are read here, or none."""
        return self.foreign or any(tensor.packed for tensor in self.tensors.values())

    @contextmanager
    def rows(self) -> Iterator[Read]:
        """A context with the weight files open; it gives the function that reads rows of a tensor."""
        with self._stored_rows() as read:
            yield unpacking(read)

    def _stored_rows(self) -> AbstractContextManager[Read]:
        from hyperclone_cli.checkpoint.row_io import rows_on_disk

        return rows_on_disk(path for tensor in self.tensors.values() for path in tensor.paths)

    def as_loaded(self, ignored: Iterable[str], zeros: Mapping[str, int]) -> Source:
        """The checkpoint as transformers sees it: without tensors that it ignores, with biases that it fills in.

        ignored  names of tensors
        zeros    name → length of biases that are not stored; they take the dtype that most tensors have
        """
        ignored = tuple(sorted(set(ignored) & self.tensors.keys()))
        kept = {name: tensor for name, tensor in self.tensors.items() if name not in ignored}
        usual = Counter(tensor.dtype for tensor in kept.values()).most_common(1)
        filled = {
            name: StoredTensor(name, usual[0][0], (length,), self.path, 0, zeros=True)
            for name, length in zeros.items()
            if usual and name not in self.tensors
        }
        notes = list(self.notes)
        if ignored:
            notes.append(f"Not written, because transformers does not load it: {first_of(ignored)}.")
        if filled:
            notes.append(f"Not stored, and written as zeros, which transformers takes it for: {first_of([*filled])}.")
        return replace(self, tensors=kept | filled, notes=tuple(notes), ignored=ignored)

    def plainly_named(self) -> Self:
        """The checkpoint with tensors named as in the model, whatever wrapped that in training.

        Raises CheckpointError for tensors that are only parts of a model's weights.
        """
        plain, note = plain_names(self.tensors)
        named = self._renamed(plain, note) if note else self
        check_names(self.path, named.tensors)
        return named

    def _renamed(self, names: Mapping[str, str], note: str) -> Self:
        tensors = {names[name]: tensor._replace(name=names[name]) for name, tensor in self.tensors.items()}
        return replace(self, tensors=tensors, notes=(*self.notes, note), foreign=True)

    def unpacked(self, dtype: str | None = None) -> Self:
        """The checkpoint with quantised tensors as what they stand for, in `dtype`, and no word of it in the config.

        Raises CheckpointError if it is quantised in a way that is not understood.
        """
        found = unpack(self.config, self.tensors, self.path, self._contents, dtype)
        return replace(self, config=found.config, tensors=found.tensors, notes=(*self.notes, *found.notes))

    def _contents(self, stored: StoredTensor) -> bytes:
        with stored.path.open("rb") as file:
            file.seek(stored.offset)
            return file.read(stored.nbytes)

    def same_bytes(self, one: str, other: str) -> bool:
        """Whether two tensors, by name, have the same dtype, shape and bytes. Reads them block by block."""
        a, b = self.tensors[one], self.tensors[other]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        if a.packed or b.packed:
            return self._same_rows(a, b)
        with a.path.open("rb") as left, b.path.open("rb") as right:
            left.seek(a.offset)
            right.seek(b.offset)
            sizes = (min(a.nbytes - start, _BLOCK_BYTES) for start in range(0, a.nbytes, _BLOCK_BYTES))
            return all(left.read(size) == right.read(size) for size in sizes)

    def _same_rows(self, a: StoredTensor, b: StoredTensor) -> bool:
        import torch

        step = max(1, _BLOCK_BYTES * a.shape[0] // max(1, a.nbytes))
        with self.rows() as read:
            parts = (
                [read(one, start, min(start + step, a.shape[0])).view(torch.uint8) for one in (a, b)]
                for start in range(0, a.shape[0], step)
            )
            return all(torch.equal(*pair) for pair in parts)

    def side_files(self) -> list[Path]:
        """The side files, as paths relative to the checkpoint."""
        found = {path for pattern in SIDE_FILES for path in self.path.glob(pattern) if path.is_file()}
        return sorted(path.relative_to(self.path) for path in found)

    def read_side_file(self, name: Path) -> bytes:
        """The contents of one side file. Raises CheckpointError if it may not be read, see `boundary`."""
        return read_file(self.path / name, self.path)

    def side_file_bytes(self) -> int:
        """The bytes in all side files together, without reading them."""
        return sum((self.path / name).stat().st_size for name in self.side_files())

    def copy_side_files(self, target: Path) -> None:
        """Copy the contents of the side files, not their owner or mode, into the directory `target`."""
        for name in self.side_files():
            (target / name).parent.mkdir(exist_ok=True)
            (target / name).write_bytes(self.read_side_file(name))


@dataclass(frozen=True)
class TensorSource(Source):
    """A checkpoint whose tensors are in memory or memory-mapped. For a loaded model, see `in_memory.tensor_source`."""

    weights: Mapping[str, torch.Tensor]

    def _renamed(self, names: Mapping[str, str], note: str) -> Self:
        weights = {names[name]: tensor for name, tensor in self.weights.items()}
        return replace(super()._renamed(names, note), weights=weights)

    def _contents(self, stored: StoredTensor) -> bytes:
        return bytes(self.weights[stored.name].flatten().tolist())

    def _stored_rows(self) -> AbstractContextManager[Read]:
        from hyperclone_cli.checkpoint.row_io import rows_in_memory

        return nullcontext(rows_in_memory(self.weights))

    def same_bytes(self, one: str, other: str) -> bool:
        """Whether two tensors, by name, have the same dtype, shape and bytes."""
        import torch

        if self.tensors[one].packed or self.tensors[other].packed:
            return super().same_bytes(one, other)
        a, b = self.weights[one], self.weights[other]
        return a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@dataclass(frozen=True)
class GgufSource(TensorSource):
    """A GGUF file, dequantised by transformers, which also makes its side files."""

    @cached_property
    def _side_files(self) -> dict[str, bytes]:
        return read_tokenizer(self.path)

    def side_files(self) -> list[Path]:
        """Tokenizer and chat template, as paths relative to a checkpoint's directory."""
        return sorted(map(Path, self._side_files))

    def read_side_file(self, name: Path) -> bytes:
        """The contents of one side file."""
        return self._side_files[str(name)]

    def side_file_bytes(self) -> int:
        """The bytes in all side files together."""
        return sum(map(len, self._side_files.values()))


def read_tensors(stored: Mapping[Name, StoredTensor]) -> dict[Name, torch.Tensor]:
    """Vectors and single numbers, read as a whole."""
    from hyperclone_cli.checkpoint.row_io import rows_on_disk

    with rows_on_disk(path for one in stored.values() for path in one.paths) as read:
        rows = unpacking(read)
        return {
            name: rows(one._replace(shape=one.shape or (1,)), 0, (one.shape or (1,))[0]).reshape(one.shape)
            for name, one in stored.items()
        }


def stored_tensors(path: Path, weights: Mapping[str, torch.Tensor]) -> dict[str, StoredTensor]:
    """Tensors in memory, described as a safetensors header would: at `path`, offset 0."""

    def dtype(tensor: torch.Tensor) -> str:
        name = str(tensor.dtype).removeprefix("torch.")
        return DTYPES.get(name, name)

    return {name: StoredTensor(name, dtype(tensor), tuple(tensor.shape), path, 0) for name, tensor in weights.items()}
