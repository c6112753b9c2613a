"""The words in which a family's table is written.

A dimension of a tensor packs axes (see `axes`), outermost first, written as one string:

    "embed"            one axis
    "kv_heads key"     in each key/value head a key
    "heads query"      a product of axes is short for its factors: "kv_heads group query"
    "heads query+key"  in each head a query, then a key: "+" packs widths side by side
    "kv_heads group.query+key"  in each key/value head its group of queries, then its key: "." packs most tightly
    "experts ffn+ffn"  in each expert a gate of its width, then as much again
    "ffn | ffn"        one whole packed axis after another: "|" packs widest
    "*"                whatever size it has
    "1"                a size that is always the same

A head's query, key and value are equally wide on disk, but each grows in its own way.

A *form* says which dimensions of a module's parameters write a width (`out`: its units are copied)
and which read one (`in`: the copies share the weight).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from hyperclone_cli.families.axes import AXES, PRODUCTS

ANY = "*"
"""A dimension of any size, which is kept whole."""

_OF_TENSORS = {name for name, axis in AXES.items() if axis.part != "config"}
"""The axes that dimensions of tensors span."""


class Role(Enum):
    """Whether a dimension writes or reads the width that it spans."""

    OUT = "out"  # writes it: its units are copied
    IN = "in"  # reads it: the copies share the weight


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


@lru_cache(maxsize=1024)  # all tables together have 140 of them, most of them many times
def dimension(role: Role, packed: str) -> Dimension:
    """Read a packed axis such as `"heads query"`.

    Raises ValueError for a word that is not in the vocabulary: a mistake in a table.
    """
    parts = tuple(tuple(axis for word in part.split() for axis in _factors(word)) for part in packed.split("|"))
    read = Dimension(role, parts)
    unknown = sorted(word for word in words_of(read.axes) - _OF_TENSORS if not word.isdecimal())
    if unknown and parts != ((ANY,),):
        raise ValueError(f"{packed!r}: {unknown[0]!r} is no axis")
    return read


def _factors(word: str) -> tuple[str, ...]:
    """The axes that a word is short for, or itself."""
    return tuple(axis for factor in PRODUCTS[word] for axis in _factors(factor)) if word in PRODUCTS else (word,)


@dataclass(frozen=True)
class Form:
    """How the parameters of one module grow.

    parameters     name inside the module ("weight", "bias") → its dimensions
    plus_one       norms that multiply by (1 + weight)
    writes         norms whose output is added to the residual stream, or is the query or key itself
    normed         linear layers whose output is normalised before it is used: queries and keys under QK-norm
    transposed     modules that store their weight as (in, out)
    by_shape       stacks that are stored as they are computed with, or with each matrix transposed: their shape tells.
                   The clone has the first form, which transformers takes whatever the shape
    from_stream    linear layers that read the residual stream itself, not a norm of it
    forward_power  p where the forward pass multiplies this module's output by embed**p
    forward_bits   significant bits to which the forward pass rounds this factor; 0: it does not
    dropped        why a tensor is not written; empty for all others
    optional       modules that some checkpoints of the family do not have
    stacked        tensors that hold a matrix for each expert, in a dimension of their own or one below the other
    numbered       packed axes whose units the last number in a module's name counts; empty where it counts layers
                   or experts, "*" where it counts what does not grow. Each copy of such a unit is a module of its own
    layer_kind     the kind of layer that a module belongs to; empty for modules of every layer. Where layers differ
                   in two places, such as mixer and feed-forward, it is "place/kind"
    part           the part of the network, where its axes do not tell
    gates          linear layers whose output multiplies what is added to the residual stream, and convolutions over
                   time that it passes through
    summed         norms whose output is summed with others before the norm that is the block's last
    in_some        modules that some layers have and others do not, which no kind of layer tells: the preflight does
    probability    biases of probabilities that sum to 1 over all experts: of c copies of an expert each has 1/c of it
    single         modules of experts that are all there, as many as the clone has: of these no copy is made
    at_rest        what the module holds in a layer that adds nothing to the stream, where its place does not tell
    """

    kind: str
    parameters: Mapping[str, tuple[Dimension, ...]]
    plus_one: bool = False
    writes: bool = False
    normed: bool = False
    transposed: bool = False
    by_shape: bool = False
    from_stream: bool = False
    forward_power: float = 0.0
    forward_bits: int = 0
    dropped: str = ""
    optional: bool = False
    stacked: bool = False
    numbered: str = ""
    layer_kind: str = ""
    part: str = ""
    gates: bool = False
    summed: bool = False
    in_some: bool = False
    probability: bool = False
    single: bool = False
    at_rest: float | None = None

    @property
    def written(self) -> set[str]:
        """The axes that the module's weight writes, or the parameter that stands for it."""
        weight = next(iter(self.parameters.values()))
        return words_of(axis for dimension in weight if dimension.role is Role.OUT for axis in dimension.axes)


KEPT = Form("kept", {}, optional=True, part="tower")
"""A tensor of any shape and dtype that is copied byte for byte, such as one of a vision tower."""


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


def convolution(out: str, dimensions: int) -> Form:
    """`nn.Conv2d` or `nn.Conv3d`: weight (out, in, kernel …), of so many dimensions, and a bias (out)."""
    rows = dimension(Role.OUT, out)
    return Form("conv", {"weight": (rows, *[dimension(Role.OUT, ANY)] * (dimensions - 1)), "bias": (rows,)})


def normed(form: Form) -> Form:
    """The same linear layer, with a norm over its output: those of queries and keys under QK-norm."""
    return replace(form, normed=True)


def from_stream(form: Form) -> Form:
    """The same linear layer, reading the residual stream itself and not a norm of it."""
    return replace(form, from_stream=True)


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


def bias(*packed: str) -> Form:
    """A bias that is a tensor by itself, not a module's. Named whole in the table, not by module."""
    return replace(parameter(*packed), kind="bias")


def stream_query(*packed: str) -> Form:
    """Vectors whose products with the residual stream's norm are divided by the root of its width.

    Named whole in the table, not by module. Such a product grows with the root of the width.
    """
    return replace(parameter(*packed), forward_power=0.5)


def layer_scale() -> Form:
    """A scalar that a layer's whole output is multiplied by, residual stream included. Named whole in the table."""
    return replace(parameter("1"), at_rest=1.0)


def without_post_norm(form: Form) -> Form:
    """The same writer of the residual stream, with no norm behind it, in an architecture that has some elsewhere."""
    return replace(form, at_rest=0.0)


def gating(form: Form) -> Form:
    """The same linear layer, where its output multiplies what is added to the residual stream.

    So do the weights of a convolution over time that this passes through.
    """
    return replace(form, gates=True)


def summed(form: Form) -> Form:
    """The same norm, where its output is summed with others before the block's last norm."""
    return replace(form, summed=True)


def of_probability(form: Form) -> Form:
    """The same parameter, where it is added to probabilities that sum to 1 over all experts."""
    return replace(form, probability=True)


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


def either_way(form: Form) -> Form:
    """The same stack, which checkpoints may have with each matrix transposed: their shape tells."""
    return replace(form, by_shape=True)


def numbered(packed: str, form: Form) -> Form:
    """The same form for each unit of packed axes: a module whose name ends in the unit's number."""
    return replace(form, numbered=packed)


def drop(reason: str) -> Form:
    """A tensor that stock transformers ignores on load. Named whole in the table, not by module."""
    return Form("drop", {"": ()}, dropped=reason, optional=True)


def kept(part: str) -> Form:
    """A tensor of any shape and dtype in some part of the network, copied byte for byte. Named whole in the table."""
    return replace(KEPT, parameters={"": ()}, part=part, optional=False)


def optional(form: Form) -> Form:
    """The same form, for a module that the config or the exporter may leave out."""
    return replace(form, optional=True)


def in_some_layers(form: Form) -> Form:
    """The same form, for a module that some layers have and others do not; transformers says if one is missing."""
    return replace(form, in_some=True)


def in_part(part: str, forms: Mapping[str, Form]) -> dict[str, Form]:
    """The same modules, as belonging to this part of the network."""
    return {module: replace(form, part=part) for module, form in forms.items()}


def in_layers(kind: str, forms: Mapping[str, Form]) -> dict[str, Form]:
    """The same modules, for the layers of one kind: every layer is of one kind, and has all modules of it.

    `kind` is "place/kind" where layers differ in two places, such as "mixer/mamba" and "mlp/experts".
    """
    return {module: replace(form, layer_kind=kind) for module, form in forms.items()}


def apart(kind: str, forms: Mapping[str, Form]) -> dict[str, Form]:
    """The same modules, for the layers of one kind, where those of another have these names in other forms."""
    return {f"{module} ({kind})": form for module, form in in_layers(kind, forms).items()}
