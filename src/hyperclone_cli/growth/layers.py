"""What differs from layer to layer: widths that a layer has of its own, and modules that it does without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperclone_cli.checkpoint.json_config import with_value
from hyperclone_cli.checkpoint.sizes import read_sizes
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import Family
from hyperclone_cli.growth.config import targets_of
from hyperclone_cli.growth.heads import Heads, heads_like, heads_of
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.widths import Growth, spread, tiled

_PER_LAYER = "per_layer_config"
"""Layer → key → number: what transformers saves of layers that differ, whatever keys these were made from."""

_TYPES = "layer_types"
"""What kind of attention each layer has."""


def layer_sizes(config: Mapping[str, Any], family: Family, sizes: Mapping[str, int]) -> list[dict[str, int]]:
    """Axis → units, of each layer; empty where the architecture has one width for all.

    `sizes` are those of the config as a whole. Raises CheckpointError for a number that is missing or impossible.
    """
    if not (family.layer_keys or family.listed):
        return []
    _check(config, family, sizes["layers"])
    return [read_sizes(_seen_by(layer, config, family, sizes), family) for layer in range(sizes["layers"])]


def grow_layers(
    request: Request, config: Mapping[str, Any], family: Family, sizes: Mapping[str, int], growths: Mapping[str, Growth]
) -> dict[int, Mapping[str, Growth]]:
    """Layer → the growth of each axis in it, where that may differ; `growths` are those of the config as a whole.

    Every layer's feed-forward grows in the same proportion. Key/value heads grow like those of the other layers,
    as nearly as the query heads, of which all layers have as many, can be shared out among them.

    Raises CheckpointError as `layer_sizes` does, RequestError for heads that cannot be shared out, or a feed-forward
    width where the layers have several.
    """
    each = layer_sizes(config, family, sizes)
    widths = {own["ffn"] for own in each if "ffn" in family.listed}
    if request.intermediate_size is not None and len(widths) > 1:
        raise RequestError(
            f"--intermediate-size {request.intermediate_size}: the layers have widths of their own,"
            f" from {min(widths)} to {max(widths)}.",
            "Grow all of them: --ffn-mult.",
        )
    return {layer: _grow(own, sizes, growths, family) for layer, own in enumerate(each)}


def _grow(
    own: Mapping[str, int], sizes: Mapping[str, int], growths: Mapping[str, Growth], family: Family
) -> Mapping[str, Growth]:
    grown = dict(growths)
    if own["ffn"] != sizes["ffn"]:
        grown["ffn"] = spread(own["ffn"], round(own["ffn"] * growths["ffn"].ratio))
    if own["head_dim"] != sizes["head_dim"]:
        grown |= dict.fromkeys(("query", "key", "value"), tiled(own["head_dim"], 1))
    if heads_of(own) != heads_of(sizes):
        others = Heads(growths["kv_heads"].target * growths["group"].target, growths["kv_heads"].target)
        heads = heads_like(heads_of(own), heads_of(sizes), others, family)
        grown["kv_heads"] = spread(own["kv_heads"], heads.key_value)
        grown["group"] = spread(own["group"], heads.query // heads.key_value)
    return grown


def grow_layer_numbers(
    grown: Mapping[str, Any], config: Mapping[str, Any], family: Family, layers: Mapping[int, Mapping[str, Growth]]
) -> dict[str, Any]:
    """The clone's config with the numbers of single layers grown too, each where the source's `config` has it."""
    result = dict(grown)
    for axis in family.listed:
        if isinstance(config.get(family.sizes[axis]), list):
            result[family.sizes[axis]] = [growths[axis].target for growths in layers.values()]
    for layer, growths in layers.items():
        targets = targets_of(growths)
        for axis, key in _own_keys(layer, config, family).items():
            result = with_value(result, key, targets[axis])
    return result


def borrowers(config: Mapping[str, Any], family: Family, layers: int) -> range:
    """The layers that take keys and values from an earlier one. Raises CheckpointError for an impossible number."""
    number = family.value(config, family.borrowers) if family.borrowers else 0
    if type(number) is not int or not 0 <= number < layers:
        raise CheckpointError(
            f"config.json: {family.borrowers} should be a whole number below {layers}, that of the layers,"
            f" found {number!r}."
        )
    return range(layers - number, layers)


def stated_kinds(config: Mapping[str, Any], family: Family, layers: int) -> dict[tuple[int, str], str]:
    """(layer, respect) → the kind of the layer, where config.json tells it and not the names of the tensors.

    "keys/own" and "values/own" are layers that have these projections, and do not take them from elsewhere.
    """
    if not family.borrowers:
        return {}
    kinds = {(layer, respect): f"{respect}/own" for layer in range(layers) for respect in ("keys", "values")}
    if family.keys_are_values:
        types = _layer_types(config, layers)
        kinds |= {(layer, "values"): "values/keys" for layer in range(layers) if types[layer] in family.keys_are_values}
    for layer in borrowers(config, family, layers):
        kinds |= {(layer, respect): f"{respect}/borrowed" for respect in ("keys", "values")}
    return kinds


def _check(config: Mapping[str, Any], family: Family, layers: int) -> None:
    _layer_types(config, layers)
    for axis in family.listed:
        widths = family.value(config, family.sizes[axis])
        if isinstance(widths, list) and len(widths) != layers:
            raise CheckpointError(
                f"config.json: {family.sizes[axis]} should be one number, or one for each of {layers} layers,"
                f" found {len(widths)}."
            )
    own = config.get(_PER_LAYER) or {}
    if not isinstance(own, Mapping) or not all(
        number.isdecimal() and int(number) < layers and isinstance(numbers, Mapping) for number, numbers in own.items()
    ):
        raise CheckpointError(
            f"config.json: {_PER_LAYER} should have, under the numbers of layers below {layers}, what differs there."
        )


def _layer_types(config: Mapping[str, Any], layers: int) -> list[Any]:
    types = config.get(_TYPES)
    if not isinstance(types, list) or len(types) != layers or not all(isinstance(kind, str) for kind in types):
        found = f"{len(types)} of them" if isinstance(types, list) and len(types) != layers else repr(types)
        raise CheckpointError(
            f"config.json: {_TYPES} should list the kinds of attention of {layers} layers, found {found}.",
            "Load the model with transformers and save it again: save_pretrained writes them out.",
        )
    return types


def _own_keys(layer: int, config: Mapping[str, Any], family: Family) -> dict[str, str]:
    """Axis → the config key of the width that a layer has of its own."""
    if not family.layer_keys:
        return {}
    if _PER_LAYER in config:
        spelt = {int(number): number for number in config[_PER_LAYER] or {}}  # "05" in a model of ten layers or more
        inside = f"{_PER_LAYER}.{spelt.get(layer, layer)}"
        keys: Mapping[str, str] = {axis: f"{inside}.{key}" for axis, key in family.sizes.items()}
    else:
        keys = family.layer_keys.get(config[_TYPES][layer], {})
    return {axis: key for axis, key in keys.items() if family.value(config, key) is not None}


def _seen_by(layer: int, config: Mapping[str, Any], family: Family, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The config as a layer sees it: its own numbers in the place of the common ones."""
    seen = dict(config)
    for axis in family.listed:
        widths = family.value(config, family.sizes[axis])
        seen[family.sizes[axis]] = widths[layer] if isinstance(widths, list) else widths
    for axis, key in _own_keys(layer, config, family).items():
        seen[family.sizes[axis]] = family.value(config, key)
    if family.value(config, family.double_wide) and layer in borrowers(config, family, sizes["layers"]):
        seen[family.sizes["ffn"]] *= 2
    return seen
