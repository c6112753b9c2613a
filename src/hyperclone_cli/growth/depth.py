"""Depth: which layer of the source each layer of the clone copies, and where new ones stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from math import lcm
from typing import Any, NamedTuple

from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families.layer_rules import Kinds, LayerRule
from hyperclone_cli.growth.layers import attention_types, kv_shared_layers
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.request import MAX_LAYERS
from hyperclone_cli.growth.widths import Growth, Run, tiled

ORDERS = ("interleave", "top", "middle", "stack")


class ClonedLayer(NamedTuple):
    """A layer of the clone: the number of the source's layer that it copies, and whether it is there as well."""

    source: int
    new: bool


def cloned_layers(growth: Growth) -> tuple[ClonedLayer, ...]:
    """Every layer of the clone, in order, from the growth of the axis "layers"."""
    return tuple(
        ClonedLayer(layer, run.copy > 0) for run in growth.runs for layer in range(run.start, run.start + run.length)
    )


def grow_depth(proposal: Proposal) -> Growth:
    """The growth of the axis "layers": each new layer is a run of its own, and silent unless it is a plain copy.

    Raises RequestError for a number or an order of layers that the architecture cannot have, with the nearest number
    or the order that works.
    """
    layers, request = proposal.sizes["layers"], proposal.request
    target = proposal.target("layers", layers) if request.grows_depth else layers
    assert target is not None
    if target == layers:
        return tiled(layers, 1)
    if target > MAX_LAYERS:
        raise RequestError(f"{proposal.typed('layers')}: {target} layers, {MAX_LAYERS} at most.")
    proposal.check_limit("layers", f"{target} layers")
    order = arrange(proposal, target, request.depth_order)
    if why := why_not(proposal, order):
        raise RequestError(
            f"{proposal.typed('layers')} --depth-order {request.depth_order}: not in {proposal.family.name}: {why}.",
            _instead(proposal, target),
        )
    silent = request.depth_init == "zero"
    return Growth(
        layers, tuple(Run(layer.source, 1, int(layer.new), 1, silent=silent and layer.new) for layer in order)
    )


def arrange(proposal: Proposal, target: int, order: str) -> tuple[ClonedLayer, ...]:
    """`target` layers in an order of --depth-order; whether the architecture can have it is not looked at.

    Where the kinds of layers follow a period that no list can state, "interleave" copies whole periods.
    """
    layers = proposal.sizes["layers"]
    more = target - layers
    old, again = [ClonedLayer(layer, False) for layer in range(layers)], partial(_again, layers)
    if order == "top":
        return (*old, *again(layers - more % layers, more))
    if order == "stack":
        return (*old, *again(0, more))
    if order == "middle":
        run = min(more, layers)
        first = (layers - run) // 2
        copies = [ClonedLayer(first + number % run, True) for number in range(more)]
        return (*old[: first + run], *copies, *old[first + run :])
    unit = lcm(*(_period(rule, proposal) for rule in rules_of(proposal)))
    units = max(1, layers // unit)
    found: list[ClonedLayer] = []
    for number in range(units):
        block = old[number * unit : (number + 1) * unit]
        times = (number + 1) * (more // unit) // units - number * (more // unit) // units
        found += [*block, *(ClonedLayer(layer.source, True) for _ in range(times) for layer in block)]
    found += old[units * unit :]
    return (*found, *again(layers - more % unit, more % unit))  # what is left of a period, which cannot be


def _again(layers: int, first: int, count: int) -> Iterable[ClonedLayer]:
    """New layers: so many of the source's, from `first` on and from 0 again after the last."""
    return (ClonedLayer((first + number) % layers, True) for number in range(count))


def rules_of(proposal: Proposal) -> list[LayerRule]:
    """The rules that hold under the source's config."""
    family, config = proposal.family, proposal.config
    value = partial(family.value, config)
    return [rule for rule in family.layer_rules if family.fits(config, rule.when) and rule.tells(value)]


def grow_layer_rules(config: Mapping[str, Any], proposal: Proposal, order: Sequence[ClonedLayer]) -> dict[str, Any]:
    """`config` with what it says of single layers said of the clone's, each of the kind that it was in the source."""
    grown = dict(config)
    for rule in rules_of(proposal):
        kinds = _kinds_wanted(rule, proposal, order)
        if _kinds(rule, grown, proposal, len(order)) != kinds:
            grown |= rule.written(partial(proposal.family.value, grown), kinds)
    return grown


def why_not(proposal: Proposal, order: Sequence[ClonedLayer]) -> str:
    """Why the architecture cannot have its layers in this order; "" if it can.

    Raises CheckpointError for a config that tells its layers apart by something impossible.
    """
    family, config = proposal.family, proposal.config
    last = len(order) - 1
    between = family.limit("between", config)
    if between and any(layer.source != number for number, layer in enumerate(order) if not layer.new):
        return f"{between.why}. New layers can only follow the source's: --depth-order top"
    end = family.limit("last", config)
    if end and order[last].new:
        return end.why
    grown = grow_layer_rules(config, proposal, order)
    for rule in rules_of(proposal):
        if _kinds(rule, grown, proposal, len(order)) != _kinds_wanted(rule, proposal, order):
            return f"config.json tells layers apart by {rule.key or 'their numbers'}, and has no key for this order"
    return _why_not_shared(proposal, order)


def _kinds(rule: LayerRule, config: Mapping[str, Any], proposal: Proposal, layers: int) -> list[Any]:
    try:
        return list(rule.kinds(partial(proposal.family.value, config), layers))
    except ValueError as error:
        raise CheckpointError(f"config.json: {error}.") from None


def _kinds_wanted(rule: LayerRule, proposal: Proposal, order: Sequence[ClonedLayer]) -> Kinds:
    layers = proposal.sizes["layers"]
    kinds = _kinds(rule, proposal.config, proposal, layers)
    if len(kinds) < layers:
        raise CheckpointError(
            f"config.json: {rule.key} should tell the kinds of {layers} layers, found {len(kinds)} of them.",
            "Correct config.json: one entry for each layer.",
        )
    return [*(kinds[layer.source] for layer in order), *kinds[layers:]]


def _period(rule: LayerRule, proposal: Proposal) -> int:
    try:
        return rule.period(partial(proposal.family.value, proposal.config))
    except ValueError as error:
        raise CheckpointError(f"config.json: {error}.") from None


def _why_not_shared(proposal: Proposal, order: Sequence[ClonedLayer]) -> str:
    """Why not, where layers share the keys and values of the last layer of their type before them."""
    shared = kv_shared_layers(proposal)
    if not shared:
        return ""
    types = attention_types(proposal)
    wanted = {types[layer]: ClonedLayer(layer, False) for layer in range(shared.start)}
    found = {types[layer.source]: layer for layer in order if layer.source < shared.start}
    if any(found.get(types[layer]) != wanted.get(types[layer]) for layer in shared):
        return (
            f"its last {len(shared)} layers share the keys and values of layers before them, which must stay the last"
        )
    return ""


def nearest_depth(proposal: Proposal, wanted: float) -> int:
    """The nearest number of layers to `wanted`, the source's or more, that the request's order can have."""
    layers, order = proposal.sizes["layers"], proposal.request.depth_order
    target = min(MAX_LAYERS, max(layers, round(wanted)))
    if proposal.family.limit("layers", proposal.config):
        return layers
    for step in range(target - layers + 1):
        for number in (target - step, target + step):
            if number == layers or not why_not(proposal, arrange(proposal, number, order)):
                return number
    return layers


def _instead(proposal: Proposal, target: int) -> str:
    """The nearest request that works."""
    layers = proposal.sizes["layers"]
    for order in ORDERS:
        if not why_not(proposal, arrange(proposal, target, order)):
            return f"--depth-order {order} works with {target} layers."
    number = nearest_depth(proposal, target)
    return f"The nearest that works: --num-layers {number}." if number > layers else ""
