"""The recipe of a clone: at which rates its tensors are trained, and which of their coordinates are new.

All of it follows from the plan. AdamW moves every weight by the rate, whatever its size; an output that reads n copies
of a unit so moves n times as far at the source's rate, which µP (arXiv 2203.03466) makes up for: what reads a width has
the rate in proportion to 1/width, everything else the source's.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hyperclone_cli.families import Match
from hyperclone_cli.families.vocabulary import ANY, Dimension, Role, dimension
from hyperclone_cli.growth.recipe import LAYERS, Recipe, TensorLine, parts_of
from hyperclone_cli.growth.widths import Growth, grow_axes
from hyperclone_cli.planning.grown_tensor import GrownTensor, TensorKind
from hyperclone_cli.planning.matching import counted_by
from hyperclone_cli.planning.moments import shares_are_exact
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.planning.symmetry import copies_with_equal_gradients

WARM_UP, WARM_UP_OF_NEW = 0.1, 0.2
_DIVERGING, _EQUAL = (0.5, 1.0), (0.25, 0.5)
"""Parts of the source's peak rate between which our clones did best, all parameters at one rate."""

_DOCS = "hyperclone's docs/training.md"


def recipe_of(plan: Plan) -> Recipe:
    """The recipe of the clone of a plan. It is about this growth alone: whatever its source was made of is not new."""
    equal = copies_with_equal_gradients(plan)
    widths = _Widths({LAYERS: plan.growths[LAYERS]})
    lines = _in_layers(_lines(plan, widths))
    moments = "exact" if shares_are_exact(plan) else "estimated"
    return Recipe(
        source_rate=plan.request.source_lr,
        one_rate=_EQUAL if equal else _DIVERGING,
        warm_up=WARM_UP,
        warm_up_of_new=WARM_UP_OF_NEW,
        moments=moments,
        equal_gradients=equal,
        why=_why(equal, moments),
        widths=widths.named,
        tensors=tuple(lines),
    )


def _why(equal: str, moments: str) -> dict[str, str]:
    what = "copies that stay equal" if equal else "copies that diverge"
    return {
        "rate": "µP (arXiv 2203.03466): AdamW moves an output that reads n times as many units n times as far at one"
        " rate, so what reads a width has the source's rate over that factor",
        "one_rate": f"clones with {what} did best between these parts of their source's peak, tiny and trained briefly"
        f" ({_DOCS})",
        "warm_up": f"as our clones were trained ({_DOCS})",
        "warm_up_of_new": "asymmetric re-warm-up (arXiv 2602.02472): coordinates that are new begin more slowly, so"
        " that copies diverge; the length is ours",
        "moments": {
            "exact": "expand --optimizer grows them by the share of the gradient that each copy has",
            "estimated": "under this strategy the share of the gradient that each copy has differs by layer: grown"
            " moments are estimates, which helped a little all the same",
        }[moments]
        + f" ({_DOCS})",
    }


class _Widths:
    """The widths of a recipe by their names. One that grows otherwise in some layers has a name for each way."""

    def __init__(self, named: Mapping[str, Growth]) -> None:
        self.named = dict(named)

    def name_of(self, axis: str, growth: Growth) -> str:
        """The name of an axis that grows so."""
        growth = growth.unscaled()
        number = 1
        while self.named.setdefault(name := axis if number == 1 else f"{axis}@{number}", growth) != growth:
            number += 1
        return name

    def packed(self, dimension: Dimension, growths: Mapping[str, Growth], grown: Growth) -> str:
        """What a dimension packs, in the names of the recipe; `grown` is how it grows by the plan."""
        if dimension.parts == ((ANY,),):
            return ANY
        packed = self.renamed(dimension, growths)
        if grow_axes(parts_of(packed), self.named).target == grown.target:
            return packed
        return self.name_of("-".join(dimension.axes), grown)  # no product of the widths of the layer

    def renamed(self, dimension: Dimension, growths: Mapping[str, Growth]) -> str:
        """The axes that a dimension packs, in the names of the recipe."""

        def word(found: re.Match[str]) -> str:
            return found[0] if found[0].isdecimal() else self.name_of(found[0], growths[found[0]])

        return re.sub(r"[^ .+|]+", word, " | ".join(" ".join(part) for part in dimension.parts))


def _lines(plan: Plan, widths: _Widths) -> Iterable[tuple[TensorLine, set[int]]]:
    """(line, layers whose tensors it is for) of every kind of tensor; equal lines once, with the layers of all."""
    of_kind: dict[TensorKind, tuple[GrownTensor, set[int]]] = {}
    for tensor in plan.tensors:
        _, layers = of_kind.setdefault(tensor.kind, (tensor, set()))
        layers |= set() if tensor.layer is None else {tensor.layer}
    found: dict[TensorLine, set[int]] = defaultdict(set)
    resting = {tensor.pattern for tensor in plan.tensors if tensor.silent}
    for tensor, layers in of_kind.values():
        found[replace(_line(plan, tensor, widths), at_rest=tensor.pattern in resting)] |= layers
    return found.items()


def _line(plan: Plan, tensor: GrownTensor, widths: _Widths) -> TensorLine:
    kind = tensor.kind
    if kind.kept:
        name = re.sub(r"(?<![^.])\d+(?![^.])", "*", tensor.name)
        return TensorLine(name, decays=len(tensor.shape) > 1)
    match = plan.match(tensor)
    growths = plan.growths if tensor.layer is None else plan.layers.get(tensor.layer, plan.growths)
    counted, dimensions = counted_by(match), match.form.parameters[match.parameter]
    return TensorLine(
        tensor.pattern,
        dimensions=tuple(
            widths.packed(packed, growths, grown) for packed, grown in zip(dimensions, kind.growths, strict=True)
        ),
        numbered=widths.renamed(dimension(Role.OUT, counted), growths) if counted else "",
        matrices=kind.matrices,
        transposed=tensor.transposed,
        rate=_rate(plan, match, kind),
        decays=len(kind.roles) > 1 and kind.part != "norms",
        new=not kind.stored.originals,
    )


def _rate(plan: Plan, match: Match, kind: TensorKind) -> float:
    """The rate at which one step moves what a module computes as far as one of the source did, over the source's.

    That is 1 over the growth of the width that it reads, and over that of the factor by which the forward pass
    multiplies what it gives.
    """
    read = kind.growths[-1].ratio if kind.roles[-1] is Role.IN else 1
    embed = plan.growths["embed"]
    return float(1 / read) * math.pow(embed.source / embed.target, match.form.forward_power)


def _in_layers(found: Iterable[tuple[TensorLine, set[int]]]) -> list[TensorLine]:
    """The lines, each with the runs of layers that it is for where there is another of the same name."""
    lines = list(found)
    several = {line.name for line, _ in lines if sum(other.name == line.name for other, _ in lines) > 1}
    return [replace(line, layers=_runs(sorted(of))) if line.name in several else line for line, of in lines]


def _runs(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(first, how many) of every run of numbers, in order, that follow one another."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        first, length = runs[-1] if runs else (number, 0)
        if first + length == number:
            runs[-1:] = [(first, length + 1)]
        else:
            runs.append((number, 1))
    return tuple(runs)
