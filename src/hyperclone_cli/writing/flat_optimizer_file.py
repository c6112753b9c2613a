"""The optimizer of a clone in safetensors: its state, flattened, and its groups in JSON beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hyperclone_cli.checkpoint.safetensors_file import ITEM_BYTES, StoredTensor, create, lay_out, read_header
from hyperclone_cli.checkpoint.source import stored_tensors
from hyperclone_cli.checkpoint.training_state import FLAT_GROUPS_NAME, FLAT_NAME
from hyperclone_cli.planning.optimizer import GrownMoment, GrownOptimizer
from hyperclone_cli.writing.open_numbers import OpenFile


@dataclass(frozen=True)
class FlatOptimizerFile(OpenFile):
    """A tensor's name is "state/NUMBER/KEY".

    groups  the parameter groups, as JSON holds them
    """

    groups: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, optimizer: GrownOptimizer) -> FlatOptimizerFile:
        held = {f"state/{number}/{key}": one for number, state in optimizer.state.items() for key, one in state.items()}
        return cls(
            moments={name: one for name, one in held.items() if isinstance(one, GrownMoment)},
            copied={},
            numbers={name: one for name, one in held.items() if isinstance(one, torch.Tensor)},
            groups=optimizer.groups,
        )

    @property
    def names(self) -> tuple[str, ...]:
        return FLAT_NAME, FLAT_GROUPS_NAME

    def lay_out(self, directory: Path) -> None:
        path = directory / FLAT_NAME
        found = [(name, one.dtype, one.shape) for name, one in self.moments.items()]
        found += [(one.name, one.dtype, one.shape) for one in stored_tensors(path, self.numbers).values()]
        found.sort(key=lambda one: (-ITEM_BYTES[one[1]], one[0]))  # each at a multiple of its size, as loaders expect
        head, tensors = lay_out(path, found)
        os.close(create(path, head, len(head) + sum(one.nbytes for one in tensors)))
        (directory / FLAT_GROUPS_NAME).write_text(json.dumps(self.groups, indent=4) + "\n", encoding="utf-8")

    def places(self, directory: Path) -> Mapping[str, StoredTensor]:
        return read_header(directory / FLAT_NAME)

    def read_back(self, directory: Path) -> Mapping[str, tuple[int, ...]]:
        return {name: one.shape for name, one in self.places(directory).items()}
