"""Open a local checkpoint, in whichever of its kinds it is. Of safetensors only headers are read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from hyperclone_cli.checkpoint import distributed
from hyperclone_cli.checkpoint.boundary import check_entries
from hyperclone_cli.checkpoint.gguf import DEFAULT_DTYPE, is_gguf, read_model
from hyperclone_cli.checkpoint.json_config import read_config, read_json
from hyperclone_cli.checkpoint.leftovers import explain
from hyperclone_cli.checkpoint.safetensors_file import check_regular_file, read_header
from hyperclone_cli.checkpoint.source import (
    BIN_INDEX_NAME,
    BIN_NAME,
    INDEX_NAME,
    SIDE_FILES,
    SINGLE_NAME,
    GgufSource,
    Source,
    TensorSource,
    matches_any,
    stored_tensors,
)
from hyperclone_cli.errors import CheckpointError, RequestError, first_of

if TYPE_CHECKING:
    import torch

_READ = (*SIDE_FILES, "README.md", "config.json", "adapter_config.json", "*.safetensors", "*.bin", "*.json", "*.jinja")
"""All that is read of a checkpoint, here or by transformers."""


def open_source(
    path: Path, dtype: str | None = None, wrap: Callable[[Source], Source] = lambda source: source
) -> Source:
    """Open a local checkpoint: a GGUF file, or a directory with safetensors or, failing those, `.bin` files.

    dtype  what a GGUF file or quantised tensors are dequantised to; None: bfloat16, or what config.json says
    wrap   makes the source one whose weights lie elsewhere, before anything is read of them

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
    return wrap(source).plainly_named().unpacked(dtype)


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
        found = read(path / shard)
        for name in found:
            if weight_map.get(name) != shard:
                raise CheckpointError(
                    f"{index}: tensor {name!r} lies in {shard}, the index says {weight_map.get(name)}.",
                    "Take the index and the shards of one revision, or of one save_pretrained.",
                )
        tensors |= found
    absent = [name for name in weight_map if name not in tensors]
    if absent:
        raise CheckpointError(
            f"{path / weight_map[absent[0]]}: tensor {absent[0]!r} is absent; {index.name} lists it there.",
            "Take the index and the shards of one revision, or of one save_pretrained.",
        )
    return tensors
