"""config.json: read raw, changed where a number grew, and otherwise left as the user had it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.families import Family, stated_value
from hyperclone_cli.growth import Growth

_DEFAULT_CONTEXT = 2048

_MAY_BE_NOTHING = {"shared", "shared_ffn", "q_latent"}
"""Axes that an architecture has in some checkpoints alone."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError if it is missing or not one."""
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
            "Use the original weights, or dequantise and save them first.",
        )
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError("config.json: no model_type.", "`hyperclone families` lists those supported.")


def read_sizes(config: Mapping[str, Any], family: Family) -> dict[str, int]:
    """Axis → units of the source, "group", "head_dim" and "layers" included.

    Raises CheckpointError for a missing or impossible number, naming the config key.
    """
    _check_aliases(config, family)
    stated = {axis: family.value(config, key) for axis, key in family.sizes.items()}
    for axis, size in stated.items():
        follows = axis in ("kv_heads", "head_dim", "proj", *family.multiples)
        if (size is None and follows) or (not size and axis in _MAY_BE_NOTHING):
            continue
        if type(size) is not int or size < 1:
            raise CheckpointError(
                f"config.json: {family.sizes[axis]} should be a whole number from 1 up, found {size!r}."
            )
    context_length(config, family)
    sizes: dict[str, int] = {axis: size for axis, size in stated.items() if size is not None}
    sizes |= family.fixed
    sizes |= dict.fromkeys(_MAY_BE_NOTHING & stated.keys() - sizes.keys(), 0)
    for axis, (times, of) in family.multiples.items():
        sizes.setdefault(axis, _times(config, family, times) * sizes[of])
    heads = sizes.pop("heads")
    kv_heads = sizes.setdefault("kv_heads", heads)
    for numerator, denominator, key in (
        (heads, kv_heads, "num_attention_heads"),
        (sizes["embed"], 1 if "head_dim" in sizes else heads, family.sizes["embed"]),
    ):
        if numerator % denominator:
            raise CheckpointError(f"config.json: {key} {numerator} is not a multiple of {denominator} heads.")
    sizes["group"] = heads // kv_heads
    sizes.setdefault("head_dim", sizes["embed"] // heads)
    if "proj" in family.sizes:
        sizes.setdefault("proj", sizes["embed"])
    return sizes


def _times(config: Mapping[str, Any], family: Family, times: int | str) -> int:
    number = family.value(config, times) if isinstance(times, str) else times
    if type(number) is not int or number < 1:
        raise CheckpointError(f"config.json: {times} should be a whole number from 1 up, found {number!r}.")
    return number


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
    targets = {axis: growth.target for axis, growth in growths.items()}
    targets["heads"] = targets["kv_heads"] * targets["group"]
    targets["head_dim"] = targets["value"]
    if any(growth.grows for growth in growths.values()):
        for axis, key in family.sizes.items():
            if targets.get(axis):
                stated = [name for name in family.names(key) if stated_value(config, name)] or [key]
                stated += [name for name in family.aliases.get(key, ()) if name in family.defaults]
                for name in stated:
                    grown = _with(grown, name, targets[axis])
    if family.score_scale and growths["key"].grows:
        head_dim = growths["key"]
        scale = family.value(config, family.score_scale) or head_dim.source**-0.5
        grown = _with(grown, family.score_scale, scale / float(head_dim.ratio))
    if grown.get(family.extra_layers):
        grown[family.extra_layers] = 0
    if tied != bool(family.value(config, "tie_word_embeddings")) or "tie_word_embeddings" not in config:
        grown["tie_word_embeddings"] = tied
    if dtype is not None:
        for key in [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]:
            grown[key] = dtype
    return grown


def _with(config: Mapping[str, Any], key: str, number: Any) -> dict[str, Any]:
    """A copy of a config with one number changed, inside another object for a key "a.b"."""
    outer, _, inner = key.partition(".")
    return {**config, outer: _with(config.get(outer) or {}, inner, number) if inner else number}


def config_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old value or None, new value) of every key of `after` that is new or has another value."""
    return [(key, before.get(key), new) for key, new in after.items() if key not in before or before[key] != new]


def check_config(config: Mapping[str, Any]) -> None:
    """Let stock transformers read a config. Raises CheckpointError with its reason if it refuses. Slow to import."""
    from transformers import AutoConfig

    fields = {key: item for key, item in config.items() if key != "model_type"}
    try:
        AutoConfig.for_model(config["model_type"], **fields)
    except Exception as error:  # each architecture raises what it likes
        raise CheckpointError(f"transformers refuses the config: {last_line(error)}") from None


def last_line(error: Exception) -> str:
    """The last line of an error's message, or the name of its kind: other libraries' messages are long."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
