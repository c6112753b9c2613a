"""config.json as raw JSON, so that every key of the source that does not grow is kept as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperclone_cli.checkpoint.safetensors_file import check_regular_file
from hyperclone_cli.errors import DEQUANTISE, CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError if the file is missing, damaged or holds something else."""
    check_regular_file(path)
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
    """The raw config.json in `directory`. Raises CheckpointError for an adapter, a quantised model, or none at all."""
    if not (directory / "config.json").exists() and (directory / "adapter_config.json").exists():
        raise CheckpointError(
            f"{directory}: this is a PEFT adapter, not a model.",
            "Merge it into its base model first (peft: merge_and_unload, then save_pretrained).",
        )
    config = read_json(directory / "config.json")
    check_readable(config)
    return config


def check_readable(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a config of a quantised model, or without a model_type."""
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
        raise CheckpointError(f"config.json: the checkpoint is quantised (quant_method {method!r}).", DEQUANTISE)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError("config.json: no model_type.", "`hyperclone families` lists those supported.")


def with_value(config: Mapping[str, Any], key: str, number: Any) -> dict[str, Any]:
    """A copy of `config` with the value of `key` replaced; a key "a.b" names b inside the object a."""
    outer, _, inner = key.partition(".")
    return {**config, outer: with_value(config.get(outer) or {}, inner, number) if inner else number}


def config_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old value or None, new value) of every key of `after` that is new or has a different value."""
    return [(key, before.get(key), new) for key, new in after.items() if key not in before or before[key] != new]
