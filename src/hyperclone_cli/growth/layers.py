"""Layers that differ: those with widths of their own, and those that share the keys and values of an earlier one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperclone_cli.checkpoint.json_config import with_value
from hyperclone_cli.checkpoint.sizes import read_sizes
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import PerLayer
from hyperclone_cli.growth.config import targets_of
from hyperclone_cli.growth.heads import Heads, heads_like, heads_of
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.widths import Growth, spread, tiled

_OF_HEADS = {"kv_heads", "group", "head_dim"}
"""Axes whose growth in a layer of its own follows from all heads together."""


def layer_sizes(proposal: Proposal) -> list[dict[str, int]]:
    """Axis → units, of each layer; empty where all layers have the same widths.

    Raises CheckpointError for a number that is missing or impossible.
    """
    per_layer = proposal.family.per_layer
    if per_layer is None:
        return []
    _check(proposal, per_layer)
    layers = range(proposal.sizes["layers"])
    return [read_sizes(_config_of(layer, proposal, per_layer), proposal.family) for layer in layers]


def grow_layers(proposal: Proposal, growths: Mapping[str, Growth]) -> dict[int, Mapping[str, Growth]]:
    """Layer → the growth of each axis in it, where layers differ; `growths` are those of the config as a whole.

    Every layer's feed-forward grows in the same proportion. Layers that differ in query heads alone have these grow in
    proportion too, inside the same key/value heads. Those that differ in key/value heads have the same number of query
    heads, and key/value heads that grow like those of the others, or to the nearest number that can share these out.

    Raises CheckpointError as `layer_sizes` does, and RequestError for heads that cannot be shared out or for one
    feed-forward width where the layers have several.
    """
    each = layer_sizes(proposal)
    widths = {own["ffn"] for own in each}
    size = proposal.request.intermediate_size
    listed = proposal.family.per_layer.listed if proposal.family.per_layer else {}
    if size is not None and len(widths) > 1 and "ffn" in listed:
        raise RequestError(
            f"--intermediate-size {size}: the layers have widths of their own, from {min(widths)} to {max(widths)}.",
            "Grow all of them: --ffn-mult.",
        )
    return {layer: _grow(own, proposal, growths) for layer, own in enumerate(each)}


def _grow(own: Mapping[str, int], proposal: Proposal, growths: Mapping[str, Growth]) -> Mapping[str, Growth]:
    sizes, grown = proposal.sizes, dict(growths)
    for axis in own.keys() - _OF_HEADS:
        if own[axis] != sizes[axis]:
            grown[axis] = spread(own[axis], round(own[axis] * growths[axis].ratio))
    if own["head_dim"] != sizes["head_dim"]:
        grown |= dict.fromkeys(("query", "key", "value"), tiled(own["head_dim"], 1))
    if own["kv_heads"] == sizes["kv_heads"] and own["group"] != sizes["group"]:
        grown["group"] = spread(own["group"], max(own["group"], round(own["group"] * growths["group"].ratio)))
    elif heads_of(own) != heads_of(sizes):
        others = Heads(growths["kv_heads"].target * growths["group"].target, growths["kv_heads"].target)
        heads = heads_like(heads_of(own), heads_of(sizes), others, proposal)
        grown["kv_heads"] = spread(own["kv_heads"], heads.key_value)
        grown["group"] = spread(own["group"], heads.query // heads.key_value)
    return grown


def grow_layer_numbers(
    grown: Mapping[str, Any], proposal: Proposal, layers: Mapping[int, Mapping[str, Growth]]
) -> dict[str, Any]:
    """The clone's config with the numbers of single layers grown too, each where the source's config has it."""
    result, per_layer = dict(grown), proposal.family.per_layer
    if per_layer is None:
        return result
    for axis, key in per_layer.listed.items():
        if isinstance(proposal.config.get(key), list):
            result[key] = [targets_of(growths)[axis] for growths in layers.values()]
    for layer, growths in layers.items():
        targets = targets_of(growths)
        for axis, keys in _own_keys(layer, proposal, per_layer).items():
            for key in keys:
                result = with_value(result, key, targets[axis])
    return result


def kv_shared_layers(proposal: Proposal) -> range:
    """The layers that share the keys and values of an earlier one. Raises CheckpointError for an impossible number."""
    per_layer, layers = proposal.family.per_layer, proposal.sizes["layers"]
    key = per_layer.kv_shared if per_layer else ""
    number = proposal.family.value(proposal.config, key) if key else 0
    if type(number) is not int or not 0 <= number < layers:
        raise CheckpointError(
            f"config.json: {key} should be a whole number below {layers}, that of the layers, found {number!r}."
        )
    return range(layers - number, layers)


def attention_types(proposal: Proposal) -> list[Any]:
    """Each layer's type of attention, where layers differ. Raises CheckpointError if they are not listed."""
    per_layer = proposal.family.per_layer
    return _types(proposal, per_layer) if per_layer else []


def stated_kinds(proposal: Proposal) -> dict[tuple[int, str], str]:
    """(layer, place) → the kind of the layer, where config.json states it and the names of the tensors do not.

    "keys/own" and "values/own" are layers that have these projections and do not take them from elsewhere.
    """
    per_layer, layers = proposal.family.per_layer, range(proposal.sizes["layers"])
    if per_layer is None or not per_layer.kv_shared:
        return {}
    kinds = {(layer, place): f"{place}/own" for layer in layers for place in ("keys", "values")}
    if per_layer.keys_are_values:
        types = _types(proposal, per_layer)
        kinds |= {(layer, "values"): "values/keys" for layer in layers if types[layer] in per_layer.keys_are_values}
    for layer in kv_shared_layers(proposal):
        kinds |= {(layer, place): f"{place}/shared" for place in ("keys", "values")}
    return kinds


def _check(proposal: Proposal, per_layer: PerLayer) -> None:
    family, config, layers = proposal.family, proposal.config, proposal.sizes["layers"]
    if per_layer.types:
        _types(proposal, per_layer)
    for key in per_layer.listed.values():
        widths = family.value(config, key)
        if isinstance(widths, list) and len(widths) != layers:
            raise CheckpointError(
                f"config.json: {key} should be one number, or one for each of {layers} layers, found {len(widths)}."
            )
    own = config.get(per_layer.overrides) or {}
    if not isinstance(own, Mapping) or not all(
        number.isdecimal() and int(number) < layers and isinstance(numbers, Mapping) for number, numbers in own.items()
    ):
        raise CheckpointError(
            f"config.json: {per_layer.overrides} should have, under the numbers of layers below {layers}, what"
            " differs there."
        )


def _types(proposal: Proposal, per_layer: PerLayer) -> list[Any]:
    types, layers = proposal.config.get(per_layer.types), proposal.sizes["layers"]
    if not isinstance(types, list) or len(types) != layers or not all(isinstance(kind, str) for kind in types):
        found = f"{len(types)} of them" if isinstance(types, list) and len(types) != layers else repr(types)
        raise CheckpointError(
            f"config.json: {per_layer.types} should list the kinds of attention of {layers} layers, found {found}.",
            "Load the model with transformers and save it again: save_pretrained writes them out.",
        )
    return types


def _own_keys(layer: int, proposal: Proposal, per_layer: PerLayer) -> dict[str, list[str]]:
    """Axis → the config keys, names of one number, of the width that a layer has of its own."""
    config, family = proposal.config, proposal.family
    if not per_layer.keys:
        return {}
    if per_layer.overrides in config:
        spelt = {int(number): number for number in config[per_layer.overrides] or {}}  # "05" in a model of ten layers
        inside = f"{per_layer.overrides}.{spelt.get(layer, layer)}"
        keys = {axis: [f"{inside}.{name}" for name in family.names(key)] for axis, key in family.sizes.items()}
    else:
        own = per_layer.keys.get(config[per_layer.types][layer], {})
        keys = {axis: list(family.names(key)) for axis, key in own.items()}
    stated = {axis: [name for name in names if family.value(config, name) is not None] for axis, names in keys.items()}
    return {axis: names for axis, names in stated.items() if names}


def _config_of(layer: int, proposal: Proposal, per_layer: PerLayer) -> dict[str, Any]:
    """The config for one layer: its own numbers in the place of the common ones."""
    config, family, seen = proposal.config, proposal.family, dict(proposal.config)
    for axis, key in per_layer.listed.items():
        widths = family.value(config, key)
        if widths is not None:
            seen[family.sizes[axis]] = widths[layer] if isinstance(widths, list) else widths
    for axis, keys in _own_keys(layer, proposal, per_layer).items():
        seen |= dict.fromkeys(family.names(family.sizes[axis]), family.value(config, keys[0]))
    if family.value(config, per_layer.double_wide) and layer in kv_shared_layers(proposal):
        seen[family.sizes["ffn"]] *= 2
    return seen
