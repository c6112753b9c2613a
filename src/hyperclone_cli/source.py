"""Where a checkpoint is, and which tensors it holds. Reads headers only."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from hyperclone_cli.config import read_config, read_json
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.shards import StoredTensor, read_header

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

COMPANIONS = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "tekken.json",
    "*.model", "*.tiktoken", "chat_template*", "additional_chat_templates/*.jinja", "generation_config.json",
    "processor_config.json", "preprocessor_config.json", "*.py", "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
"""Files that go with a model whatever its size; copied byte for byte."""


@dataclass(frozen=True)
class Origin:
    """A model on the Hub. `revision` is a branch, tag or commit as it was asked for, the commit once it is resolved."""

    repo_id: str
    revision: str = "main"


@dataclass(frozen=True)
class Source:
    """A checkpoint on disk: its raw config and the place of each tensor, in the order of their bytes.

    `origin` is where on the Hub it came from, None if it did not.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    origin: Origin | None = field(default=None, kw_only=True)

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

    def copy_companions(self, target: Path) -> None:
        """Copy them into `target`, contents only: ownership and mode are the user's, not the source's."""
        for name in self.companions():
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(self.path / name, target / name)


def open_source(path: Path) -> Source:
    """Read a local checkpoint's config and headers.

    Raises RequestError if there is no such directory, CheckpointError if what is there cannot be used.
    """
    if not path.exists():
        raise RequestError(f"{path}: no such directory.", "Name the directory of a checkpoint.")
    if not path.is_dir():
        raise RequestError(f"{path}: not a directory.", "Name the directory that holds config.json and the weights.")
    config = read_config(path)
    # where both exist, transformers loads the single file
    if (path / SINGLE_NAME).exists():
        return Source(path, config, read_header(path / SINGLE_NAME))
    if (path / INDEX_NAME).exists():
        return Source(path, config, _read_sharded(path))
    raise CheckpointError(
        f"{path}: neither {SINGLE_NAME} nor {INDEX_NAME}.",
        "Save the model with transformers' save_pretrained first: it writes safetensors.",
    )


def _read_sharded(path: Path) -> dict[str, StoredTensor]:
    index = path / INDEX_NAME
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: no weight_map from tensor to file.", "Fetch the file again.")
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(weight_map.values())):
        if PurePosixPath(shard).name != shard or "\\" in shard or shard in ("", ".", ".."):
            raise CheckpointError(f"{index}: shard name {shard!r} leads out of the directory.", "Do not use this file.")
        if not (path / shard).is_file():
            raise CheckpointError(
                f"{path / shard}: missing shard; the index expects it.", "Fetch the file and run again."
            )
        for name, tensor in read_header(path / shard).items():
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
