"""The words in which a family's table is written.

An *axis* is a width of the network that can grow, named as in the field. A dimension of a tensor
is a packed sequence of axes, outermost first, written as one string:

    "embed"       the residual stream
    "ffn"         the feed-forward width
    "kv_heads *"  key/value heads, each with the rest of the dimension (`*`, here head_dim) inside
    "heads *"     query heads: short for "kv_heads group *", a group of them per key/value head
    "vocab"       the vocabulary, which never grows

A *form* says which dimensions of a module's parameters write a width (`out`: its units are copied)
and which read one (`in`: the copies share the weight).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

REST = "*"
"""What is left of a packed dimension once its named axes are divided out. It is kept whole."""

AXES = frozenset({"embed", "ffn", "kv_heads", "group", "vocab", "proj"})

_SHORTHAND = {"heads": ("kv_heads", "group")}


class Role(Enum):
    """What a dimension does with the width that it spans."""

    OUT = "out"  # writes it: copies are copies
    IN = "in"  # reads it: the weight is shared out among the copies


@dataclass(frozen=True)
class Dimension:
    """One dimension of a parameter: packed axes, outermost first, and its role."""

    role: Role
    axes: tuple[str, ...]


def dimension(role: Role, packed: str) -> Dimension:
    """Read a packed axis such as `"heads *"`.

    Raises ValueError for a word that is not in the vocabulary: a mistake in a table.
    """
    axes: list[str] = []
    for word in packed.split():
        axes.extend(_SHORTHAND.get(word, (word,)))
    unknown = set(axes) - AXES - {REST}
    if unknown or REST in axes[:-1]:
        raise ValueError(f"{packed!r} is not a packed axis: {sorted(unknown) or 'misplaced *'}")
    return Dimension(role, tuple(axes))


@dataclass(frozen=True)
class Form:
    """How the parameters of one module grow.

    `parameters` maps a parameter's name inside the module ("weight", "bias") to its dimensions.
    `plus_one` marks norms that multiply by (1 + weight).
    `forward_power` is p where the forward pass multiplies this module's output by embed**p.
    `dropped` is why a tensor is not written at all; empty for all others.
    """

    kind: str
    parameters: Mapping[str, tuple[Dimension, ...]]
    plus_one: bool = False
    forward_power: float = 0.0
    dropped: str = field(default="", compare=False)


def linear(out: str, into: str) -> Form:
    """`nn.Linear`: weight (out, in), and a bias (out) where the checkpoint has one."""
    rows, columns = dimension(Role.OUT, out), dimension(Role.IN, into)
    return Form("linear", {"weight": (rows, columns), "bias": (rows,)})


def embedding(rows: str, width: str, forward_power: float = 0.0) -> Form:
    """`nn.Embedding`: weight (rows, width). It writes the width, so it is copied."""
    table = (dimension(Role.OUT, rows), dimension(Role.OUT, width))
    return Form("embedding", {"weight": table}, forward_power=forward_power)


def vector(width: str, plus_one: bool = False) -> Form:
    """A norm, or any per-channel weight and bias (width): copied, never divided."""
    units = (dimension(Role.OUT, width),)
    return Form("vector", {"weight": units, "bias": units}, plus_one=plus_one)


def drop(reason: str) -> Form:
    """A tensor that stock transformers ignores on load. Named whole in the table, not by module."""
    return Form("drop", {"": ()}, dropped=reason)
