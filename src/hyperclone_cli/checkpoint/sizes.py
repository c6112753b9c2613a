"""The sizes of a model, as its config.json states them in the words of its family's table."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil, isfinite
from typing import Any

from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.families import Family, Stated, stated_value
from hyperclone_cli.families.axes import AXES, PRODUCTS
from hyperclone_cli.families.layer_rules import Listed

_DEFAULT_CONTEXT = 2048

_MOST_UNITS = 1 << 20
"""Units of any width, heads and experts but not the vocabulary: plans are made unit by unit where they must."""
_MOST_UNITS_OF_A_HEAD = 1 << 14
_FEW = 64
"""Layers, or numbers in a list, that are built in no time."""


def read_sizes(config: Mapping[str, Any], family: Family) -> dict[str, int]:
    """Axis → units of the source, "group", "head_dim" and "layers" included; without attention, one head.

    Where layers differ, these are the sizes that config.json has for all of them, or for the first.

    Raises CheckpointError for a missing or impossible number, naming the config key.
    """
    _check_aliases(config, family)
    stated = {axis: family.value(config, key) for axis, key in family.sizes.items()}
    stated = {axis: None if size == "auto" else size for axis, size in stated.items()}
    stated["layers"] = _number_of_layers(stated["layers"], config, family)
    listed = family.per_layer.listed if family.per_layer else {}
    stated |= {axis: stated[axis][0] for axis in listed if isinstance(stated[axis], list) and stated[axis]}
    for axis, size in stated.items():
        absent = size is None or (type(size) is int and size == 0)
        if (size is None and (AXES[axis].derived or axis in family.multiples)) or (absent and AXES[axis].absent):
            continue
        if type(size) is not int or size < 1:
            raise CheckpointError(
                f"config.json: {family.sizes[axis]} should be a whole number from 1 up, found {size!r}."
            )
    context_length(config, family)
    sizes: dict[str, int] = {axis: size for axis, size in stated.items() if size is not None}
    _check_plausible(sizes, family)
    sizes |= family.fixed
    sizes |= {axis: 0 for axis in stated.keys() - sizes.keys() if AXES[axis].absent}
    for axis, (_, of) in family.multiples.items():
        sizes.setdefault(axis, ceil(multiple_of(axis, config, family) * sizes[of]))
    for axis in family.stated.keys() & sizes.keys():
        sizes[axis] = stated_width(axis, sizes[axis], config, family)
    heads = sizes.setdefault("heads", 1)
    if "head_dim" not in sizes and sizes["embed"] % heads:
        raise CheckpointError(
            f"config.json: {family.sizes['embed']} {sizes['embed']} is not a multiple of {heads} heads."
        )
    sizes.setdefault("head_dim", sizes["embed"] // heads)
    for product, (outer, inner) in PRODUCTS.items():
        if product in sizes:
            _factor(sizes, product, outer, inner, family)
    if sizes["group"] % sizes.get("group_parts", 1):
        raise CheckpointError(
            f"config.json: {_spelt('heads', family)} {heads} is not a multiple of {sizes['kv_heads']} key/value heads"
            f" with {sizes['group_parts']} parts each."
        )
    if "proj" in family.sizes:
        sizes.setdefault("proj", sizes["embed"])
    _check_plausible(sizes, family)
    return sizes


def _number_of_layers(stated: Any, config: Mapping[str, Any], family: Family) -> Any:
    """What config.json states, or as many as a list has an item for each."""
    lists = (family.value(config, rule.key) for rule in family.layer_rules if isinstance(rule, Listed))
    return next((len(items) for items in lists if isinstance(items, list)), None) if stated is None else stated


def _check_plausible(sizes: Mapping[str, int], family: Family) -> None:
    for axis, size in sizes.items():
        most = _MOST_UNITS_OF_A_HEAD if axis == "head_dim" else _MOST_UNITS
        if size > most and axis not in ("vocab", "layers"):
            raise CheckpointError(
                f"config.json: {_spelt(axis, family)} {size} is more than any model has, {most:,} at most.",
                "Correct it, or take the config.json that was published.",
            )


def multiple_of(axis: str, config: Mapping[str, Any], family: Family) -> int | Fraction:
    """How many times the other width an axis among `family.multiples` is. Raises CheckpointError for no such number."""
    times = family.multiples[axis][0]
    if not isinstance(times, str):
        return times
    return _positive(config, times, family)


def _positive(config: Mapping[str, Any], key: str, family: Family) -> Fraction:
    stated = family.value(config, key)
    if type(stated) not in (int, float) or not isfinite(stated) or stated <= 0:
        raise CheckpointError(f"config.json: {key} should be a number above 0, found {stated!r}.")
    return Fraction(stated)


def stated_width(axis: str, number: int, config: Mapping[str, Any], family: Family) -> int:
    """The units of an axis for which config.json has this number. Raises CheckpointError for impossible factors."""
    how = family.stated.get(axis, Stated(Fraction(1)))
    if how.switch and not family.value(config, how.switch):
        return number
    width = int(number * how.part)
    if how.times and family.value(config, how.times) is not None:
        width = int(width * _positive(config, how.times, family))
    if not how.multiple:
        return width
    multiple = _positive(config, how.multiple, family)
    return int(ceil(width / multiple) * multiple)


def _spelt(axis: str, family: Family) -> str:
    """What config.json states a width by."""
    if axis not in family.sizes and axis in family.multiples:
        times, of = family.multiples[axis]
        return f"{times} × {family.sizes[of]}"
    return family.sizes.get(axis, axis)


def _factor(sizes: dict[str, int], product: str, outer: str, inner: str, family: Family) -> None:
    """Replace a product by its two factors; each of `outer` has as many of `inner` as any other."""
    total = sizes.pop(product)
    number = sizes.setdefault(outer, total)
    each = total // number
    if total % number or sizes.setdefault(inner, each) != each:
        key, outer_key, inner_key = (_spelt(axis, family) for axis in (product, outer, inner))
        raise CheckpointError(
            f"config.json: {key} {total} is not a multiple of {outer_key} {number}"
            + (f" with {inner_key} {sizes[inner]} each." if inner in sizes else ".")
        )


def check_towers(config: Mapping[str, Any], family: Family, tensors: int) -> None:
    """Raise CheckpointError where a tower of a wrapper has more layers than the checkpoint has tensors.

    transformers builds every layer that config.json states, also without weights. Nothing is checked of a text model.
    """
    if family.wrapping is None:
        return
    for name, inner in config.items():
        if name != family.wrapping.wrapper.config and isinstance(inner, Mapping):
            _check_tower(name, inner, tensors)


def _check_tower(name: str, config: Mapping[str, Any], tensors: int) -> None:
    for key, value in config.items():
        number = len(value) if isinstance(value, list) else value
        counts = isinstance(value, list) or key == "depth" or "layers" in str(key)
        if isinstance(value, Mapping):
            _check_tower(f"{name}.{key}", value, tensors)
        elif counts and type(number) is int and number > max(tensors, _FEW):
            raise CheckpointError(
                f"config.json: {name}.{key} states {number:,}, of a checkpoint with {tensors:,} tensors.",
                "Fetch the file again.",
            )


def context_length(config: Mapping[str, Any], family: Family) -> int:
    """The most tokens that the model takes. Raises CheckpointError for an impossible number."""
    context = family.value(config, family.context)
    context = _DEFAULT_CONTEXT if context is None else context
    if type(context) is not int or context < 2:
        raise CheckpointError(f"config.json: {family.context} should be a whole number from 2 up, found {context!r}.")
    return context


def number_of_logits(config: Mapping[str, Any], family: Family) -> int:
    """The tokens that the model has a logit for: it reads more where the rows of its vocabulary are padded.

    Raises CheckpointError for an impossible number.
    """
    vocabulary = read_sizes(config, family)["vocab"]
    stated = family.value(config, family.logits) if family.logits else None
    if stated is None:
        return vocabulary
    if type(stated) is not int or stated < 1:
        raise CheckpointError(f"config.json: {family.logits} should be a whole number from 1 up, found {stated!r}.")
    return min(stated, vocabulary)


def _check_aliases(config: Mapping[str, Any], family: Family) -> None:
    for key in family.aliases:
        stated = {
            name: found[0] for name in family.names(key) if (found := stated_value(config, name)) != (None,) and found
        }
        if len(set(map(str, stated.values()))) > 1:
            raise CheckpointError(
                f"config.json: {' and '.join(f'{name} {number}' for name, number in stated.items())} contradict"
                " each other: they are names of one number.",
                "Keep the one that is right.",
            )
