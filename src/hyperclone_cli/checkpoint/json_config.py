"""config.json as raw JSON, so that every key of the source that does not grow is kept as it is."""

from __future__ import annotations

import codecs
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperclone_cli.checkpoint.boundary import check_length
from hyperclone_cli.checkpoint.leftovers import adapter_alone
from hyperclone_cli.checkpoint.safetensors_file import check_regular_file
from hyperclone_cli.errors import CheckpointError

_MOST_BYTES = 1 << 26
"""Of a JSON file: the longest index of a published model has 14 million."""

_MOST_LABELS = 1 << 20

_MARKS = {
    codecs.BOM_UTF8: ("UTF-8", "tail -c +4"),
    codecs.BOM_UTF16_LE: ("UTF-16", "iconv -f UTF-16 -t UTF-8"),
    codecs.BOM_UTF16_BE: ("UTF-16", "iconv -f UTF-16 -t UTF-8"),
}
"""Byte order mark → (encoding, command that prints a file without it, in UTF-8)."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError if the file is missing, damaged or holds something else."""
    check_regular_file(path)
    check_length(path, _MOST_BYTES)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file.", "Name a directory in the Hugging Face layout.") from None
    for mark, (encoding, without) in _MARKS.items():
        if content.startswith(mark):
            old, new = shlex.quote(str(path)), shlex.quote(f"{path}.new")
            raise CheckpointError(
                f"{path}: begins with a byte order mark of {encoding}, which transformers does not read either.",
                f"Save it as UTF-8 without one: {without} {old} > {new} && mv {new} {old}",
            )
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}).", "Correct it, or fetch the file again.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return value


def read_config(directory: Path) -> dict[str, Any]:
    """The raw config.json in `directory`. Raises CheckpointError for an adapter, or none at all."""
    if not (directory / "config.json").exists() and (directory / "adapter_config.json").exists():
        raise adapter_alone(directory)
    config = read_json(directory / "config.json")
    check_readable(config)
    return config


def check_readable(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a config without a model_type, or of a model that cannot be made."""
    for part in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        labels = part.get("num_labels")
        if isinstance(labels, int) and labels > _MOST_LABELS:  # transformers makes a name for each
            raise CheckpointError(f"config.json: num_labels {labels} is more than any model has.", "Take it out.")
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError("config.json: no model_type.", "`hyperclone families` lists those supported.")


def with_value(config: Mapping[str, Any], key: str, number: Any) -> dict[str, Any]:
    """A copy of `config` with the value of `key` replaced; a key "a.b" names b inside the object a."""
    outer, _, inner = key.partition(".")
    return {**config, outer: with_value(config.get(outer) or {}, inner, number) if inner else number}


def config_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old value or None, new value) of every key of `after` that is new or has a different value.

    Of a config inside, which has a model_type of its own, those of its keys, as "outer.inner".
    """
    changes: list[tuple[str, Any, Any]] = []
    for key, new in after.items():
        old = before.get(key)
        if isinstance(new, Mapping) and isinstance(old, Mapping) and "model_type" in new:
            changes += [(f"{key}.{inner}", was, now) for inner, was, now in config_changes(old, new)]
        elif key not in before or old != new:
            changes.append((key, old, new))
    return changes
