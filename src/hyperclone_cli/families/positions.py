"""How a family tells positions apart and scales attention scores: what decides how its heads may grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Positions:
    """What all kinds of positions have in common.

    constant_scale  what scales the scores instead of the root of the head size: a config key, or the number
    stated_scale    the config key of a factor on the scores, 1 / √head size where it says nothing. In a larger head it
                    is divided by the copies, and queries are not scaled
    """

    constant_scale: str = ""
    stated_scale: str = ""


@dataclass(frozen=True)
class Learned(Positions):
    """Learned position embeddings, or none: a head's units are all alike."""


@dataclass(frozen=True)
class Rotary(Positions):
    """Rotary positions, which turn pairs of a head's units.

    A "rotary" among a family's `sizes` is the number of units in a head that they turn.

    pairs     how units are paired: "halves" (i with i + half) or "neighbours" (2i with 2i + 1)
    fraction  the config key for the part of a head that they turn, where it is not among the rope parameters
    """

    pairs: str = "halves"
    fraction: str = ""


@dataclass(frozen=True)
class Alibi(Positions):
    """ALiBi: the slope of a head depends on its number, and on how many heads there are.

    when         values of config.json under which heads have slopes; empty: always
    otherwise    the positions under other values
    more_heads   whether heads may grow in number: those whose slope no source head has are silent. Otherwise they grow
                 in size alone
    """

    when: Mapping[str, Any] = field(default_factory=dict)
    otherwise: Positions = Learned()
    more_heads: bool = False
