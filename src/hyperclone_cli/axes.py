"""The words in which a family's table is written.

An *axis* is a width of the network that can grow, named as in the field. A dimension of a tensor
is a packed sequence of axes, outermost first, written as one string:

    "embed"              the residual stream
    "ffn"                the feed-forward width
    "kv_heads head_dim"  key/value heads, each of head_dim units
    "heads head_dim"     query heads: short for "kv_heads group head_dim", a group per key/value head
    "heads 3 head_dim"   as above, with three vectors in each head
    "vocab"              the vocabulary, which never grows
    "*"                  whatever size it has

A *form* says which dimensions of a module's parameters write a width (`out`: its units are copied)
and which read one (`in`: the copies share the weight).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

ANY = "*"
"""A dimension of any size, which is kept whole."""

AXES = frozenset({"embed", "ffn", "kv_heads", "group", "head_dim", "vocab", "proj"})

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
    """Read a packed axis such as `"heads head_dim"`.

    Raises ValueError for a word that is not in the vocabulary: a mistake in a table.
    """
    axes: list[str] = []
    for word in packed.split():
        axes.extend(_SHORTHAND.get(word, (word,)))
    unknown = [axis for axis in axes if axis not in AXES and not axis.isdecimal()]
    if unknown and axes != [ANY]:
        raise ValueError(f"{packed!r}: {unknown[0]!r} is no axis")
    return Dimension(role, tuple(axes))


@dataclass(frozen=True)
class Form:
    """How the parameters of one module grow.

    `parameters` maps a parameter's name inside the module ("weight", "bias") to its dimensions.
    `plus_one` marks norms that multiply by (1 + weight).
    `forward_power` is p where the forward pass multiplies this module's output by embed**p.
    `dropped` is why a tensor is not written at all; empty for all others.
    `optional` marks modules that not every checkpoint of the family has.
    """

    kind: str
    parameters: Mapping[str, tuple[Dimension, ...]]
    plus_one: bool = False
    forward_power: float = 0.0
    dropped: str = ""
    optional: bool = False


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
    return Form("drop", {"": ()}, dropped=reason, optional=True)


def optional(form: Form) -> Form:
    """The same form, for a module that the config or the exporter may leave out."""
    return replace(form, optional=True)
