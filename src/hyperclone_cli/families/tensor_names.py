"""The names of a checkpoint's tensors, matched against the lines of a table."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from hyperclone_cli.families.vocabulary import Form

_VARYING = re.compile(r"(?<![^.])(?:\d+|\*)(?![^.])")
"""A whole part of a name, between dots, that is a number or a star."""


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
    def pattern(self) -> str:
        """The name with a `*` for every number."""
        return _full(self.module, self.parameter)

    def numbered(self, *indices: int) -> str:
        """The name with other numbers."""
        numbers = iter(indices)
        return ".".join(str(next(numbers)) if part == "*" else part for part in self.pattern.split("."))


def _full(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if parameter else module


def _starred(name: str) -> tuple[str, tuple[str, ...]]:
    """A name with a `*` for every part that is a number or a star, and these parts."""
    return _VARYING.sub("*", name), tuple(_VARYING.findall(name))


class TensorNames:
    """The names that a table's `tensors` (module → form) allow, with or without the base model's `prefix`.

    All other names under those of `whole` have its form.
    """

    def __init__(
        self, tensors: Mapping[str, Form], prefix: str, whole: Mapping[str, Form] = MappingProxyType({})
    ) -> None:
        self._tensors, self._prefix, self._whole = tensors, prefix, whole
        self._before_layers = {module.partition("*")[0] for module in tensors if "*" in module}
        # name with a `*` for every number → (module, parameter, what stands for these numbers in the table)
        self._rules: dict[str, list[tuple[str, str, tuple[str, ...]]]] = defaultdict(list)
        for module, form in tensors.items():
            for parameter in form.parameters:
                starred, varying = _starred(_full(module, parameter))
                self._rules[starred].append((module, parameter, varying))

    def matches(self, name: str) -> list[Match]:
        """Every rule that fits a tensor's name."""
        found = []
        starred, numbers = _starred(name)
        for before in ("", f"{self._prefix}."):
            for module, parameter, varying in self._rules.get(before + starred, ()):
                pairs = list(zip(varying, numbers, strict=True))
                if all(wanted in ("*", number) for wanted, number in pairs):
                    indices = tuple(int(number) for wanted, number in pairs if wanted == "*")
                    found.append(Match(before + name, module, parameter, self._tensors[module], indices))
        return found or self._inside(name)

    def _inside(self, name: str) -> list[Match]:
        for full in (name, f"{self._prefix}.{name}"):
            for module, form in self._whole.items():
                inside = full.removeprefix(f"{module}.")
                if inside != full or full == module:
                    return [Match(full, module, inside if inside != full else "", form, ())]
        return []

    def layer_of(self, name: str) -> int | None:
        """The number of the layer that a tensor belongs to, also where no rule fits its name; None outside."""
        for full in (name, f"{self._prefix}.{name}"):
            for before in self._before_layers:
                number = full.removeprefix(before).partition(".")[0]
                if full.startswith(before) and number.isdecimal():
                    return int(number)
        return None
