"""How config.json tells the layers of a model apart by their numbers: lists, numbers of layers, periods.

A rule reads the *kind* of each layer, whatever tells it from others, and writes the keys that make layers of given
kinds. A model with more layers has the layers of its source under other numbers, each of the kind that it was.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

Value = Callable[[str], Any]
"""Key of config.json → what transformers sees for it, None where the file says nothing and there is no default."""

Kinds = Sequence[Hashable]


def _number(value: Value, key: str, default: int | None = None) -> int:
    """The number that a key states, or what stands for null. Raises ValueError for anything but a whole number."""
    stated = value(key)
    stated = default if stated is None else stated
    if type(stated) is not int:
        raise ValueError(f"{key} should be a whole number, found {stated!r}")
    return stated


def _numbers(value: Value, key: str) -> set[int]:
    """The numbers that a key lists. Raises ValueError for anything but whole numbers."""
    stated = value(key) or []
    if not isinstance(stated, list) or not all(type(number) is int for number in stated):
        raise ValueError(f"{key} should list numbers of layers, found {stated!r}")
    return set(stated)


@dataclass(frozen=True)
class LayerRule(ABC):
    """How a config tells layers apart; a family's rules are instances of the subclasses.

    key   the config key that tells
    when  values of config.json under which the rule holds; `...` stands for any that is set
    """

    key: str
    when: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def tells(self, _value: Value) -> bool:
        """Whether the config has what the rule is about."""
        return True

    @abstractmethod
    def kinds(self, value: Value, layers: int) -> Kinds:
        """The kind of each of so many layers, and maybe of what follows them; fewer where a list is too short.

        Raises ValueError for a config that states none.
        """

    def written(self, _value: Value, _kinds: Kinds) -> dict[str, Any]:
        """Keys that make layers of these kinds, or come as near to that as they can."""
        return {}

    def period(self, _value: Value) -> int:
        """After how many layers the kinds begin again where no key can state others; 1 for all other rules."""
        return 1


@dataclass(frozen=True)
class Every(LayerRule):
    """One layer in so many is different: number `place` of each period, the last by default. `key`: the period.

    offset  the config key for `place`
    length  the period where the key states none, or there is no key
    after   layers before this number are all alike
    """

    place: int = -1
    offset: str = ""
    length: int | None = None
    after: int = 0

    def kinds(self, value: Value, layers: int) -> Kinds:
        period = self.period(value)
        place = _number(value, self.offset) if self.offset else self.place % period
        return [layer >= self.after and layer % period == place for layer in range(layers)]

    def period(self, value: Value) -> int:
        period = _number(value, self.key, self.length)
        if period < 1:
            raise ValueError(f"{self.key} should be a number of layers, found {period}")
        return period


@dataclass(frozen=True)
class First(LayerRule):
    """The first layers differ from the others. `key`: how many."""

    def kinds(self, value: Value, layers: int) -> Kinds:
        first = _number(value, self.key)
        return [layer < first for layer in range(layers)]

    def written(self, _value: Value, kinds: Kinds) -> dict[str, Any]:
        return {self.key: sum(map(bool, kinds))}


@dataclass(frozen=True)
class Last(LayerRule):
    """The last layers differ from the others. `key`: how many."""

    def kinds(self, value: Value, layers: int) -> Kinds:
        last = _number(value, self.key, 0)
        return [layer >= layers - last for layer in range(layers)]

    def written(self, _value: Value, kinds: Kinds) -> dict[str, Any]:
        return {self.key: sum(map(bool, kinds))}


@dataclass(frozen=True)
class Between(LayerRule):
    """Layers from a first to a last number differ, each or one in so many. `key`: the first.

    last  the config key of the last, -1 for that of the model; every  that of the period
    """

    last: str
    every: str

    def kinds(self, value: Value, layers: int) -> Kinds:
        first, last = _number(value, self.key), _number(value, self.last, -1)
        period, last = self.period(value), layers - 1 if last == -1 else last
        return [first <= layer <= last and (layer + 1) % period == 0 for layer in range(layers)]

    def written(self, value: Value, kinds: Kinds) -> dict[str, Any]:
        numbers = [layer for layer, kind in enumerate(kinds) if kind]
        if not numbers:
            return {}
        to_the_end = _number(value, self.last, -1) == -1
        return {self.key: numbers[0]} | ({} if to_the_end else {self.last: numbers[-1]})

    def period(self, value: Value) -> int:
        return max(1, _number(value, self.every))


@dataclass(frozen=True)
class Listed(LayerRule):
    """A list with an item for each layer.

    pattern   (what tells layers where there is no list, the item of the layers that it picks out, of the others)
    last      the item of the last layer, whatever the list says
    """

    pattern: tuple[LayerRule, Any, Any] | None = None
    last: Any = None

    def tells(self, value: Value) -> bool:
        return self.pattern is not None or value(self.key) is not None

    def kinds(self, value: Value, layers: int) -> Kinds:
        items = value(self.key)
        if items is None and self.pattern:
            rule, picked, other = self.pattern
            return [picked if kind else other for kind in rule.kinds(value, layers)]
        if not isinstance(items, list):
            raise ValueError(f"{self.key} should be a list, found {items!r}")
        found = [item if isinstance(item, Hashable) else repr(item) for item in items[:layers]]
        return found if self.last is None else [*found[: layers - 1], self.last][: len(found)]

    def written(self, _value: Value, kinds: Kinds) -> dict[str, Any]:
        return {self.key: list(kinds)}


@dataclass(frozen=True)
class Spelt(LayerRule):
    """A string with a letter for each layer."""

    def tells(self, value: Value) -> bool:
        return value(self.key) is not None

    def kinds(self, value: Value, layers: int) -> Kinds:
        letters = value(self.key)
        if not isinstance(letters, str):
            raise ValueError(f"{self.key} should be a string, found {letters!r}")
        return list(letters[:layers])

    def written(self, _value: Value, kinds: Kinds) -> dict[str, Any]:
        return {self.key: "".join(map(str, kinds))}


@dataclass(frozen=True)
class Overrides(LayerRule):
    """An object that has, under the numbers of layers, what the config of these is in place of the common one."""

    def kinds(self, value: Value, layers: int) -> Kinds:
        stated = value(self.key) or {}
        if not isinstance(stated, Mapping) or not all(str(number).isdecimal() for number in stated):
            raise ValueError(f"{self.key} should have numbers of layers for keys, found {stated!r}")
        found = {int(number): json.dumps(own, sort_keys=True) for number, own in stated.items()}
        return [found.get(layer) for layer in range(layers)]

    def written(self, _value: Value, kinds: Kinds) -> dict[str, Any]:
        return {self.key: {str(layer): json.loads(str(own)) for layer, own in enumerate(kinds) if own is not None}}


@dataclass(frozen=True)
class Turns(LayerRule):
    """A list whose items the layers take in turn, from its beginning again after its end."""

    def kinds(self, value: Value, layers: int) -> Kinds:
        items = value(self.key)
        if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
            raise ValueError(f"{self.key} should list kinds of layers, found {items!r}")
        return [items[layer % len(items)] for layer in range(layers)]

    def written(self, _value: Value, kinds: Kinds) -> dict[str, Any]:
        return {self.key: list(kinds)}


@dataclass(frozen=True)
class Repeats(LayerRule):
    """GPT-Neo's list of [kinds of layers that follow one another, how often they do]."""

    def kinds(self, value: Value, layers: int) -> Kinds:
        stated = value(self.key)
        found: list[Hashable] = []
        try:
            for items, times in stated:
                found += [item for _ in range(min(times, layers)) for item in items][:layers]
        except (TypeError, ValueError):
            raise ValueError(f"{self.key} should list [kinds, repeats], found {stated!r}") from None
        return found[:layers]

    def written(self, _value: Value, kinds: Kinds) -> dict[str, Any]:
        return {self.key: [[list(kinds), 1]]}


@dataclass(frozen=True)
class Numbers(LayerRule):
    """A list of the numbers of layers that differ.

    every    the config key of a period: of all other layers, only the last in each period does not differ either
    pattern  what tells the layers where there is no list
    first    the number of the first layer
    """

    every: str = ""
    pattern: LayerRule | None = None
    first: int = 0

    def kinds(self, value: Value, layers: int) -> Kinds:
        if self.pattern and value(self.key) is None:
            return self.pattern.kinds(value, layers)
        numbers, period = _numbers(value, self.key), max(1, _number(value, self.every)) if self.every else 1
        return [layer + self.first in numbers or (layer + 1) % period != 0 for layer in range(layers)]

    def written(self, value: Value, kinds: Kinds) -> dict[str, Any]:
        changed: dict[str, Any] = {self.key: [layer for layer, kind in enumerate(kinds, self.first) if kind]}
        if self.every and _number(value, self.every) != 1:
            changed[self.every] = 1
        return changed


@dataclass(frozen=True)
class ByRoot(LayerRule):
    """A number that the forward pass divides by the root of the number of layers; null divides by nothing."""

    def kinds(self, value: Value, layers: int) -> Kinds:
        number = value(self.key)
        if number is not None and type(number) not in (int, float):
            raise ValueError(f"{self.key} should be a number, found {number!r}")
        return [None if number is None else f"{number / sqrt(layers):.12g}"] * layers

    def written(self, value: Value, kinds: Kinds) -> dict[str, Any]:
        number = value(self.key)
        return {} if number is None else {self.key: float(str(kinds[0])) * sqrt(len(kinds))}


@dataclass(frozen=True)
class Halvings(LayerRule):
    """RWKV halves its residual stream after so many layers when it does not train. `key`: that number, or 0.

    A norm's eps weighs more on a stream that was halved, so each layer must be halved as often as in the source.
    """

    def kinds(self, value: Value, layers: int) -> Kinds:
        every = _number(value, self.key)
        return [0 if every < 1 else layer // every for layer in range(layers + 1)]

    def written(self, _value: Value, kinds: Kinds) -> dict[str, Any]:
        return {self.key: next((layer for layer, halvings in enumerate(kinds) if halvings), len(kinds))}


LAYER_TYPES = Listed("layer_types")


def types_by_period(key: str = "", place: int = -1, length: int | None = None, other: str = "sliding") -> Listed:
    """`layer_types`, by default full attention in one layer of each period and `other` attention elsewhere."""
    return Listed("layer_types", (Every(key, place, length=length), "full_attention", f"{other}_attention"))


def windows_from(key: str, **when: Any) -> tuple[Listed, Listed]:
    """`layer_types`, by default full attention in as many first layers as `key` says, if windows are used at all."""
    pattern = (First(key), "full_attention", "sliding_attention")
    return LAYER_TYPES, Listed("layer_types", pattern, when={"sliding_window": ..., **when})
