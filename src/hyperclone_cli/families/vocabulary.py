"""The words in which a family's table is written.

An *axis* is a width of the network that can grow, named as in the field. A dimension of a tensor
is a packed sequence of axes, outermost first, written as one string:

    "embed"            the residual stream
    "ffn"              the feed-forward width
    "kv_heads key"     key/value heads, each with a key of head_dim units; "value" likewise
    "heads query"      query heads: short for "kv_heads group query", a group per key/value head
    "kv_pairs"         half of the key/value heads, where head i works with head i + half of them
    "heads query+key"  in each head a query, then a key: "+" packs widths side by side
    "kv_heads group.query+key"  in each key/value head its group of queries, then its key: "." packs most tightly
    "experts ffn+ffn"  in each expert a gate of its width, then as much again
    "ffn | ffn"        one whole packed axis after another: "|" packs widest
    "vocab"            the vocabulary, which never grows
    "experts"          the experts of a layer, which never grow in number; nor do the "shared" ones
    "moe_ffn"          the width of one expert, where it is not "ffn"; "shared_ffn" that of the shared one
    "kv_latent"        the narrow width that keys and values are read from; "q_latent" that of queries
    "nope", "rope"     the parts of such a query or key without and with rotary positions
    "inner"            the width of a recurrent or convolutional block, each unit of which goes its own way
    "block"            the part of such a width that belongs to one head
    "lru"              the same width in blocks: short for "heads block"
    "ssm_inner"        the same width in Mamba 2's heads: short for "ssm_heads ssm_value"
    "ssm_heads"        these heads: short for "ssm_groups ssm_group", a number of heads in each group
    "ssm_state"        the size of a unit's state, which never grows; nor does "dt_rank", the narrow width
                       that time steps are read from
    "delta_heads"      the key heads of a gated delta net, each with a "delta_key", and with a
    "delta_group"      of value heads, each of these with a "delta_value"; both: "delta_values"
    "*"                whatever size it has
    "1"                a size that is always the same

A head's query, key and value are as wide as each other on disk, but grow in ways of their own.

A *form* says which dimensions of a module's parameters write a width (`out`: its units are copied)
and which read one (`in`: the copies share the weight).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

ANY = "*"
"""A dimension of any size, which is kept whole."""

ATTENTION_AXES = frozenset(
    {"kv_heads", "kv_pairs", "group", "query", "key", "value", "q_latent", "kv_latent", "nope", "rope"}
)
RECURRENT_AXES = frozenset(
    {"inner", "block", "dt_rank", "ssm_groups", "ssm_group", "ssm_value", "ssm_state"}
    | {"delta_heads", "delta_group", "delta_key", "delta_value"}
)
AXES = ATTENTION_AXES | RECURRENT_AXES | {"embed", "ffn", "moe_ffn", "shared_ffn", "experts", "shared", "vocab", "proj"}

PRODUCTS = {
    "lru": ("heads", "block"),
    "ssm_inner": ("ssm_heads", "ssm_value"),
    "heads": ("kv_heads", "group"),
    "ssm_heads": ("ssm_groups", "ssm_group"),
    "delta_values": ("delta_heads", "delta_group"),
}
"""Packed axes whose product has a name of its own, as it has in config.json. A factor may be a product further down."""


class Role(Enum):
    """What a dimension does with the width that it spans."""

    OUT = "out"  # writes it: copies are copies
    IN = "in"  # reads it: the weight is shared out among the copies


@dataclass(frozen=True)
class Dimension:
    """One dimension of a parameter: its role, and packed axes, outermost first, for each part side by side."""

    role: Role
    parts: tuple[tuple[str, ...], ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of all parts."""
        return tuple(axis for part in self.parts for axis in part)

    def __str__(self) -> str:
        return " | ".join(" × ".join(part) for part in self.parts)


def words_of(axes: Iterable[str]) -> set[str]:
    """The axes among packed ones, "+" and "." taken apart."""
    return {word for axis in axes for word in re.split(r"[+.]", axis)}


def dimension(role: Role, packed: str) -> Dimension:
    """Read a packed axis such as `"heads query"`.

    Raises ValueError for a word that is not in the vocabulary: a mistake in a table.
    """
    parts = tuple(tuple(axis for word in part.split() for axis in _factors(word)) for part in packed.split("|"))
    read = Dimension(role, parts)
    unknown = sorted(word for word in words_of(read.axes) - AXES if not word.isdecimal())
    if unknown and parts != ((ANY,),):
        raise ValueError(f"{packed!r}: {unknown[0]!r} is no axis")
    return read


def _factors(word: str) -> tuple[str, ...]:
    """The axes that a word is short for, or itself."""
    return tuple(axis for factor in PRODUCTS[word] for axis in _factors(factor)) if word in PRODUCTS else (word,)


@dataclass(frozen=True)
class Form:
    """How the parameters of one module grow.

    `parameters` maps a parameter's name inside the module ("weight", "bias") to its dimensions.
    `plus_one` marks norms that multiply by (1 + weight).
    `writes` marks norms whose output is the width itself, not a reading of it: those after a block.
    `normed` marks linear layers whose output is normalised by itself before it is used.
    `transposed` marks modules that store their weight as (in, out).
    `raw` marks linear layers that read the residual stream itself, where others read a norm of it.
    `forward_power` is p where the forward pass multiplies this module's output by embed**p; `forward_bits` are
    the significant bits that it rounds this factor to, 0 where it does not.
    `dropped` is why a tensor is not written at all; empty for all others.
    `optional` marks modules that not every checkpoint of the family has.
    `stacked` marks tensors that hold a matrix for each expert, in a dimension of their own or one below the other.
    `numbered` are packed axes whose units the last number in a module's name counts; empty where it counts
    layers or experts. Each copy of such a unit is a module of its own.
    `layer_kind` is the kind of layer that a module belongs to; empty for modules of every layer. Where a
    layer is of one kind in two respects, they are told apart as "respect/kind".
    """

    kind: str
    parameters: Mapping[str, tuple[Dimension, ...]]
    plus_one: bool = False
    writes: bool = False
    normed: bool = False
    transposed: bool = False
    raw: bool = False
    forward_power: float = 0.0
    forward_bits: int = 0
    dropped: str = ""
    optional: bool = False
    stacked: bool = False
    numbered: str = ""
    layer_kind: str = ""


def linear(out: str, into: str, forward_power: float = 0.0) -> Form:
    """`nn.Linear`: weight (out, in), and a bias (out) where the checkpoint has one."""
    rows, columns = dimension(Role.OUT, out), dimension(Role.IN, into)
    return Form("linear", {"weight": (rows, columns), "bias": (rows,)}, forward_power=forward_power)


def conv1d(into: str, out: str) -> Form:
    """GPT-2's `Conv1D`: a linear layer whose weight is stored as (in, out); its bias is (out)."""
    return replace(linear(out, into), transposed=True)


def embedding(rows: str, width: str, forward_power: float = 0.0, forward_bits: int = 0) -> Form:
    """`nn.Embedding`: weight (rows, width). It writes the width, so it is copied."""
    table = (dimension(Role.OUT, rows), dimension(Role.OUT, width))
    return Form("embedding", {"weight": table}, forward_power=forward_power, forward_bits=forward_bits)


def depthwise(width: str) -> Form:
    """`nn.Conv1d` over time, each unit by itself: weight (width, 1, kernel), and a bias (width)."""
    units = dimension(Role.OUT, width)
    return Form("conv", {"weight": (units, dimension(Role.OUT, "1"), dimension(Role.OUT, ANY)), "bias": (units,)})


def normed(form: Form) -> Form:
    """The same linear layer, feeding a norm over its own output: those of queries and keys."""
    return replace(form, normed=True)


def raw(form: Form) -> Form:
    """The same linear layer, reading the residual stream itself."""
    return replace(form, raw=True)


def norm(width: str, plus_one: bool = False) -> Form:
    """RMSNorm or LayerNorm before a block: weight, and a bias where the checkpoint has one, (width)."""
    units = (dimension(Role.OUT, width),)
    return Form("norm", {"weight": units, "bias": units}, plus_one=plus_one)


def post_norm(width: str, plus_one: bool = False) -> Form:
    """A norm whose output is added to the residual stream, or is the query or key itself."""
    return replace(norm(width, plus_one), writes=True)


def head_norm(heads: str, width: str) -> Form:
    """A norm over the width of each head, with weights of its own for each: weight (heads, width)."""
    weight = (dimension(Role.OUT, heads), dimension(Role.OUT, width))
    return Form("norm", {"weight": weight}, writes=True)


def parameter(*packed: str) -> Form:
    """A tensor that is no module's weight or bias, a scalar too. Named whole in the table, not by module."""
    return Form("parameter", {"": tuple(dimension(Role.OUT, words) for words in packed)})


def factor(width: str) -> Form:
    """A vector that a width is multiplied by, unit by unit: (width). Named whole in the table, not by module."""
    return Form("factor", {"": (dimension(Role.OUT, width),)})


def bare(form: Form) -> Form:
    """The weight of a form under a name of its own. Named whole in the table, not by module."""
    return replace(form, parameters={"": form.parameters["weight"]})


def stacked(form: Form) -> Form:
    """A matrix for each expert in one tensor: (experts, rows, columns), or the rows of all, expert by expert.

    "experts" is the outermost axis that the form writes, as in one matrix below the other. What is
    transposed is so expert by expert: (experts, in, out).
    """
    return replace(form, stacked=True)


def numbered(packed: str, form: Form) -> Form:
    """The same form for each unit of packed axes: a module whose name ends in the unit's number."""
    return replace(form, numbered=packed)


def drop(reason: str) -> Form:
    """A tensor that stock transformers ignores on load. Named whole in the table, not by module."""
    return Form("drop", {"": ()}, dropped=reason, optional=True)


def optional(form: Form) -> Form:
    """The same form, for a module that the config or the exporter may leave out."""
    return replace(form, optional=True)


def in_layers(kind: str, forms: Mapping[str, Form]) -> dict[str, Form]:
    """The same modules, for the layers of one kind: every layer is of one, and has all modules of that.

    `kind` is "respect/kind" where layers differ in two, such as "mixer/mamba" and "mlp/experts".
    """
    return {module: replace(form, layer_kind=kind) for module, form in forms.items()}
