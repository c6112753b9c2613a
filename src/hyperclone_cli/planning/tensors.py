"""How tensors of the clone are made from those of the source, by the forms that their modules have in the table."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hyperclone_cli.checkpoint.safetensors_file import FLOAT_DTYPES, StoredTensor
from hyperclone_cli.errors import DEQUANTISE, CheckpointError, RequestError
from hyperclone_cli.families import Family, Match
from hyperclone_cli.families.axes import AXES
from hyperclone_cli.families.vocabulary import KEPT, Dimension, Form, Role, words_of
from hyperclone_cli.growth.depth import ClonedLayer
from hyperclone_cli.growth.experts import ExpertGrowth
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.widths import Growth, grow_axes, grow_dimension, size_of, tiled
from hyperclone_cli.planning.grown_tensor import Filling, GrownTensor, TensorKind
from hyperclone_cli.planning.matching import copies_of_units, counted_by, layers_of_copies, names_of_copies


def grow_tensors(
    tensors: Mapping[str, StoredTensor],
    matched: Mapping[str, Match],
    family: Family,
    growths: Mapping[str, Growth],
    layers: Mapping[int, Mapping[str, Growth]],
    order: Sequence[ClonedLayer],
    experts: ExpertGrowth,
    request: Request,
) -> list[GrownTensor]:
    """The tensors of the clone, from the stored ones and their places in the family's table.

    layers  the growths in each layer of the clone, where layers differ
    order   the layers of the clone
    experts  how the experts of a layer become more

    Raises as `kind_of`.
    """
    copies: dict[int | None, list[int]] = defaultdict(list)
    for number, cloned in enumerate(order):
        copies[cloned.source].append(number)
    silent = {number for number, cloned in enumerate(order) if cloned.new and request.depth_init == "zero"}
    there: dict[int, Mapping[str, Growth]] = {}
    # tensors that are alike → their kind, and the copies of each unit that their names count, where it has several
    ways: dict[tuple[object, ...], tuple[TensorKind, Mapping[int, Sequence[int]]]] = {}
    units: dict[tuple[str, int], Mapping[int, Sequence[int]]] = {}
    grown = []
    for stored_name, match in matched.items():
        if match.form.dropped:
            continue
        stored = tensors[stored_name]
        for copy in layers_of_copies(match, copies[match.layer]):
            layer = copy.layer
            own = growths if layer is None else layers.get(layer, growths)
            if copy.form.single:
                own = there.setdefault(id(own), {**own, "experts": tiled(own["experts"].target, 1)})
            at_rest = layer in silent
            line = match.name if match.form is KEPT else match.module  # what is kept has a line of its own
            like = (line, match.parameter, stored.shape, stored.dtype, id(own), at_rest)
            way = ways.get(like)
            if way is None:
                kind = kind_of(stored, copy, family, own, request)
                kind = silenced(kind, copy, family) if at_rest else weighed(kind, copy, experts)
                counted = counted_by(copy)
                if (counted, id(own)) not in units:
                    units[counted, id(own)] = copies_of_units(counted, own)
                ways[like] = way = kind, units[counted, id(own)]
            kind, made = way
            placed = as_stored(stored, kind)
            names = names_of_copies(copy, made[copy.indices[-1]]) if made else (copy.name,)
            for name in names:
                grown.append(GrownTensor(name, layer, placed, kind))
    return grown


def as_stored(stored: StoredTensor, kind: TensorKind) -> StoredTensor:
    """A tensor of the source, to be read by rows as those of its kind are."""
    like = kind.stored
    if stored.transposed == like.transposed and stored.stack == like.stack:
        return stored
    return stored._replace(transposed=like.transposed, stack=like.stack)


def kind_of(
    stored: StoredTensor, match: Match, family: Family, growths: Mapping[str, Growth], request: Request
) -> TensorKind:
    """How a stored tensor is grown, by its place in the family's table.

    Raises CheckpointError if the stored shape or dtype is not what the config and the table say, and
    RequestError for a norm over a width that does not grow evenly.
    """
    form, parameter = match.form, match.parameter
    if form.kind == KEPT.kind:
        return _kept(stored, match, request)
    dimensions = form.parameters[parameter]
    outermost = grow_axes((dimensions[0].parts[0][:1],), growths) if form.stacked else None
    stack = _stack(stored, len(dimensions), outermost.source) if outermost else ()
    shape = stack[1:] or stored.shape or (1,)
    if len(dimensions) != len(shape):
        raise CheckpointError(
            f"tensor {stored.name!r}: expected {len(dimensions)} dimensions, found shape {list(stored.shape)}."
        )
    transposed = form.transposed and len(dimensions) == 2
    if form.by_shape:
        sizes = [size_of(dimension.parts, growths) for dimension in dimensions]
        transposed = [shape[0] * math.prod(stack[:1]), *shape[1:]] != sizes
    rows, *columns = shape[::-1] if transposed else shape
    grown = []
    for dimension, size in zip(dimensions, (rows * math.prod(stack[:1]), *columns), strict=True):
        try:
            grown.append(grow_dimension(dimension.parts, size, growths))
        except ValueError as error:
            number = len(dimensions) - 1 - len(grown) if transposed else len(grown)
            of_all = f" of all {stack[0]} experts" if stack and not grown else ""
            raise CheckpointError(
                f"tensor {stored.name!r}: config.json makes dimension {number + len(stack[:1])}{of_all} ({dimension})"
                f" {error}, found shape {list(stack or stored.shape)}.",
                "config.json and the weights do not belong together.",
            ) from None
    if stored.dtype not in FLOAT_DTYPES.values():
        raise CheckpointError(
            f"tensor {stored.name!r}: expected floating-point weights, found {stored.dtype}.", DEQUANTISE
        )
    gain = _gain(form, parameter, growths["embed"], grown[-1] if form.kind == "norm" else grown[0])
    if form.from_stream and parameter != "bias":
        if grown[1].padding and family.norm == "layer":
            raise RequestError(
                f"tensor {match.name}: reads the residual stream, whose padding must hold the mean under LayerNorm.",
                "Choose whole multiples.",
            )
        gain /= grown[1].runs[0].scale
    if form.kind == "norm":
        _check_norm(match.name, family, form, dimensions[-1].axes, grown[-1])
    if form.normed or form.gates or form.kind == "factor" or (form.kind == "norm" and not form.writes):
        grown[0] = grown[0].unscaled()
    return TensorKind(
        pattern=match.pattern,
        stored=stored._replace(transposed=transposed, stack=stack),
        dtype=FLOAT_DTYPES[request.dtype] if request.dtype else (*stored.originals, stored)[0].dtype,
        part=_part(form),
        roles=tuple(dimension.role for dimension in dimensions),
        growths=tuple(
            growth.unscaled() if dimension.role is Role.IN else growth
            for dimension, growth in zip(dimensions, grown, strict=True)
        ),
        fillings=tuple(_filling(dimension, form, parameter, family) for dimension in dimensions),
        # a router that is drawn has rows that are the same, and stay so
        mixing=request.mixing if stored.originals else replace(request.mixing, noise_snr_db=None),
        gain=gain,
        offset=float(form.plus_one and parameter != "bias"),
        transposed=transposed and not form.by_shape,
        experts=growths["experts"].target if match.of_experts else 0,
        matrices=outermost.target if outermost else 0,
    )


def _kept(stored: StoredTensor, match: Match, request: Request) -> TensorKind:
    """A tensor of any dtype that is copied byte for byte."""
    shape = stored.shape or (1,)
    return TensorKind(
        pattern=match.name if match.form is KEPT else match.pattern,
        stored=stored,
        dtype=stored.dtype,
        part=match.form.part,
        roles=(Role.OUT,) * len(shape),
        growths=tuple(tiled(size, 1) for size in shape),
        fillings=(Filling.ZERO,) * len(shape),
        mixing=request.mixing,
        kept=True,
    )


def silenced(kind: TensorKind, match: Match, family: Family) -> TensorKind:
    """The same kind of tensor, in a layer that is silent; at rest if it is among those that make it so."""
    if match.module not in family.silent:
        return kind
    rest = 0.0 if match.parameter == "bias" else family.silent[match.module]
    return replace(kind, silent=True, rest=rest)


def weighed(kind: TensorKind, match: Match, experts: ExpertGrowth) -> TensorKind:
    """The same kind of tensor, with the factor that copies of experts call for, if it writes what an expert gives."""
    writes = match.of_experts and match.form.kind in ("linear", "bias") and "embed" in match.form.written
    factor = experts.written if writes else experts.probability if match.form.probability else 1.0
    return kind if factor == 1.0 else replace(kind, gain=kind.gain * factor)


def _stack(stored: StoredTensor, dimensions: int, experts: int) -> tuple[int, ...]:
    """The shape of a stack of matrices of so many dimensions: (experts, …)."""
    shape = stored.shape
    if len(shape) == dimensions and experts and not shape[0] % experts:
        shape = (experts, shape[0] // experts, *shape[1:])
    if len(shape) != dimensions + 1 or shape[0] != experts:
        raise CheckpointError(
            f"tensor {stored.name!r}: expected matrices of {experts} experts, found shape {list(stored.shape)}.",
            "config.json and the weights do not belong together.",
        )
    return shape


def _gain(form: Form, parameter: str, embed: Growth, units: Growth) -> float:
    """The factor of a whole tensor.

    Padding lowers the mean square that a norm divides by to `density` times itself, so its weight takes √density;
    what feeds it is larger by 1/√density, so that the norm's eps weighs as much as before. In the
    residual stream every writer has that factor in its scale; in queries and keys it is given here.
    """
    density = float(units.density)
    power = math.pow(embed.source / embed.target, form.forward_power)
    if form.kind == "norm":
        return power if parameter == "bias" else power * math.sqrt(density)
    if form.normed:
        return 1 / math.sqrt(density)
    if form.forward_bits:
        factors = [_rounded(width**form.forward_power, form.forward_bits) for width in (embed.source, embed.target)]
        return factors[0] / factors[1]
    return power


def _rounded(number: float, bits: int) -> float:
    """`number` to so many significant bits, ties to even."""
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(math.ldexp(mantissa, bits)), exponent - bits)


def _check_norm(name: str, family: Family, form: Form, axes: tuple[str, ...], growth: Growth) -> None:
    if not growth.even:
        why = "its units would be copied in unequal numbers, and so weigh unequally"
    elif growth.padding and family.norm == "layer" and (form.writes or axes != ("embed",)):
        why = "padding would move its mean"
    else:
        return
    raise RequestError(
        f"tensor {name}: a norm over {' × '.join(axes)} cannot grow from {growth.source} to {growth.target} units:"
        f" {why}.",
        "Choose whole multiples.",
    )


def _filling(dimension: Dimension, form: Form, parameter: str, family: Family) -> Filling:
    if dimension.role is Role.IN:
        return Filling.NOISE
    if form.kind == "norm":
        return Filling.ZERO if parameter == "bias" else Filling.MEAN
    writes_stream = "embed" in dimension.axes or "proj" in dimension.axes
    return Filling.MEAN if writes_stream and family.norm == "layer" else Filling.ZERO


def _part(form: Form) -> str:
    """The part of the network, read off the axes of the whole module."""
    if form.part:
        return form.part
    dimensions = [dimension for parameter in form.parameters.values() for dimension in parameter]
    parts = {AXES[word].part for word in words_of(a for d in dimensions for a in d.axes) if word in AXES}
    if form.kind == "norm":
        return "norms"
    if "vocabulary" in parts:
        return "embedding" if form.kind == "embedding" else "head"
    parts |= {"embedding"} if form.kind == "embedding" else set()
    return next((part for part in ("recurrent", "attention", "embedding") if part in parts), "feed-forward")
