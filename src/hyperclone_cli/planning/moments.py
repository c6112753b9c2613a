"""How the moments of an optimizer grow: by what the growth does to the gradient of each weight.

The clone computes its source's function of weights that are scaled and shared out, so that its gradient is its source's
by the chain rule (docs/design.md, "Optimizer state"). A row that is copied with the factor k, and of which the loss
takes the share c of all copies, has c / k times the gradient. What it reads is equal in all copies, so the columns of a
row have equal gradients, however the weight itself was shared out among them. A first moment is linear in the gradient,
a second one quadratic.
"""

from __future__ import annotations

from collections.abc import Mapping

from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.families import Match
from hyperclone_cli.families.vocabulary import Role, dimension
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.growth.widths import Growth, Run, grow_axes, grow_dimension
from hyperclone_cli.planning.grown_tensor import Filling, GrownTensor, TensorKind
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.planning.tensors import as_stored


def grow_moment(plan: Plan, tensor: GrownTensor, stored: StoredTensor, power: int, name: str) -> GrownTensor:
    """The moment `name` of a tensor of the clone, made from the `stored` one of the tensor that this was made from.

    power  1 for a moment of the gradient, 2 for one of its square

    Padding and new layers have had no gradient: their first moment is zero. Their second is that of the source's units,
    on average, and that of the layer that is copied, since zeros would make the first steps several times as long as
    the rate.
    """
    match = plan.match(tensor)
    growths = _shares(plan, tensor.layer, reads_norm=match.form.kind == "norm" and not match.form.writes)
    dimensions = match.form.parameters[match.parameter] if not tensor.kept else ()
    grown = list(tensor.growths)
    for place, words in enumerate(dimensions):
        growth = tensor.growths[place]
        if words.role is Role.IN:
            factors = [1.0] * len(growth.runs)
        else:
            shares = grow_dimension(words.parts, growth.source, growths)
            factors = [share.scale / run.scale for share, run in zip(shares.runs, growth.runs, strict=True)]
        runs = tuple(run._replace(scale=factor**power) for run, factor in zip(growth.runs, factors, strict=True))
        grown[place] = Growth(growth.source, runs)
    new = tensor.layer is not None and plan.order[tensor.layer].new and plan.request.keeps_function
    placed = as_stored(stored, tensor.kind)
    kind = TensorKind(
        pattern=tensor.pattern,
        stored=placed,
        dtype=stored.dtype,
        part="optimizer",
        roles=(Role.OUT,) * len(grown),
        growths=tuple(grown),
        fillings=(Filling.ZERO if power == 1 else Filling.MEAN,) * len(grown),
        mixing=Mixing("symmetric"),
        gain=(_of_copies(match, growths) / tensor.gain) ** power,
        transposed=tensor.transposed,
        silent=power == 1 and new,
        experts=tensor.kind.experts,
    )
    return GrownTensor(name, tensor.layer, placed, kind)


def _of_copies(match: Match, shares: Mapping[str, Growth]) -> float:
    """The share of a module that is one of several copies, as those of an expert are; 1 where there are none."""
    if not match.form.numbered:
        return 1.0
    return grow_axes(dimension(Role.OUT, match.form.numbered).parts, shares).runs[0].scale


def shares_are_exact(plan: Plan) -> bool:
    """Whether every copy has just the share of the gradient that it is given: new layers and padding aside.

    Elsewhere the copies of the residual stream have shares that differ from layer to layer, since layers read other
    copies than the head does, and since the mean square that a norm divides by depends on all copies alike.
    """
    mixing, embed = plan.request.mixing, plan.growths["embed"]
    uncopied = all(run.copies <= 1 for run in embed.runs)
    equal = mixing.strategy == "symmetric" or (mixing.strategy == "diagonal" and plan.head.tied)
    return (uncopied or equal) and not any(kind.noisy for kind in plan.kinds)


def _shares(plan: Plan, layer: int | None, reads_norm: bool) -> Mapping[str, Growth]:
    """The growths of all axes, with the share of the gradient that each copy has in the place of its scale.

    reads_norm  give the copies of the residual stream the shares that the readers of a layer's first norms leave them
    """
    growths = plan.growths if layer is None else plan.layers.get(layer, plan.growths)
    mixing = plan.request.mixing
    copies = max(run.copies for run in growths["embed"].runs)
    stream = _stream(plan, copies)
    turned = growths["key"].padding > 0 if "key" in growths else False  # under rotary positions one query meets the key
    if reads_norm and layer is not None:
        inner = max((run.copies for run in growths["ffn"].runs), default=1) if "ffn" in growths else copies
        given = [_read(stream, mixing, copy, inner) for copy in range(inner)]
        stream = [_read(given, mixing, copy, copies) for copy in range(copies)]

    def share(axis: str, run: Run) -> float:
        if run.silent:
            return 0.0
        if run.is_padding:
            return 1.0 / copies
        if axis in ("embed", "proj"):
            return stream[run.copy] if run.copies == copies else 1.0
        if axis == "query" and turned:
            return float(run.copy == 0)
        if axis == "experts":  # all copies of a chosen expert are chosen, at equal weights
            return 1.0 / run.copies
        return _read(stream, mixing, run.copy, run.copies)

    return {
        axis: Growth(growth.source, tuple(run._replace(scale=share(axis, run)) for run in growth.runs))
        for axis, growth in growths.items()
    }


def _stream(plan: Plan, copies: int) -> list[float]:
    """The share of each copy of the residual stream in the gradient that the head gives it.

    Layers read the stream in other rows of C, and so give its copies other shares of their own part, under `uneven`,
    and under `halving` with a tied head: these are left out.
    """
    if plan.head.tied:
        return [1 / copies] * copies
    return [float(plan.request.mixing.share(0, copy, copies)) for copy in range(copies)]


def _read(outputs: list[float], mixing: Mixing, copy: int, copies: int) -> float:
    """The share of one of the `copies` of an input, from those of the outputs that read it: a column of C."""
    return sum(share * float(mixing.share(output, copy, copies)) for output, share in enumerate(outputs))
