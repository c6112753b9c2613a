"""The names of a checkpoint's tensors, matched against the lines of a table."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from hyperclone_cli.families.vocabulary import Form

_MOST_DIGITS = 18
"""Of a number in a name: more layers or experts are in no model, and `int` refuses thousands of digits."""

_VARYING = re.compile(rf"\.(\d{{1,{_MOST_DIGITS}}}|\*)(?=\.|\Z)")
"""A whole part of a name that is a number or a star, and the dot before it."""


class Match(NamedTuple):
    """A tensor's place in a family's table.

    name       its full name, with the base model's prefix
    module     the table's name of its module
    parameter  which of the module's parameters it is
    indices    the numbers in the name where the module has a `*`: the layer, then the expert or other unit
    """

    name: str
    module: str
    parameter: str
    form: Form
    indices: tuple[int, ...]

    @property
    def layer(self) -> int | None:
        """The number of its layer; None outside of the layers."""
        return self.indices[0] if self.indices else None

    @property
    def dimensions(self) -> int:
        """How many dimensions it has, where it is no stack; none where it is kept as it is."""
        return len(self.form.parameters.get(self.parameter, ()))

    @property
    def of_experts(self) -> bool:
        """Whether it belongs to one expert of those that a router chooses from, or to all of a layer."""
        return self.form.stacked or (self.module.count("*") == 2 and not self.form.numbered)

    @property
    def pattern(self) -> str:
        """The name with a `*` for every number."""
        return _full(self.module, self.parameter)

    def numbered(self, *indices: int) -> str:
        """The name with other numbers."""
        numbers = iter(indices)
        return ".".join(str(next(numbers)) if part == "*" else part for part in self.pattern.split("."))


def _full(module: str, parameter: str) -> str:
    """A parameter's name on disk: what a table adds to a module's name, to tell forms of it apart, is left out."""
    name = module.partition(" ")[0]
    return f"{name}.{parameter}" if parameter else name


def _starred(dotted: str) -> tuple[str, list[str]]:
    """A name after a dot, or the end of one, with a `*` for every part that is a number or a star; and these parts."""
    parts = _VARYING.split(dotted)
    return ".*".join(parts[::2]), parts[1::2]


@lru_cache(maxsize=1 << 13)
def _in_layer(dotted: str) -> tuple[str, tuple[str, ...], tuple[int, ...]]:
    """As `_starred` of what follows a layer's number, which is the same in all layers; and the parts as numbers."""
    starred, numbers = _starred(dotted)
    return starred, tuple(numbers), tuple(map(int, numbers))


class _Rule(NamedTuple):
    """A parameter of a module as names are matched against it.

    before  what a name lacks: the base model's prefix, or nothing
    fixed   which of the numbers of a name the table has as a number, not as a star → that number
    """

    before: str
    module: str
    parameter: str
    form: Form
    fixed: Mapping[int, str]


class TensorNames:
    """The names that a table's `tensors` (module → form) allow, with or without the base model's `prefix`.

    All other names under those of `whole` have its form.
    """

    def __init__(
        self, tensors: Mapping[str, Form], prefix: str, whole: Mapping[str, Form] = MappingProxyType({})
    ) -> None:
        self._tensors, self._prefix = tensors, prefix
        # what a full name with this beginning has after it, and the numbers in it, by the module and its form
        self._whole = [
            (re.compile(re.escape(module).replace(r"\*", r"(\d+)") + r"(?:\.(?P<inside>.+))?"), module, form)
            for module, form in whole.items()
        ]
        before_layers = dict.fromkeys(module.partition("*")[0] for module in tensors if "*" in module)
        self._before_layers = dict.fromkeys(
            short for full in before_layers for short in (full, full.removeprefix(f"{prefix}."))
        )
        # name with a `*` for every number, and a dot before it → rules
        self._rules: dict[str, list[_Rule]] = defaultdict(list)
        for module, form in tensors.items():
            for parameter in form.parameters:
                starred, varying = _starred(f".{_full(module, parameter)}")
                fixed = {place: number for place, number in enumerate(varying) if number != "*"}
                self._rules[starred].append(_Rule("", module, parameter, form, fixed))
                if starred.startswith(f".{prefix}."):
                    short = starred.removeprefix(f".{prefix}")
                    self._rules[short].append(_Rule(f"{prefix}.", module, parameter, form, fixed))

    def matches(self, name: str) -> list[Match]:
        """Every rule that fits a tensor's name."""
        if "*" in name:
            return self._inside(name)
        starred = f".{name}"
        numbers: tuple[str, ...] = ()
        indices: tuple[int, ...] = ()
        if layer := _VARYING.search(starred):
            inside, numbers, indices = _in_layer(starred[layer.end() :])
            starred = f"{starred[: layer.start()]}.*{inside}"
            numbers, indices = (layer[1], *numbers), (int(layer[1]), *indices)
        found = []
        for before, module, parameter, form, fixed in self._rules.get(starred, ()):
            counted = indices
            if fixed:
                if any(numbers[place] != number for place, number in fixed.items()):
                    continue
                counted = tuple(index for place, index in enumerate(indices) if place not in fixed)
            found.append(Match(before + name, module, parameter, form, counted))
        return found or self._inside(name)

    def has(self, module: str, names: Iterable[str]) -> bool:
        """Whether any of these names is that of a parameter of `module`."""
        if module not in self._tensors:
            return False
        prefix = f"{self._prefix}."
        before = f"({re.escape(prefix)})?" if module.startswith(prefix) else ""
        spelt = (_full(module.removeprefix(prefix), parameter) for parameter in self._tensors[module].parameters)
        either = "|".join(re.escape(one).replace(r"\*", r"\d+") for one in spelt)
        return any(map(re.compile(f"{before}({either})").fullmatch, names))

    def _inside(self, name: str) -> list[Match]:
        for full in (name, f"{self._prefix}.{name}"):
            for pattern, module, form in self._whole:
                if found := pattern.fullmatch(full):
                    numbers = tuple(int(found[place + 1]) for place in range(module.count("*")))
                    return [Match(full, module, found["inside"] or "", form, numbers)]
        return []

    def layer_of(self, name: str) -> int | None:
        """The number of the layer that a tensor belongs to, also where no rule fits its name; None outside."""
        for before in self._before_layers:
            number = name[len(before) :].partition(".")[0]
            if name.startswith(before) and number.isdecimal():
                return int(number[:_MOST_DIGITS])
        return None
