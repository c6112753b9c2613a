"""The tensors of a dense checkpoint as those of a mixture, whose experts are parts of the feed-forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.checkpoint.views import Cut, Cuts, Drawn, Varied
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import Match
from hyperclone_cli.families.upcycling import Upcycling
from hyperclone_cli.families.vocabulary import Form, linear
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.request import Request

_SPREAD = 0.02
"""The standard deviation of a new router's weights, where config.json states no initializer_range."""


def as_experts(
    source: Source, matched: Mapping[str, Match], proposal: Proposal
) -> tuple[dict[str, StoredTensor], dict[str, Match]]:
    """(tensors, places in the table) of the mixture that a dense source is read as; both by name in the mixture.

    matched  the places in the dense table of the source's tensors

    A router has the clone's number of rows: those of experts that make one feed-forward are the same.
    Raises RequestError for a bias that the mixture has no place for.
    """
    upcycling = proposal.upcycling
    assert upcycling is not None
    used = {dense for parts in upcycling.made.values() for dense in parts}
    tensors: dict[str, StoredTensor] = {}
    places: dict[str, Match] = {}
    dense: dict[tuple[str, int], StoredTensor] = {}
    for name, match in matched.items():
        if match.parameter == "bias" and match.module not in upcycling.biased and not match.form.dropped:
            raise RequestError(
                f"tensor {name}: {upcycling.class_name} has no such bias.", "Leave --num-experts and its options out."
            )
        if match.module in used:
            assert match.layer is not None
            dense[match.module, match.layer] = source.tensors[name]
        else:
            tensors[name] = source.tensors[name]
            places[name] = match if match.form.dropped else _in_mixture(match, upcycling)
    for layer in range(proposal.sizes["layers"]):
        for match, stored in _made_in(layer, dense, upcycling, proposal):
            tensors[match.name], places[match.name] = stored, match
    return tensors, places


def _in_mixture(match: Match, upcycling: Upcycling) -> Match:
    """The place in the mixture's table of a tensor outside of the feed-forward."""
    return match._replace(form=upcycling.target.tensors[match.module])


def _made_in(
    layer: int, dense: Mapping[tuple[str, int], StoredTensor], upcycling: Upcycling, proposal: Proposal
) -> Sequence[tuple[Match, StoredTensor]]:
    """What stands in one layer in the place of the feed-forward, and what it is made of."""
    experts, request = range(proposal.sizes["experts"]), proposal.request
    parts = request.expert_granularity
    found = []
    for module, names in upcycling.made.items():
        form = upcycling.target.tensors[module]
        matrices = tuple(dense[name, layer] for name in names)
        numbers = [(layer, expert) for expert in experts] if module.count("*") == 2 else [(layer,)]
        for indices in numbers:
            place = _place(module, form, *indices)
            chosen = experts if form.stacked else experts[indices[-1] : indices[-1] + 1]
            made = _expert(matrices, place, chosen, request) if place.of_experts else matrices[0]
            found.append((place, made))
    number, width = request.num_experts, proposal.sizes["embed"]
    assert number is not None
    first = dense[next(iter(upcycling.made.values()))[0], layer]
    for module, rows, spread in (
        (upcycling.router, number, _spread(proposal.config)),
        *((module, 1, 0.0) for module in upcycling.zeros),
    ):
        # as many rows as the clone has experts: these are no copies of others
        form = replace(upcycling.target.tensors[module], parameters=linear(str(rows), "embed").parameters)
        place = _place(module, form, layer)
        new = Drawn((), False, request.mixing.seed, place.name, width, spread, alike=parts)
        found.append((place, StoredTensor(place.name, first.dtype, (rows, width), first.path, 0, packed=new)))
    return found


def _spread(config: Mapping[str, Any]) -> float:
    stated = config.get("initializer_range")
    return float(stated) if isinstance(stated, (int, float)) and 0 < stated <= 1 else _SPREAD


def _place(module: str, form: Form, *indices: int) -> Match:
    parameter = next(iter(form.parameters))
    match = Match("", module, parameter, form, indices)
    return match._replace(name=match.numbered(*indices))


def _expert(matrices: tuple[StoredTensor, ...], place: Match, experts: range, request: Request) -> StoredTensor:
    """The matrix of an expert, or those of several in one stack."""
    parts, stacked = request.expert_granularity, place.form.stacked
    plain = (
        matrices[0] if parts == 1 and not stacked else _cut(matrices, place, [one % parts for one in experts], parts)
    )
    rows, columns = plain.shape
    packed = plain.packed
    if request.varies_experts:
        in_rows = "embed" not in place.form.written
        packed = Varied(
            (plain,),
            False,
            request.mixing.seed,
            place.name,
            tuple(f"layer {place.layer} expert {one}" for one in experts),
            matrices[0].shape[0] // parts if in_rows else columns,
            in_rows,
            request.expert_drop,
            request.expert_noise_snr_db,
        )
    shape = (len(experts), rows // len(experts), columns) if stacked else plain.shape
    return (
        plain
        if packed is plain.packed and shape == plain.shape
        else plain._replace(name=place.name, shape=shape, offset=0, packed=packed)
    )


def _cut(matrices: tuple[StoredTensor, ...], place: Match, chosen: Sequence[int], parts: int) -> StoredTensor:
    """Some of the `parts` of a feed-forward, one below the other.

    What reads the residual stream has them in its rows, what writes it in its columns.
    """
    cuts = []
    for part in chosen:
        for number, matrix in enumerate(matrices):
            rows, columns = matrix.shape
            if "embed" in place.form.written:
                width = columns // parts
                cuts.append(Cut(number, range(rows), range(part * width, (part + 1) * width)))
            else:
                height = rows // parts
                cuts.append(Cut(number, range(part * height, (part + 1) * height), range(columns)))
    first, shape = matrices[0], (sum(len(cut.rows) for cut in cuts), len(cuts[0].columns))
    return StoredTensor(place.name, first.dtype, shape, first.path, 0, packed=Cuts(matrices, False, tuple(cuts)))
