"""A local checkpoint: its config, where its tensors lie, and its side files. Of safetensors only headers are read."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self, TypeVar

from hyperclone_cli.checkpoint import distributed
from hyperclone_cli.checkpoint.boundary import check_entries, read_file
from hyperclone_cli.checkpoint.gguf import DEFAULT_DTYPE, is_gguf, read_model, read_tokenizer
from hyperclone_cli.checkpoint.json_config import read_config, read_json
from hyperclone_cli.checkpoint.leftovers import check_names, explain, plain_names
from hyperclone_cli.checkpoint.quantised.packed import unpacking
from hyperclone_cli.checkpoint.quantised.unpack import unpack
from hyperclone_cli.checkpoint.safetensors_file import (
    DTYPES,
    StoredTensor,
    check_regular_file,
    read_header,
)
from hyperclone_cli.errors import CheckpointError, RequestError, first_of

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read

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
    "generation_config.json", "processor_config.json", "preprocessor_config.json",
)  # fmt: skip
"""Optional files that decide what a model is fed and how it decodes: loaders read them with the weights."""

SIDE_FILES = (
    *READ_WITH_MODEL, "*.py",
    "LICEN[CS]E*", "Licen[cs]e*", "licen[cs]e*", "COPYING*", "NOTICE*", "Notice*", "USE_POLICY*",
)  # fmt: skip
"""Side files: tokenizer, chat template, generation config, custom code, licence. Copied byte for byte to a clone."""

_READ = (*SIDE_FILES, "README.md", "config.json", "adapter_config.json", "*.safetensors", "*.bin", "*.json", "*.jinja")
"""All that is read of a checkpoint, here or by transformers."""


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether any of the glob patterns matches `name`, a path relative to a checkpoint. `*` does not match "/"."""
    return any(name.count("/") == pattern.count("/") and fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Origin:
    """A model on the Hub. `revision` is the branch, tag or commit that was asked for; once resolved, the commit."""

    repo_id: str
    revision: str = "main"


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
        check_names(self.path, {plain[name]: tensor for name, tensor in self.tensors.items()})
        return self._renamed(plain, note) if note else self

    def _renamed(self, names: Mapping[str, str], note: str) -> Self:
        tensors = {names[name]: replace(tensor, name=names[name]) for name, tensor in self.tensors.items()}
        return replace(self, tensors=tensors, notes=(*self.notes, note), foreign=True)

    def unpacked(self, dtype: str | None = None) -> Self:
        """The checkpoint with quantised tensors as what they stand for, in `dtype`, and no word of it in the config.

        Raises CheckpointError if it is quantised in a way that is not understood.
        """
        found = unpack(self.config, self.tensors, self.path, dtype)
        return replace(self, config=found.config, tensors=found.tensors, notes=(*self.notes, *found.notes))

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


def stored_tensors(path: Path, weights: Mapping[str, torch.Tensor]) -> dict[str, StoredTensor]:
    """Tensors in memory, described as a safetensors header would: at `path`, offset 0."""

    def dtype(tensor: torch.Tensor) -> str:
        name = str(tensor.dtype).removeprefix("torch.")
        return DTYPES.get(name, name)

    return {name: StoredTensor(name, dtype(tensor), tuple(tensor.shape), path, 0) for name, tensor in weights.items()}


def open_source(path: Path, dtype: str | None = None) -> Source:
    """Open a local checkpoint: a GGUF file, or a directory with safetensors or, failing those, `.bin` files.

    dtype  what a GGUF file or quantised tensors are dequantised to; None: bfloat16, or what config.json says

    Raises RequestError if `path` is neither, CheckpointError if the checkpoint is unsupported or damaged.
    """
    if not path.exists():
        raise RequestError(f"{path}: no such directory.", "Name the directory of a checkpoint.")
    if path.is_file() and is_gguf(path):
        return _open_gguf(path, dtype)
    if not path.is_dir():
        raise RequestError(
            f"{path}: not a directory.", "Name the directory with config.json and the weights, or a GGUF file."
        )
    files = sorted(filter(is_gguf, path.iterdir()))
    if files and not (path / "config.json").exists():
        raise RequestError(f"{path}: a directory of GGUF files.", f"Name one of them: --src {files[0]}")
    check_entries(path, _READ, whole=(*SIDE_FILES, "README.md"))
    if any((path / name).exists() for name in (SINGLE_NAME, INDEX_NAME, BIN_NAME, BIN_INDEX_NAME)):
        source = _open_weights(path)
    elif parts := distributed.metadata_of(path):
        source = _open_distributed(path, parts)
    else:
        raise explain(path) or _no_weights(path)
    notes = [*code_notes(file.name for file in path.glob("*.py")), *source.notes]
    adapter = (path / "adapter_config.json").exists()
    if adapter:  # transformers would load the adapter, and the base model that it names, where peft is installed
        notes.append("adapter_config.json is left out: the weights beside it are whole.")
    source = replace(source, notes=tuple(notes), foreign=source.foreign or adapter)
    return source.plainly_named().unpacked(dtype)


def _open_weights(path: Path) -> Source:
    config = read_config(path)
    # if both exist, transformers loads the single file
    if (path / SINGLE_NAME).exists():
        return Source(path, config, read_header(path / SINGLE_NAME))
    if (path / INDEX_NAME).exists():
        return Source(path, config, _read_sharded(path / INDEX_NAME, read_header))
    return _open_bins(path, config)


def _open_distributed(path: Path, parts: Path) -> Source:
    if not (path / "config.json").exists():
        beside = path.parent / "config.json"
        raise CheckpointError(
            f"{path}: a distributed checkpoint (DCP) without the config.json of its model.",
            f"Name the directory around it: --src {path.parent}" if beside.exists() else f"Copy it to {path}.",
        )
    note = f"The weights are those of the distributed checkpoint in {parts.relative_to(path.parent)}."
    tensors = distributed.read_distributed(parts, path)
    return Source(path, read_config(path), tensors, notes=(note,), foreign=True)


def _no_weights(path: Path) -> CheckpointError:
    if not (path / "config.json").exists():
        return CheckpointError(f"{path / 'config.json'}: no such file.", "Name a directory in the Hugging Face layout.")
    return CheckpointError(
        f"{path}: neither {SINGLE_NAME} nor {BIN_NAME} was found, nor an index of shards of either.",
        "Save the model with transformers' save_pretrained first: it writes safetensors.",
    )


def code_notes(names: Iterable[str]) -> tuple[str, ...]:
    """A note that names the Python files among the side files, if there are any."""
    code = sorted(name for name in names if matches_any(name, ("*.py",)))
    return (f"Code, copied to the clone and published with it, but never run: {first_of(code)}.",) if code else ()


def _open_bins(path: Path, config: Mapping[str, Any]) -> TensorSource:
    from hyperclone_cli.checkpoint.torch_bin import can_be_mapped, read_bin

    old_format: list[str] = []

    def read(file: Path) -> dict[str, torch.Tensor]:
        check_regular_file(file)
        if not can_be_mapped(file):
            old_format.append(file.name)
        return read_bin(file)

    single = path / BIN_NAME
    weights = read(single) if single.exists() else _read_sharded(path / BIN_INDEX_NAME, read)
    notes = [f"{name} is in torch's old format: it is held in memory as a whole." for name in old_format[:1]]
    return TensorSource(path, config, stored_tensors(path, weights), weights, notes=tuple(notes))


def _open_gguf(path: Path, dtype: str | None) -> GgufSource:
    dtype = dtype or DEFAULT_DTYPE
    from hyperclone_cli.checkpoint.row_io import rows_in_memory
    from hyperclone_cli.checkpoint.spool import mapped, write_checkpoint

    config, weights = read_model(path, dtype)
    tensors = stored_tensors(path, weights)
    with tempfile.TemporaryDirectory(prefix="hyperclone-") as directory:  # the file lives on until nothing maps it
        placed = write_checkpoint(Path(directory), config, tensors.values(), rows_in_memory(weights))
        weights = mapped(placed)
    note = f"{path.name} is dequantised to {dtype}, into a temporary file; --dtype chooses another dtype."
    return GgufSource(path, config, tensors, weights, notes=(note,))


def read_index(index: Path) -> dict[str, str]:
    """Tensor name → shard file of an index, a plain name. Raises CheckpointError if the index is damaged."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: no weight_map from tensor names to file names.", "Fetch the file again.")
    for shard in sorted(set(weight_map.values())):
        if PurePosixPath(shard).name != shard or "\\" in shard or shard in ("", ".", ".."):
            raise CheckpointError(f"{index}: shard name {shard!r} leads out of the directory.", "Do not use this file.")
    return weight_map


Tensor = TypeVar("Tensor")


def _read_sharded(index: Path, read: Callable[[Path], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Name → tensor of every shard of an index. Raises CheckpointError where index and shards disagree."""
    path, weight_map = index.parent, read_index(index)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if not os.path.isfile(path / shard):  # unlike Path.is_file, it raises nothing for a name that is too long
            raise CheckpointError(f"{path / shard}: missing shard, listed in {index.name}.", "Fetch the file.")
        for name, tensor in read(path / shard).items():
            if weight_map.get(name) != shard:
                raise CheckpointError(
                    f"{index}: tensor {name!r} lies in {shard}, the index says {weight_map.get(name)}.",
                    "Fetch the index and the shards again, from one revision.",
                )
            tensors[name] = tensor
    absent = [name for name in weight_map if name not in tensors]
    if absent:
        raise CheckpointError(
            f"{path / weight_map[absent[0]]}: tensor {absent[0]!r} is absent; {index.name} lists it there.",
            "Fetch the index and the shards again, from one revision.",
        )
    return tensors
