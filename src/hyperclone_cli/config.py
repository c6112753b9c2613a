"""config.json: read raw, changed where a number grew, and otherwise left as the user had it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from math import ceil, isfinite
from pathlib import Path
from typing import Any

from hyperclone_cli.axes import PRODUCTS
from hyperclone_cli.errors import DEQUANTISE, CheckpointError
from hyperclone_cli.families import Family, Stated, stated_value
from hyperclone_cli.files import check_is_file
from hyperclone_cli.growth import Growth

_DEFAULT_CONTEXT = 2048

_MOST_UNITS = 1 << 20
"""Units of any width, heads and experts but not the vocabulary: plans are made unit by unit where they must."""
_MOST_UNITS_OF_A_HEAD = 1 << 14

_MAY_BE_NOTHING = {"experts", "shared", "moe_ffn", "shared_ffn", "q_latent"}
"""Axes that an architecture has in some checkpoints alone."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError if it is missing or not one."""
    check_is_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file.", "Name a directory in the Hugging Face layout.") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}).", "Fetch the file again.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return value


def read_config(directory: Path) -> dict[str, Any]:
    """The raw config.json of a model that can be read. Raises CheckpointError for one that cannot."""
    if not (directory / "config.json").exists() and (directory / "adapter_config.json").exists():
        raise CheckpointError(
            f"{directory}: this is a PEFT adapter, not a model.",
            "Merge it into its base model first (peft: merge_and_unload, then save_pretrained).",
        )
    config = read_json(directory / "config.json")
    check_readable(config)
    return config


def check_readable(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for the config of a quantised model, or of none."""
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
        raise CheckpointError(
            f"config.json: the checkpoint is quantised (quant_method {method!r}).",
            DEQUANTISE,
        )
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError("config.json: no model_type.", "`hyperclone families` lists those supported.")


def read_sizes(config: Mapping[str, Any], family: Family) -> dict[str, int]:
    """Axis → units of the source, "group", "head_dim" and "layers" included. Without attention it has one head.

    Where layers have widths of their own, these are what config.json has for all of them, or for the first.

    Raises CheckpointError for a missing or impossible number, naming the config key.
    """
    _check_aliases(config, family)
    stated = {axis: family.value(config, key) for axis, key in family.sizes.items()}
    stated = {axis: None if size == "auto" else size for axis, size in stated.items()}
    stated |= {axis: stated[axis][0] for axis in family.listed if isinstance(stated[axis], list) and stated[axis]}
    for axis, size in stated.items():
        follows = axis in ("kv_heads", "head_dim", "proj", "ssm_value", *family.multiples)
        nothing = size is None or (type(size) is int and size == 0)
        if (size is None and follows) or (nothing and axis in _MAY_BE_NOTHING):
            continue
        if type(size) is not int or size < 1:
            raise CheckpointError(
                f"config.json: {family.sizes[axis]} should be a whole number from 1 up, found {size!r}."
            )
    context_length(config, family)
    sizes: dict[str, int] = {axis: size for axis, size in stated.items() if size is not None}
    _check_plausible(sizes, family)
    sizes |= family.fixed
    sizes |= dict.fromkeys(_MAY_BE_NOTHING & stated.keys() - sizes.keys(), 0)
    for axis, (_, of) in family.multiples.items():
        sizes.setdefault(axis, ceil(multiple_of(axis, config, family) * sizes[of]))
    for axis, how in family.stated.items():
        sizes[axis] = _stated_width(sizes[axis], how, config, family)
    heads = sizes.setdefault("heads", 1)
    if "head_dim" not in sizes and sizes["embed"] % heads:
        raise CheckpointError(
            f"config.json: {family.sizes['embed']} {sizes['embed']} is not a multiple of {heads} heads."
        )
    sizes.setdefault("head_dim", sizes["embed"] // heads)
    for product, (outer, inner) in PRODUCTS.items():
        if product in sizes:
            _factor(sizes, product, outer, inner, family)
    if "proj" in family.sizes:
        sizes.setdefault("proj", sizes["embed"])
    _check_plausible(sizes, family)
    return sizes


def _check_plausible(sizes: Mapping[str, int], family: Family) -> None:
    for axis, size in sizes.items():
        most = _MOST_UNITS_OF_A_HEAD if axis == "head_dim" else _MOST_UNITS
        if size > most and axis not in ("vocab", "layers"):
            raise CheckpointError(
                f"config.json: {_spelt(axis, family)} {size} is more than any model has, {most:,} at most.",
                "Fetch the file again.",
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


def _stated_width(number: int, how: Stated, config: Mapping[str, Any], family: Family) -> int:
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


def context_length(config: Mapping[str, Any], family: Family) -> int:
    """The most tokens that the model takes. Raises CheckpointError for an impossible number."""
    context = family.value(config, family.context)
    context = _DEFAULT_CONTEXT if context is None else context
    if type(context) is not int or context < 2:
        raise CheckpointError(f"config.json: {family.context} should be a whole number from 2 up, found {context!r}.")
    return context


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


def grow_config(
    config: Mapping[str, Any], family: Family, growths: Mapping[str, Growth], dtype: str | None, tied: bool
) -> dict[str, Any]:
    """config.json of the clone: the same keys in the same order, with the grown numbers.

    A number that the source leaves to a default is written out once anything grows, and so is the
    tie. `dtype` is written if the user chose one. There are no extra layers: they are not written either.
    """
    grown = dict(config)
    targets = targets_of(growths)
    if any(growth.grows for growth in growths.values()):
        for axis, how in family.stated.items():
            if how.switch:
                grown[how.switch] = False
            else:
                targets[axis] = int(targets[axis] / how.part)
        for axis, key in family.sizes.items():
            if targets.get(axis):
                stated = [name for name in family.names(key) if stated_value(config, name)] or [key]
                stated += [name for name in family.aliases.get(key, ()) if name in family.defaults]
                for name in stated:
                    grown = with_value(grown, name, targets[axis])
    if family.score_scale and growths["key"].grows:
        head_dim = growths["key"]
        scale = family.value(config, family.score_scale) or head_dim.source**-0.5
        grown = with_value(grown, family.score_scale, scale / float(head_dim.ratio))
    if grown.get(family.extra_layers):
        grown[family.extra_layers] = 0
    ties = [name for name in family.names("tie_word_embeddings") if name in config]
    if tied != bool(family.value(config, "tie_word_embeddings")) or not ties:
        grown |= dict.fromkeys(ties or ["tie_word_embeddings"], tied)
    if dtype is not None:
        for key in [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]:
            grown[key] = dtype
    return grown


def targets_of(growths: Mapping[str, Growth]) -> dict[str, int]:
    """Axis → units of the clone, products of axes and "head_dim" included."""
    targets = {axis: growth.target for axis, growth in growths.items()}
    for product, (outer, inner) in reversed(PRODUCTS.items()):
        if outer in targets and inner in targets:
            targets[product] = targets[outer] * targets[inner]
    return {**targets, "head_dim": targets["value"]}


def with_value(config: Mapping[str, Any], key: str, number: Any) -> dict[str, Any]:
    """A copy of a config with one number changed, inside another object for a key "a.b"."""
    outer, _, inner = key.partition(".")
    return {**config, outer: with_value(config.get(outer) or {}, inner, number) if inner else number}


def config_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old value or None, new value) of every key of `after` that is new or has another value."""
    return [(key, before.get(key), new) for key, new in after.items() if key not in before or before[key] != new]


def check_config(config: Mapping[str, Any]) -> None:
    """Let stock transformers read a config. Raises CheckpointError with its reason if it refuses. Slow to import."""
    from transformers import AutoConfig

    fields = {key: item for key, item in config.items() if key != "model_type"}
    try:
        fields = json.loads(json.dumps(fields), object_hook=_special_float)  # as from a file, and a copy
        AutoConfig.for_model(config["model_type"], **fields)
    except Exception as error:  # each architecture raises what it likes
        raise CheckpointError(f"transformers refuses the config: {last_line(error)}") from None


def _special_float(item: dict[str, Any]) -> Any:
    """What JSON has no number for, as transformers writes it; any other object is itself."""
    return float(item["__float__"]) if item.keys() == {"__float__"} else item


def last_line(error: Exception) -> str:
    """The last line of an error's message, or the name of its kind: other libraries' messages are long."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
