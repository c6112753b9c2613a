"""The parameters of a model in memory, each with its line of the recipe, and which of its coordinates are new."""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from hyperclone_cli.checkpoint.json_config import read_json
from hyperclone_cli.errors import CheckpointError, first_of
from hyperclone_cli.families.vocabulary import ANY
from hyperclone_cli.growth.recipe import Recipe, TensorLine, parts_of
from hyperclone_cli.growth.widths import grow_axes
from hyperclone_cli.writing.clone_files import RECIPE_NAME

Model: TypeAlias = nn.Module | Iterable[tuple[str, nn.Parameter]]
"""A model, or the names and parameters of one."""


def read_recipe(clone: str | Path) -> Recipe:
    """The recipe in the directory of a clone. Raises CheckpointError if there is none, or it is damaged."""
    path = Path(clone) / RECIPE_NAME
    return Recipe.of(read_json(path), path)


@dataclass(frozen=True)
class Trained:
    """A parameter that is trained.

    line     what the recipe says of it; None if that says nothing: it is trained as the source's were
    numbers  those in its name: the layer, then the expert or other unit
    """

    name: str
    parameter: nn.Parameter
    line: TensorLine | None
    numbers: tuple[int, ...] = ()

    @property
    def rate(self) -> float:
        """Its rate, over that of the source."""
        return self.line.rate if self.line else 1.0

    @property
    def decays(self) -> bool:
        """Whether weight decay is for it."""
        return self.line.decays if self.line else self.parameter.dim() > 1

    def new(self, recipe: Recipe) -> torch.Tensor | None:
        """Which of its coordinates are new: True where they are, of a shape that broadcasts to its own; None: none is.

        Copy 0 of every unit is the source's own. All else is new: other copies, padding, new layers and experts.
        Raises CheckpointError if the parameter is not as large as the recipe says.
        """
        line = self.line
        if line is None or not line.dimensions:
            return None
        if line.new or (self.numbers and self.numbers[0] in recipe.new_layers()):
            return torch.ones((), dtype=torch.bool)
        if line.numbered and bool(_new_units(line.numbered, recipe)[self.numbers[-1]]):
            return torch.ones((), dtype=torch.bool)
        parts = [
            self._spread(_new_units(packed, recipe), place)
            for place, packed in enumerate(line.dimensions)
            if packed != ANY and self.parameter.dim()
        ]
        return reduce(torch.logical_or, parts) if any(bool(part.any()) for part in parts) else None

    def _spread(self, units: torch.Tensor, place: int) -> torch.Tensor:
        """What is so of the units of one dimension, (out, in, …), as it broadcasts to the parameter."""
        assert self.line is not None
        shape, matrices = list(self.parameter.shape), self.line.matrices
        matrix = shape[1:] if matrices and len(shape) == len(self.line.dimensions) + 1 else shape
        stacked, first = len(matrix) < len(shape), len(shape) - len(matrix)
        at = first + (len(matrix) - 1 - place if self.line.transposed else place)
        sizes = [1] * len(shape)
        sizes[at] = shape[at]
        if stacked and place == 0:  # the rows of all matrices
            sizes[0] = shape[0]
        if units.numel() != math.prod(sizes):
            raise CheckpointError(
                f"parameter {self.name}: recipe.json makes dimension {at} {units.numel()}, found shape {shape}.",
                "The model and the recipe do not belong together; parameters that are cut into shards are not told.",
            )
        return units.reshape(sizes)


def trained(model: Model, recipe: Recipe) -> list[Trained]:
    """The parameters of a model that are trained, each with its line of the recipe.

    Names may have more or fewer parts in front than the checkpoint's, as wrappers give them. A warning names parameters
    of which the recipe says nothing, such as experts that transformers computes with in another layout than it stores.
    """
    named = model.named_parameters() if isinstance(model, nn.Module) else model
    lines = _by_name(recipe)
    found = [_find(name, parameter, lines) for name, parameter in named if parameter.requires_grad]
    unknown = [one.name for one in found if one.line is None]
    if unknown:
        warnings.warn(
            f"recipe.json says nothing of {first_of(unknown, 3)}: the source's rate, and nothing new.", stacklevel=3
        )
    return found


def _find(name: str, parameter: nn.Parameter, lines: Mapping[str, list[TensorLine]]) -> Trained:
    parts = name.split(".")
    for first in range(len(parts)):
        inside = ".".join(parts[first:])
        for line in lines.get(_starred(inside), ()):
            numbers = line.numbers_in(inside)
            if numbers is None:  # the line has a part more in front
                numbers = line.numbers_in(f"{line.name.partition('.')[0]}.{inside}")
            if numbers is not None:
                return Trained(name, parameter, line, numbers)
    return Trained(name, parameter, None)


def _by_name(recipe: Recipe) -> dict[str, list[TensorLine]]:
    """Name with a `*` for every number → lines; also without its first part, where no other line has that name."""
    lines: dict[str, list[TensorLine]] = defaultdict(list)
    for line in recipe.tensors:
        lines[_starred(line.name)].append(line)
    for name in [*lines]:
        lines.setdefault(name.partition(".")[2], lines[name])
    return lines


def _starred(name: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def _new_units(packed: str, recipe: Recipe) -> torch.Tensor:
    """Which units of packed widths are no copy 0: (units,), bool."""
    runs = grow_axes(parts_of(packed), recipe.widths).runs
    new = torch.tensor([run.is_padding or run.copy > 0 for run in runs], dtype=torch.bool)
    return new.repeat_interleave(torch.tensor([run.length for run in runs], dtype=torch.long))
