"""A training state as a distributed checkpoint (DCP), by torch's own writer, its numbers left open.

It holds what the one that the source was read from holds, under the same keys: torch.distributed.checkpoint loads it
into the clone's state dicts as it loaded that into the source's. Every tensor is in one part: FSDP cuts it as it reads.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from hyperclone_cli.checkpoint.distributed import METADATA_NAME, Beside, Keys, Layout, joined_keys, places_in
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.checkpoint.source import read_tensors, stored_tensors
from hyperclone_cli.planning.grown_tensor import GrownTensor
from hyperclone_cli.planning.optimizer import GrownMoment, GrownOptimizer
from hyperclone_cli.writing.open_numbers import OpenFile, numbers_left_open

_NUMBERS = "__0_0.distcp"


@dataclass(frozen=True)
class DistributedFile(OpenFile):
    """A directory with a distributed checkpoint. A tensor's name in it is its keys, joined.

    place    the directory, relative to the clone
    held     keys → what is there: a tensor of one of the three kinds, an object, or where the bytes of one lie
    """

    place: PurePosixPath
    held: Mapping[Keys, Any]

    @classmethod
    def of(cls, optimizer: GrownOptimizer, place: PurePosixPath, layout: Layout, beside: Beside) -> DistributedFile:
        """What a distributed checkpoint of the source, of this layout, is in the clone."""
        weights = _weights(optimizer, layout) if layout.model is not None else {}
        state = _optimizer_state(optimizer, layout) if layout.optimizer is not None else {}
        numbers = read_tensors(beside.tensors) | {keys: one for keys, one in state.items() if _is_number(one)}
        return cls(
            moments={joined_keys(keys): one for keys, one in state.items() if isinstance(one, GrownMoment)},
            copied={joined_keys(keys): one for keys, one in weights.items()},
            numbers={joined_keys(keys): one for keys, one in numbers.items()},
            place=place,
            held={**weights, **state, **numbers, **beside.objects},
        )

    @property
    def names(self) -> tuple[str, ...]:
        return str(self.place / _NUMBERS), str(self.place / METADATA_NAME)

    def lay_out(self, directory: Path) -> None:
        objects = {keys: _bytes(one) for keys, one in self.held.items() if isinstance(one, StoredTensor)}
        numbers = stored_tensors(Path(), self.numbers)
        state_dict: dict[Any, Any] = {}
        with numbers_left_open() as empty:
            for keys, one in self.held.items():
                tensor = one if isinstance(one, (GrownMoment, GrownTensor)) else numbers.get(joined_keys(keys))
                value = empty(tensor.dtype, tensor.shape) if tensor else objects.get(keys, one)
                set_element(state_dict, keys, value)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that there is one process
                save(state_dict, storage_writer=_Writer(directory / self.place), planner=_Planner(), no_dist=True)

    def places(self, directory: Path) -> Mapping[str, StoredTensor]:
        return places_in(directory / self.place)

    def read_back(self, directory: Path) -> Mapping[str, tuple[int, ...]]:
        return {name: one.shape for name, one in self.places(directory).items()}


def _is_number(one: object) -> bool:
    return isinstance(one, torch.Tensor)


def _weights(optimizer: GrownOptimizer, layout: Layout) -> dict[Keys, GrownTensor]:
    return {(*(layout.model or ()), f"{layout.prefix}{name}"): one for name, one in optimizer.weights.items()}


def _optimizer_state(optimizer: GrownOptimizer, layout: Layout) -> dict[Keys, Any]:
    """Keys → what is there, of the state dict of the optimizer. Torchtitan flattens it: "state.NAME.exp_avg"."""
    start = layout.optimizer or ()
    names = [f"{layout.prefix}{name}" for name in optimizer.names]
    found: dict[Keys, Any] = {}
    for number, state in optimizer.state.items():
        for key, one in state.items():
            inner = (f"state.{names[number]}.{key}",) if layout.by_name else ("state", names[number], key)
            found[*start, *inner] = one
    for place, group in enumerate(optimizer.groups):
        members = [names[number] for number in group["params"]]
        for key, item in ({**group, "params": members}).items():
            if not layout.by_name:
                found[*start, "param_groups", place, key] = item
            elif key not in ("params", "param_names"):
                found |= {(*start, f"param_groups.{name}.{key}"): item for name in members}
    return found


def _bytes(place: StoredTensor) -> io.BytesIO:
    with place.path.open("rb") as file:
        file.seek(place.offset)
        return io.BytesIO(file.read(place.nbytes))


class _Planner(DefaultSavePlanner):
    """Takes objects that are bytes already as they are."""

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:
        return object if isinstance(object, io.BytesIO) else super().transform_object(write_item, object)


class _Writer(FileSystemWriter):
    """Writes one file, seeking past numbers that are left open, and nothing that differs from one run to the next."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        written = []
        with (Path(self.path) / _NUMBERS).open("wb") as file:
            for item in plan.items:
                begin, data = file.tell(), planner.resolve_data(item)
                if isinstance(data, io.BytesIO):
                    file.write(data.getbuffer())
                else:
                    torch.save(data, file)
                length = file.tell() - begin
                written.append(WriteResult(item.index, length, _StorageInfo(_NUMBERS, begin, length)))
        done: Future[list[WriteResult]] = Future()
        done.set_result(written)
        return done

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()
