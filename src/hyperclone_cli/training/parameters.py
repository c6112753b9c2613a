"""The parameters of a model in memory, each with its line of the recipe, and which of its coordinates are new."""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import takewhile
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
class Stored:
    """A tensor of the checkpoint, as it lies in a parameter.

    shape    there
    line     what the recipe says of it; None if that says nothing: it is trained as the source's were
    numbers  those in its name: the layer, then the expert or other unit
    """

    name: str
    shape: tuple[int, ...]
    line: TensorLine | None
    numbers: tuple[int, ...] = ()

    @property
    def rate(self) -> float:
        return self.line.rate if self.line else 1.0

    @property
    def decays(self) -> bool:
        return self.line.decays if self.line else len(self.shape) > 1

    def new(self, recipe: Recipe) -> torch.Tensor | None:
        """As `Trained.new`, of a shape that broadcasts to this one's."""
        line = self.line
        if line is None or not line.dimensions:
            return None
        if line.new or (self.numbers and self.numbers[0] in recipe.new_layers()):
            return torch.ones((), dtype=torch.bool)
        if line.numbered and bool(_new_units(line.numbered, recipe)[self.numbers[-1]]):
            return torch.ones((), dtype=torch.bool)
        shape = self._in_matrices(line)
        packed = [width for width in line.dimensions if width != "1" or len(shape) >= len(line.dimensions)]
        parts = [
            self._spread(line, _new_units(width, recipe), shape, place, len(packed))
            for place, width in enumerate(packed)
            if width != ANY and shape
        ]
        if not any(bool(part.any()) for part in parts):
            return None
        new = reduce(torch.logical_or, parts)
        return new if shape == self.shape else new.expand(shape).reshape(self.shape)

    def _in_matrices(self, line: TensorLine) -> tuple[int, ...]:
        """The shape, of (in, out) matrices that lie below each other with a dimension more for their number."""
        if line.transposed and line.matrices and len(self.shape) == len(line.dimensions):
            return (line.matrices, self.shape[0] // line.matrices, *self.shape[1:])
        return self.shape

    def _spread(
        self, line: TensorLine, units: torch.Tensor, shape: tuple[int, ...], place: int, dimensions: int
    ) -> torch.Tensor:
        """What is so of the units of one of the `dimensions`, (out, in, …), as it broadcasts to `shape`."""
        first = int(line.matrices > 0 and len(shape) == dimensions + 1)
        at = first + (len(shape) - first - 1 - place if line.transposed else place)
        sizes = [1] * len(shape)
        if at < len(shape):
            sizes[at] = shape[at]
        if first and place == 0:  # the rows of all matrices
            sizes[0] = shape[0]
        if units.numel() != math.prod(sizes):
            raise CheckpointError(
                f"parameter {self.name}: recipe.json makes dimension {at} {units.numel()}, found shape {list(shape)}.",
                "The model and the recipe do not belong together; parameters that are cut into shards are not told.",
            )
        return units.reshape(sizes)


@dataclass(frozen=True)
class Trained:
    """A parameter that is trained.

    parts  first row → the tensor of the checkpoint that lies from there on, all dimensions but the last merged into
           rows; more than one where transformers fuses tensors as it loads, such as those of experts
    """

    name: str
    parameter: nn.Parameter
    parts: Mapping[int, Stored]

    @property
    def is_known(self) -> bool:
        """Whether the recipe says something of it."""
        return all(part.line for part in self.parts.values())

    @property
    def rate(self) -> float:
        """Its rate, over that of the source: of tensors with several, the lowest."""
        return min(part.rate for part in self.parts.values())

    @property
    def decays(self) -> bool:
        """Whether weight decay is for it."""
        return all(part.decays for part in self.parts.values())

    def new(self, recipe: Recipe) -> torch.Tensor | None:
        """Which of its coordinates are new: True where they are, of a shape that broadcasts to its own; None: none is.

        Copy 0 of every unit is the source's own. All else is new: other copies, padding, new layers and experts.
        Raises CheckpointError if the parameter is not as large as the recipe says.
        """
        if len(self.parts) == 1:
            return self.parts[0].new(recipe)
        new = torch.zeros(self.parameter.shape, dtype=torch.bool)
        rows = new.view(-1, new.shape[-1])
        for first, part in self.parts.items():
            if (found := part.new(recipe)) is not None:
                rows[first : first + part.shape[0]] = found
        return new if bool(new.any()) else None


def trained(model: Model, recipe: Recipe) -> list[Trained]:
    """The parameters of a model that are trained, each with its lines of the recipe.

    Names may have more or fewer parts in front than the checkpoint's, as wrappers give them. A warning names parameters
    of which the recipe says nothing: those of an adapter, or what transformers computes with in a layout that is no
    rows of what it stores.
    """
    named = dict(model.named_parameters() if isinstance(model, nn.Module) else model)
    lines = _by_name(recipe)
    found = {name: _whole(name, one, lines) for name, one in named.items() if one.requires_grad}
    unknown = [name for name, one in found.items() if not one.is_known]
    if unknown and isinstance(model, nn.Module):
        found |= _fused(model, {name: named[name] for name in unknown}, lines, recipe)
        unknown = [name for name in unknown if not found[name].is_known]
    if unknown:
        warnings.warn(
            f"recipe.json says nothing of {first_of(unknown, 3)}: the source's rate, and nothing new.", stacklevel=3
        )
    return list(found.values())


def _whole(name: str, parameter: nn.Parameter, lines: Mapping[str, list[TensorLine]]) -> Trained:
    """A parameter that is one tensor of the checkpoint."""
    return Trained(name, parameter, {0: _stored(name, tuple(parameter.shape), lines)})


def _fused(
    model: nn.Module, unknown: Mapping[str, nn.Parameter], lines: Mapping[str, list[TensorLine]], recipe: Recipe
) -> dict[str, Trained]:
    """Of these parameters, those that are whole tensors which transformers stores under other names."""
    parts: dict[str, dict[int, Stored]] = defaultdict(dict)
    for prefix, inner in model.named_modules():
        if hasattr(inner, "save_pretrained") and hasattr(inner, "config"):
            from hyperclone_cli.checkpoint.fused_parameters import stored_rows

            names = {name.removeprefix(prefix and f"{prefix}."): name for name in unknown if name.startswith(prefix)}
            for stored, rows in stored_rows(inner, names.keys()).items():
                whole = tuple(unknown[names[rows.parameter]].shape)
                shape = whole if rows.whole else (rows.stop - rows.start, rows.width)
                parts[names[rows.parameter]][rows.start] = _stored(stored, shape, lines)
            break
    found = {name: Trained(name, unknown[name], dict(sorted(of.items()))) for name, of in parts.items()}
    return {name: one for name, one in found.items() if _is_covered(one, recipe)}


def _is_covered(one: Trained, recipe: Recipe) -> bool:
    """Whether a parameter is its parts, and each of these all of a tensor and no share of one."""
    try:
        one.new(recipe)
    except CheckpointError:
        return False
    return sum(math.prod(part.shape) for part in one.parts.values()) == one.parameter.numel()


def _stored(name: str, shape: tuple[int, ...], lines: Mapping[str, list[TensorLine]]) -> Stored:
    parts = name.split(".")
    for first in takewhile(lambda number: not any(part.isdecimal() for part in parts[:number]), range(len(parts))):
        inside = ".".join(parts[first:])
        for line in lines.get(_starred(inside), ()):
            numbers = line.numbers_in(inside)
            if numbers is None:  # the line has a part more in front
                numbers = line.numbers_in(f"{line.name.partition('.')[0]}.{inside}")
            if numbers is not None:
                return Stored(name, shape, line, numbers)
    return Stored(name, shape, None)


def _by_name(recipe: Recipe) -> dict[str, list[TensorLine]]:
    """Name with a `*` for every number → lines; also without its first part, where no other line has that name."""
    lines: dict[str, list[TensorLine]] = defaultdict(list)
    for line in recipe.tensors:
        lines[_starred(line.name)].append(line)
    for name in [*lines]:
        if "." in (inside := name.partition(".")[2]):  # what is left of lm_head.weight is the name of no tensor
            lines.setdefault(inside, lines[name])
    return lines


def _starred(name: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def _new_units(packed: str, recipe: Recipe) -> torch.Tensor:
    """Which units of packed widths are no copy 0: (units,), bool."""
    runs = grow_axes(parts_of(packed), recipe.widths).runs
    new = torch.tensor([run.is_padding or run.copy > 0 for run in runs], dtype=torch.bool)
    return new.repeat_interleave(torch.tensor([run.length for run in runs], dtype=torch.long))
