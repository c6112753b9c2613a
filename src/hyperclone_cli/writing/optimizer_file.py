"""The optimizer of a clone in one file, optimizer.pt, as torch.save writes the state dict of an optimizer."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import torch

from hyperclone_cli.checkpoint.optimizer_state import read_optimizer
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.checkpoint.source import stored_tensors
from hyperclone_cli.checkpoint.training_state import OPTIMIZER_NAME
from hyperclone_cli.planning.optimizer import GrownMoment, GrownOptimizer
from hyperclone_cli.writing.open_numbers import OpenFile, numbers_left_open


@dataclass(frozen=True)
class OptimizerFile(OpenFile):
    """optimizer.pt. A tensor's name in it is "NUMBER.KEY"."""

    optimizer: GrownOptimizer

    @classmethod
    def of(cls, optimizer: GrownOptimizer) -> OptimizerFile:
        held = {f"{number}.{key}": one for number, state in optimizer.state.items() for key, one in state.items()}
        return cls(
            moments={name: one for name, one in held.items() if isinstance(one, GrownMoment)},
            copied={},
            numbers={name: one for name, one in held.items() if isinstance(one, torch.Tensor)},
            optimizer=optimizer,
        )

    @property
    def names(self) -> tuple[str, ...]:
        return (OPTIMIZER_NAME,)

    def lay_out(self, directory: Path) -> None:
        state = {number: dict(one) for number, one in self.optimizer.state.items()}
        groups = list(self.optimizer.groups)
        with numbers_left_open() as empty:
            for name, tensor in self._tensors().items():
                number, key = name.split(".")
                state[int(number)][key] = empty(tensor.dtype, tensor.shape)
            torch.save({"state": state, "param_groups": groups}, directory / OPTIMIZER_NAME)

    def places(self, directory: Path) -> Mapping[str, StoredTensor]:
        path = directory / OPTIMIZER_NAME
        found: dict[str, StoredTensor] = {}
        with ZipFile(path) as archive, path.open("rb") as file:
            entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
            for record, (name, tensor) in enumerate(self._tensors().items()):  # numbered as torch.save meets them
                begin = entries[f"data/{record}"].header_offset
                file.seek(begin)
                lengths = struct.unpack("<26xHH", file.read(30))  # of the name and the extra field that follow
                found[name] = tensor._replace(path=path, offset=begin + 30 + sum(lengths))
        return found

    def read_back(self, directory: Path) -> Mapping[str, tuple[int, ...]]:
        moments = read_optimizer(directory).moments
        return {f"{number}.{key}": one.shape for number, state in moments.items() for key, one in state.items()}

    def _tensors(self) -> dict[str, StoredTensor]:
        """All tensors in the order of the state dict, with no place yet."""
        path = Path(OPTIMIZER_NAME)
        numbers = stored_tensors(path, self.numbers)
        return {
            f"{number}.{key}": StoredTensor(f"{number}.{key}", one.dtype, one.shape, path, 0)
            if isinstance(one, GrownMoment)
            else numbers[f"{number}.{key}"]
            for number, state in self.optimizer.state.items()
            for key, one in state.items()
            if isinstance(one, (GrownMoment, torch.Tensor))
        }
