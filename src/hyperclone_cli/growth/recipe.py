"""recipe.json: what training a clone has to know of how it was grown. Its schema, written and read.

Coordinates are told by width: a width is a list of runs of units, each a copy of the source's or padding, and a tensor
names the widths that its dimensions pack. So the file has some forty lines for a model of any size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.families.vocabulary import ANY
from hyperclone_cli.growth.widths import Growth, Run

SCHEMA_VERSION = 1
LAYERS = "layers"
"""The width whose units are the layers."""

_PADDING = "padding"
_MOST_RATE = 1e6


@dataclass(frozen=True)
class TensorLine:
    """How the tensors of one kind are trained, and which of their coordinates are new.

    name        with a `*` for every number, the first of which is the layer's
    layers      (first, number) of the layers whose tensors these are; empty: of all that have them
    dimensions  the widths that each dimension packs, (out, in) for a matrix, as in `families.vocabulary`
    numbered    the widths whose units the last number of the name counts; empty where it counts none that grows
    matrices    how many matrices a stack has, of which the first dimension packs the rows of all; 0: it is no stack
    transposed  whether a matrix, or each of a stack, is stored as (in, out)
    rate        its learning rate, over that of the source
    decays      whether weight decay is for it: it is a matrix, and no norm's
    new         whether it was drawn for the clone, so that all of it is new
    at_rest     whether it makes new layers add nothing to the residual stream
    """

    name: str
    layers: tuple[tuple[int, int], ...] = ()
    dimensions: tuple[str, ...] = ()
    numbered: str = ""
    matrices: int = 0
    transposed: bool = False
    rate: float = 1.0
    decays: bool = True
    new: bool = False
    at_rest: bool = False

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.name).replace(r"\*", r"(\d+)"))

    def numbers_in(self, name: str) -> tuple[int, ...] | None:
        """The numbers in a tensor's name, if it is one of these; else None."""
        found = self._pattern.fullmatch(name)
        numbers = tuple(map(int, found.groups())) if found else None
        if numbers and self.layers and not any(first <= numbers[0] < first + number for first, number in self.layers):
            return None
        return numbers


@dataclass(frozen=True)
class Recipe:
    """What recipe.json says.

    source_rate      the peak learning rate that the source was trained at; None: not known
    one_rate         parts of that rate between which clones did best, where all parameters have one
    warm_up          the part of a run's steps in which the rate rises
    warm_up_of_new   the same for coordinates that are new, which rise by this besides
    moments          "exact" or "estimated": what `expand --optimizer` makes of the source's
    equal_gradients  which copies get equal gradients, and so stay equal unless they are trained otherwise; "": none
    why              for each of these what it rests on
    widths           name → growth; that of the layers is among them
    tensors          one line for each kind of tensor
    """

    source_rate: float | None
    one_rate: tuple[float, float]
    warm_up: float
    warm_up_of_new: float
    moments: str
    equal_gradients: str
    why: Mapping[str, str] = field(default_factory=dict)
    widths: Mapping[str, Growth] = field(default_factory=dict)
    tensors: tuple[TensorLine, ...] = ()

    def new_layers(self) -> frozenset[int]:
        """The numbers of the layers that the source has not."""
        runs = self.widths[LAYERS].runs if LAYERS in self.widths else ()
        order = [run.copy > 0 for run in runs for _ in range(run.length)]
        return frozenset(number for number, new in enumerate(order) if new)

    def as_text(self) -> str:
        """The contents of the file: a line for every width and every kind of tensor."""
        usual = asdict(TensorLine(""))
        stated = {name: value for name, value in vars(self).items() if name not in ("why", "widths", "tensors")}
        blocks = {
            "why": _block("{}", (f"{_json(name)}: {_json(text)}" for name, text in self.why.items())),
            "widths": _block("{}", (f"{_json(name)}: {_json(_width(one))}" for name, one in self.widths.items())),
            "tensors": _block(
                "[]",
                (
                    _json({key: value for key, value in asdict(line).items() if value != usual[key]})
                    for line in self.tensors
                ),
            ),
        }
        lines = [
            f"  {_json(name)}: {_json(value)}" for name, value in {"schema_version": SCHEMA_VERSION, **stated}.items()
        ]
        lines += [f"  {_json(name)}: {block}" for name, block in blocks.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def of(cls, stated: Mapping[str, Any], where: object = "recipe.json") -> Recipe:
        """The recipe in a parsed file, which is not trusted. Raises CheckpointError, which names `where`."""
        if stated.get("schema_version") != SCHEMA_VERSION:
            raise CheckpointError(
                f"{where}: expected schema_version {SCHEMA_VERSION}, found {stated.get('schema_version')!r}.",
                "Use the version of hyperclone that wrote it.",
            )
        try:
            rest = {name: value for name, value in stated.items() if name != "schema_version"}
            widths = {name: _growth(one) for name, one in rest.pop("widths").items()}
            lines = tuple(_line(one, widths.keys()) for one in rest.pop("tensors"))
            low, high = rest.pop("one_rate")
            made = cls(**rest, one_rate=(low, high), widths=widths, tensors=lines)
            rates = [made.warm_up, made.warm_up_of_new, low, high, *(line.rate for line in lines)]
            if not all(0 <= float(rate) < _MOST_RATE for rate in [*rates, made.source_rate or 0]):
                raise ValueError(f"its rates should be from 0 to {_MOST_RATE:g}")
            return made
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: damaged ({error}).", "Expand the source again.") from None


def parts_of(packed: str) -> tuple[tuple[str, ...], ...]:
    """The widths that a dimension packs, as `growth.widths` takes them."""
    return tuple(tuple(part.split()) for part in packed.split("|"))


def _words(packed: str) -> set[str]:
    return {word for word in re.split(r"[ .+|]+", packed) if word and word != ANY and not word.isdecimal()}


def _width(growth: Growth) -> dict[str, Any]:
    """A width as JSON: (first unit that is copied, number of units, number of the copy), or padding."""
    runs = [[run.start, run.length, _PADDING if run.is_padding else run.copy] for run in growth.runs]
    return {"source": growth.source, "runs": runs}


def _growth(stated: Mapping[str, Any]) -> Growth:
    """A width from JSON. How many copies a unit has is not stated, and taken for one."""
    runs = []
    for start, length, copy in stated["runs"]:
        padding = copy == _PADDING
        if any(type(number) is not int or number < 0 for number in (start, length, 0 if padding else copy)):
            raise ValueError(f"{[start, length, copy]} is no run of units")
        runs.append(Run(start, length, 0 if padding else copy, 0 if padding else 1))
    return Growth(int(stated["source"]), tuple(runs))


def _line(stated: Mapping[str, Any], widths: Collection[str]) -> TensorLine:
    line = TensorLine(**stated)
    layers = tuple((first, number) for first, number in line.layers)
    if not all(type(number) is int for run in layers for number in run) or type(line.matrices) is not int:
        raise ValueError(f"{line.name}: layers and matrices should be whole numbers")
    for packed in (*line.dimensions, line.numbered):
        if unknown := sorted(_words(packed) - set(widths)):
            raise ValueError(f"{line.name}: {unknown[0]!r} is no width")
    return replace(line, layers=layers, dimensions=tuple(line.dimensions))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _block(brackets: str, lines: Iterable[str]) -> str:
    inside = ",\n".join(f"    {line}" for line in lines)
    return f"{brackets[0]}\n{inside}\n  {brackets[1]}" if inside else brackets
