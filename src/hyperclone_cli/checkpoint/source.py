"""Where a checkpoint is, which tensors it holds, and how their rows are read. Of safetensors, reads headers only."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from hyperclone_cli.checkpoint.gguf import DEFAULT_DTYPE, is_gguf, read_model, read_tokenizer
from hyperclone_cli.checkpoint.json_config import read_config, read_json
from hyperclone_cli.checkpoint.ordinary_file import check_is_file
from hyperclone_cli.checkpoint.safetensors_file import FLOAT_DTYPES, StoredTensor, read_header
from hyperclone_cli.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
BIN_INDEX_NAME = "pytorch_model.bin.index.json"
BIN_NAME = "pytorch_model.bin"

WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
"""What safetensors and their index are called in every checkpoint that transformers writes."""

READ_WITH_MODEL = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "tekken.json",
    "emoji.json", "*.model", "*.tiktoken", "chat_template*", "additional_chat_templates/*.jinja",
    "generation_config.json", "processor_config.json", "preprocessor_config.json",
)  # fmt: skip
"""Files that decide what a model is fed and how it is decoded, if they are there."""

COMPANIONS = (
    *READ_WITH_MODEL, "*.py",
    "LICEN[CS]E*", "Licen[cs]e*", "licen[cs]e*", "COPYING*", "NOTICE*", "Notice*", "USE_POLICY*",
)  # fmt: skip
"""Files that go with a model whatever its size; copied byte for byte."""


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a path inside a checkpoint is one that any of the patterns finds there."""
    return any(name.count("/") == pattern.count("/") and fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Origin:
    """A model on the Hub. `revision` is a branch, tag or commit as it was asked for, the commit once it is resolved."""

    repo_id: str
    revision: str = "main"


@dataclass(frozen=True)
class Source:
    """A checkpoint in safetensors: its raw config and the place of each tensor, in the order of their bytes.

    `notes` are what the user should know about how it is read; `origin` is where on the Hub it came from.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    origin: Origin | None = field(default=None, kw_only=True)

    def rows(self) -> AbstractContextManager[Read]:
        """What reads the tensors' rows, from files that are open meanwhile."""
        from hyperclone_cli.checkpoint.row_io import rows_on_disk

        return rows_on_disk(tensor.path for tensor in self.tensors.values())

    def same_bytes(self, one: str, other: str) -> bool:
        """Whether two stored tensors are equal to the last bit. Reads them block by block."""
        a, b = self.tensors[one], self.tensors[other]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        with a.path.open("rb") as left, b.path.open("rb") as right:
            left.seek(a.offset)
            right.seek(b.offset)
            todo = a.nbytes
            while todo:
                block = min(todo, 1 << 22)
                if left.read(block) != right.read(block):
                    return False
                todo -= block
        return True

    def companions(self) -> list[Path]:
        """Tokenizer, chat template, generation config, licence and custom code, as paths inside the checkpoint."""
        found = {path for pattern in COMPANIONS for path in self.path.glob(pattern) if path.is_file()}
        return sorted(path.relative_to(self.path) for path in found)

    def companion(self, name: Path) -> bytes:
        """The contents of one of them."""
        return (self.path / name).read_bytes()

    def companion_bytes(self) -> int:
        """How much room all of them take."""
        return sum((self.path / name).stat().st_size for name in self.companions())

    def copy_companions(self, target: Path) -> None:
        """Copy them into `target`, contents only: ownership and mode are the user's, not the source's."""
        for name in self.companions():
            (target / name).parent.mkdir(exist_ok=True)
            (target / name).write_bytes(self.companion(name))


@dataclass(frozen=True)
class TensorSource(Source):
    """A checkpoint whose tensors are in memory, or mapped into it. Make one with `tensor_source`."""

    weights: Mapping[str, torch.Tensor]

    def rows(self) -> AbstractContextManager[Read]:
        """What cuts the tensors' rows."""
        from hyperclone_cli.checkpoint.row_io import rows_in_memory

        return nullcontext(rows_in_memory(self.weights))

    def same_bytes(self, one: str, other: str) -> bool:
        """Whether two tensors are equal to the last bit."""
        import torch

        a, b = self.weights[one], self.weights[other]
        return a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@dataclass(frozen=True)
class GgufSource(TensorSource):
    """A GGUF file as the checkpoint that transformers makes of it: its companions are made, not found."""

    @cached_property
    def _files(self) -> dict[str, bytes]:
        return read_tokenizer(self.path)

    def companions(self) -> list[Path]:
        """Tokenizer and chat template, as paths inside the checkpoint."""
        return sorted(map(Path, self._files))

    def companion(self, name: Path) -> bytes:
        """The contents of one of them."""
        return self._files[str(name)]

    def companion_bytes(self) -> int:
        """How much room all of them take."""
        return sum(map(len, self._files.values()))


def stored_tensors(path: Path, weights: Mapping[str, torch.Tensor]) -> dict[str, StoredTensor]:
    """Tensors in memory as a header would describe them."""

    def dtype(tensor: torch.Tensor) -> str:
        name = str(tensor.dtype).removeprefix("torch.")
        return FLOAT_DTYPES.get(name, name)

    return {name: StoredTensor(name, dtype(tensor), tuple(tensor.shape), path, 0) for name, tensor in weights.items()}


def open_source(path: Path, dtype: str | None = None) -> Source:
    """Read a local checkpoint's config and headers: safetensors, `.bin` where there are none, or a GGUF file.

    `dtype` is what a quantised file is dequantised to; None takes bfloat16.
    Raises RequestError if there is no such directory, CheckpointError if what is there cannot be used.
    """
    if not path.exists():
        raise RequestError(f"{path}: no such directory.", "Name the directory of a checkpoint.")
    if path.is_file() and is_gguf(path):
        return _open_gguf(path, dtype)
    if not path.is_dir():
        raise RequestError(
            f"{path}: not a directory.", "Name the directory that holds config.json and the weights, or a GGUF file."
        )
    files = sorted(filter(is_gguf, path.iterdir()))
    if files and not (path / "config.json").exists():
        raise RequestError(f"{path}: a directory with GGUF files.", f"Name one of them: --src {files[0]}")
    config = read_config(path)
    # where both exist, transformers loads the single file
    if (path / SINGLE_NAME).exists():
        return Source(path, config, read_header(path / SINGLE_NAME))
    if (path / INDEX_NAME).exists():
        return Source(path, config, _read_sharded(path / INDEX_NAME, read_header))
    if (path / BIN_NAME).exists() or (path / BIN_INDEX_NAME).exists():
        return _open_bins(path, config)
    raise CheckpointError(
        f"{path}: neither {SINGLE_NAME} nor {BIN_NAME}, whole or as shards with their index.",
        "Save the model with transformers' save_pretrained first: it writes safetensors.",
    )


def _open_bins(path: Path, config: Mapping[str, Any]) -> TensorSource:
    from hyperclone_cli.checkpoint.torch_bin import can_be_mapped, read_bin

    unmapped: list[str] = []

    def read(file: Path) -> dict[str, torch.Tensor]:
        check_is_file(file)
        if not can_be_mapped(file):
            unmapped.append(file.name)
        return read_bin(file)

    single = path / BIN_NAME
    weights = read(single) if single.exists() else _read_sharded(path / BIN_INDEX_NAME, read)
    notes = (
        (f"{unmapped[0]} is in torch's old format, which takes as much memory as it has bytes.",) if unmapped else ()
    )
    return TensorSource(path, config, stored_tensors(path, weights), weights, notes=notes)


def _open_gguf(path: Path, dtype: str | None) -> GgufSource:
    dtype = dtype or DEFAULT_DTYPE
    config, weights = read_model(path, dtype)
    note = f"{path.name} is dequantised to {dtype}, whole and in memory; --dtype chooses another."
    return GgufSource(path, config, stored_tensors(path, weights), weights, notes=(note,))


def read_index(index: Path) -> dict[str, str]:
    """Tensor → shard, as an index has it. Raises CheckpointError for a damaged one."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: no weight_map from tensor to file.", "Fetch the file again.")
    return weight_map


Tensor = TypeVar("Tensor")


def _read_sharded(index: Path, read: Callable[[Path], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Name → tensor of every shard that an index names. Raises CheckpointError where the two contradict each other."""
    path, weight_map = index.parent, read_index(index)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if PurePosixPath(shard).name != shard or "\\" in shard or shard in ("", ".", ".."):
            raise CheckpointError(f"{index}: shard name {shard!r} leads out of the directory.", "Do not use this file.")
        if not os.path.isfile(path / shard):  # which takes no name for an error, however long
            raise CheckpointError(
                f"{path / shard}: missing shard; the index expects it.", "Fetch the file and run again."
            )
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
            f"{path / weight_map[absent[0]]}: tensor {absent[0]!r} is absent; the index expects it there.",
            "Fetch the index and the shards again, from one revision.",
        )
    return tensors
