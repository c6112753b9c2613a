"""Every stored tensor matched to one rule of its family's table, and none missing."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.errors import NOT_TOGETHER, CheckpointError, first_of
from hyperclone_cli.families import Family, Match
from hyperclone_cli.families.vocabulary import ANY, Form, Role, dimension, drop
from hyperclone_cli.growth.layers import stated_kinds
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.widths import Growth, grow_axes, units_of

_NEXT_TOKEN = drop("multi-token prediction, which transformers does not load")
_VALUE_HEAD = drop("a value head, which transformers does not load")
_FURTHER_LAYER = drop("of a layer beyond those that config.json states: transformers does not load it")
_SHARED = drop("of a layer that shares those of an earlier one: transformers does not load it")

MANY = sys.maxsize

UNUSUAL = tuple(form.dropped for form in (_VALUE_HEAD, _FURTHER_LAYER))
"""Why a tensor is not written, where its user may have expected it to be."""


def match_tensors(source: Source, proposal: Proposal) -> dict[str, Match]:
    """The place in the family's table of every stored tensor, by its stored name.

    Raises CheckpointError if a tensor fits no rule, or several, or is stored twice, or if tensors are missing.
    """
    family, kinds = proposal.family, stated_kinds(proposal)
    matched: dict[str, Match] = {}
    several: dict[str, list[Match]] = {}
    unknown = []
    for name, fits in _fitting(source.tensors, proposal):
        if fits:
            matched[name] = fits[0]
            if len(fits) > 1:
                several[name] = fits
        else:
            unknown.append(name)
    if several:
        found = _kinds(match for name, match in matched.items() if name not in several)
        for name, fits in several.items():
            matched[name] = _one_of(fits, source.tensors[name], found, family)
    if unknown:
        raise CheckpointError(
            f"{source.path}: no rule of {family.model_type} fits {first_of(unknown)}.",
            "Only causal language models in their original layout can be expanded.",
        )
    if kinds:
        matched = {name: _shared(match, kinds) for name, match in matched.items()}
    names = [match.name for match in matched.values()]
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise CheckpointError(f"{source.path}: stored twice, with and without {family.prefix!r}: {first_of(twice)}.")
    _check_complete(matched.values(), proposal, kinds)
    return matched


def _fitting(names: Iterable[str], proposal: Proposal) -> Iterator[tuple[str, list[Match]]]:
    """(name of a tensor, the rules that fit it): several where the kind of its layer tells which.

    A tensor that transformers does not load has a form that says so, whatever the table says of its name.
    """
    family, layers, known = proposal.family, proposal.sizes["layers"], proposal.family.tensor_names
    more = proposal.config.get(family.next_token.layers)
    further = layers + (more if type(more) is int else 0)
    next_token = family.next_token.names
    for name in names:
        fits = known.matches(name)
        layer = fits[0].layer if fits else None
        layer = known.layer_of(name) if layer is None else layer
        ignored = None
        if (layer is not None and layers <= layer < further) or (next_token and next_token in name):
            ignored = _NEXT_TOKEN
        elif layer is not None and layer >= layers:
            ignored = _FURTHER_LAYER
        elif name.startswith("v_head."):
            ignored = _VALUE_HEAD
        yield name, [Match(name, name, "", ignored, ())] if ignored else fits


def _one_of(fits: list[Match], stored: StoredTensor, found: Mapping[tuple[int, str], str], family: Family) -> Match:
    """Of several places that fit a tensor's name, that with its dimensions, in a layer of the kind that was found."""
    fits = [match for match in fits if match.dimensions + match.form.stacked == len(stored.shape)] or fits
    if len(fits) > 1:
        fits = [match for match in fits if found.get(_where(match)) == match.form.layer_kind] or fits[:1]
    if len(fits) > 1:
        raise CheckpointError(
            f"tensor {stored.name!r} fits {len(fits)} rules of {family.model_type}: a table is wrong."
        )
    return fits[0]


def _shared(match: Match, kinds: Mapping[tuple[int, str], str]) -> Match:
    """The place of a tensor that shares those of an earlier layer, where the stated kind of its layer says so."""
    if match.layer is None:
        return match
    kind = match.form.layer_kind
    return match._replace(form=_SHARED) if kinds.get(_where(match), kind) != kind else match


def _kinds(matches: Iterable[Match]) -> dict[tuple[int, str], str]:
    """(layer, place) → the kind of the layer, as its tensors have it."""
    return {_where(match): match.form.layer_kind for match in matches if match.form.layer_kind}


def _where(match: Match) -> tuple[int, str]:
    """The layer of a tensor, -1 outside of the layers, and the place in it where its kind differs from others."""
    return -1 if match.layer is None else match.layer, _place(match.form.layer_kind)


def layers_of_copies(match: Match, layers: Sequence[int]) -> list[Match]:
    """The places of the clone's tensors made from one of the source: its own, or in each of these layers of the clone.

    `layers` are those that copy its layer.
    """
    layer = match.layer
    if layer is None or layers == [layer]:
        return [match]
    numbers = [(layer, *match.indices[1:]) for layer in layers]
    return [match._replace(name=match.numbered(*indices), indices=indices) for indices in numbers]


def counted_by(match: Match) -> str:
    """The packed axes whose units the last number in a tensor's name counts; "" where it counts nothing that grows."""
    counted = match.form.numbered or ("experts" if match.module.count("*") == 2 else "")
    return "" if counted == ANY or match.form.single else counted


def copies_of_units(counted: str, growths: Mapping[str, Growth]) -> Mapping[int, Sequence[int]]:
    """Unit of the source → those of the clone that copy it, of packed axes; empty where each stays one."""
    growth = grow_axes(dimension(Role.OUT, counted).parts, growths) if counted else None
    if growth is None or not growth.grows:
        return {}
    copies: dict[int, list[int]] = defaultdict(list)
    units = (unit for run in growth.runs for unit in range(run.start, run.start + run.length))
    for copy, unit in enumerate(units):
        copies[unit].append(copy)
    return copies


def names_of_copies(match: Match, copies: Sequence[int]) -> list[str]:
    """The names of the clone's tensors made from one whose last number counts units, and these are its `copies`."""
    *outer, number = match.indices
    return [match.name if copy == number else match.numbered(*outer, copy) for copy in copies]


def _check_complete(matched: Iterable[Match], proposal: Proposal, stated: Mapping[tuple[int, str], str]) -> None:
    """Every module that is not optional, in every layer of its kind; a parameter that one of them has, all have.

    A layer's kind is the `stated` one, or else that of the modules which it has. Raises CheckpointError for tensors
    that are missing, or too many.
    """
    family, sizes = proposal.family, proposal.sizes
    wanted = {
        (module, next(iter(form.parameters))): form for module, form in family.tensors.items() if not form.optional
    }
    found: dict[tuple[str, str], set[tuple[int, ...]]] = defaultdict(set)
    for _, module, parameter, form, indices in matched:
        if not form.dropped:
            line = module, parameter
            found[line].add(indices)
            wanted[line] = form
    kinds: dict[tuple[int, str], str] = {}
    numbers: tuple[set[int], set[int]] = (set(), set())
    for line, present in found.items():
        counted = [set(each) for each in zip(*present, strict=True)]  # the layers, and the units in them
        for known, more in zip(numbers, counted, strict=False):
            known |= more
        if counted and (kind := wanted[line].layer_kind):
            place = _place(kind)
            kinds |= {(layer, place): kind for layer in counted[0]}
    kinds |= stated
    # a number beyond those of the tensors is wrong already: an absurd one in config.json is not counted up to
    most = [len(known) + 1 for known in numbers]
    layers = range(min(sizes["layers"], most[0]))
    usual: dict[str, str] = {}
    for form in family.tensors.values():
        if form.layer_kind:
            usual.setdefault(_place(form.layer_kind), form.layer_kind)
    missing, surplus = [], []
    for (module, parameter), form in wanted.items():
        kind, place = form.layer_kind, _place(form.layer_kind)
        of_kind = [layer for layer in layers if not kind or kind == kinds.get((layer, place), usual[place])]
        units = range(min(_count(form, sizes), most[1]))
        expected = set(product(*([of_kind, units][: module.count("*")])))
        present = found[module, parameter]
        if not form.in_some:
            missing += [Match("", module, parameter, form, each) for each in expected - present]
        surplus += [Match("", module, parameter, form, each) for each in present - expected]
    for matches, what in ((missing, "missing tensors"), (surplus, "too many tensors")):
        if matches:
            names = sorted(match.numbered(*match.indices) for match in matches)
            experts = f" of {sizes['experts']} experts" if sizes.get("experts") else ""
            raise CheckpointError(
                f"config.json says {family.model_type} with {sizes['layers']} layers{experts};"
                f" {what}: {first_of(names)}.",
                NOT_TOGETHER,
            )


def _place(kind: str) -> str:
    """The place in a layer where those of this kind differ from others."""
    return kind.rpartition("/")[0]


def _count(form: Form, sizes: Mapping[str, int]) -> int:
    """How many modules of a form a layer has."""
    if form.numbered == ANY:
        return MANY
    return units_of(dimension(Role.OUT, form.numbered or "experts").parts, sizes)
