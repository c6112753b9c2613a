"""Distributed checkpoints as FSDP writes them, by torch's own writer, tensors cut into parts as by many processes."""

from __future__ import annotations

import warnings
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import save as save_state


class Cut(torch.Tensor):
    """A tensor in `parts` along dimension `cut`, which torch's writer asks for as it asks a DTensor."""

    parts: int
    cut: int

    @classmethod
    def of(cls, tensor: torch.Tensor, parts: int, dim: int) -> Cut:
        made = tensor.as_subclass(cls)
        made.parts, made.cut = parts, dim
        return made

    def _chunks(self) -> list[tuple[torch.Size, torch.Tensor]]:
        dim, pieces = self.cut, self.as_subclass(torch.Tensor).chunk(self.parts, self.cut)
        starts = [0, *accumulate(piece.shape[dim] for piece in pieces)]
        zeros = [0] * self.dim()
        return [
            (torch.Size([*zeros[:dim], start, *zeros[dim + 1 :]]), piece.contiguous())
            for start, piece in zip(starts, pieces, strict=False)
        ]

    def __create_write_items__(self, name: str, _: object) -> list[WriteItem]:
        properties = TensorProperties.create_from_tensor(self)
        return [
            WriteItem(
                index=MetadataIndex(name, place),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(ChunkStorageMetadata(place, piece.shape), properties, self.size()),
            )
            for place, piece in self._chunks()
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(place, piece.shape) for place, piece in self._chunks()]

    def __get_tensor_shard__(self, index: MetadataIndex) -> torch.Tensor:
        return next(piece for place, piece in self._chunks() if place == index.offset)


def save(tensors: dict[str, torch.Tensor], out: Path, parts: int = 1, dim: int = 0) -> None:
    """Write `tensors` as the model of a training state, each cut into `parts` along dimension `dim` if it has that."""
    _save({"model": _cut(tensors, parts, dim), "optimizer": {"state": torch.ones(4)}, "step": 500}, out)


def save_run(
    weights: dict[str, torch.Tensor], state: dict[str, Any], names: dict[int, str], out: Path, parts: int = 1
) -> None:
    """Write weights and the state dict of an optimizer as accelerate does for FSDP, each tensor cut into `parts`."""
    named = {names[number]: _cut(one, parts, 0) for number, one in state["state"].items()}
    groups = [group | {"params": [names[number] for number in group["params"]]} for group in state["param_groups"]]
    _save({"model": _cut(weights, parts, 0)}, out / "pytorch_model_fsdp_0")
    _save({"optimizer": {"state": named, "param_groups": groups}}, out / "optimizer_0")


def _cut(tensors: dict[str, torch.Tensor], parts: int, dim: int) -> dict[str, Any]:
    return {
        name: Cut.of(tensor, parts, dim) if parts > 1 and tensor.dim() > dim else tensor
        for name, tensor in tensors.items()
    }


def _save(state: dict[str, Any], out: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process
        save_state(state, storage_writer=FileSystemWriter(out, thread_count=2), no_dist=True)
