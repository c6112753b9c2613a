"""Defaults of transformers' config classes, for each key that a table may ask for: `make docs` writes them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

import hyperclone_cli.families
from hyperclone_cli.families import FAMILIES, Family
from hyperclone_cli.families.layer_rules import LayerRule
from hyperclone_cli.families.positions import Alibi

FILE = Path(hyperclone_cli.families.__file__).parent / "config_defaults.json"


def config_defaults() -> str:
    """The text of the file: model_type → config key → what its class has where config.json says nothing."""
    found: dict[str, dict[str, Any]] = {}
    for family in FAMILIES.values():
        model_type = family.wrapping.wrapper.text if family.wrapping else family.model_type
        if model_type not in CONFIG_MAPPING:
            continue
        config_class = CONFIG_MAPPING[model_type]
        own = {name for names in family.aliases.values() for name in names if has_field(config_class, name)}
        stated = {key: class_default(config_class, key) for key in asked_keys(family) | own}
        known = {key: value for key, value in stated.items() if value is not None}
        found[model_type] = found.get(model_type, {}) | known
    lines = (
        f"  {json.dumps(model_type)}: {json.dumps(dict(sorted(keys.items())))}"
        for model_type, keys in sorted(found.items())
        if keys
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def has_field(config_class: Any, key: str) -> bool:
    """Whether a config class has a field of its own for a key, and no other name for one."""
    outer, _, inner = key.partition(".")
    if inner:
        part = getattr(config_class, "sub_configs", {}).get(outer)
        return part is not None and has_field(part, inner)
    renamed = getattr(config_class, "attribute_map", {})
    return key not in renamed and key in {field.name for field in dataclasses.fields(config_class)}


def class_default(config_class: Any, key: str) -> Any:
    """The default of a class's field; None where it has none, or none of its own."""
    outer, _, inner = key.partition(".")
    if inner:
        part = getattr(config_class, "sub_configs", {}).get(outer)
        return class_default(part, inner) if part else None
    names = getattr(config_class, "attribute_map", {})
    same = {key, names.get(key), *(name for name, other in names.items() if other == key)}
    fields = [field for field in dataclasses.fields(config_class) if field.name in same]
    defaults = [field.default for field in fields if field.default is not dataclasses.MISSING]
    default = next((default for default in defaults if default is not None), None)
    return list(default) if isinstance(default, tuple) else default


def asked_keys(family: Family) -> set[str]:
    """The keys of config.json that a table may ask for."""
    conditions: list[Mapping[str, Any]] = [
        family.layout.when,
        *(limit.when for limit in family.limits),
        *(fold.when for fold in family.folds),
        *(rule.when for rule in family.layer_rules),
    ]
    positions = [family.positions]
    if isinstance(family.positions, Alibi):
        positions.append(family.positions.otherwise)
        conditions.append(family.positions.when)
    keys = {*family.sizes.values(), *family.aliases, family.context, family.logits, "tie_word_embeddings"}
    keys |= {times for times, _ in family.multiples.values() if isinstance(times, str)}
    keys |= {key for how in family.stated.values() for key in (how.times, how.multiple, how.switch)}
    keys |= {key for rule in family.layer_rules for key in keys_of_rule(rule)}
    keys |= {key for one in positions for key in (one.constant_scale, one.stated_scale, getattr(one, "fraction", ""))}
    keys |= {key for when in conditions for key in when}
    if family.routing:
        keys |= {family.routing.chosen, *(family.routing.alone or ()), *family.routing.groups, *family.routing.only}
    if family.per_layer:
        layers = family.per_layer
        keys |= {layers.kv_shared, layers.double_wide, *layers.listed.values()}
        keys |= {key for own in layers.keys.values() for key in own.values()}
    return keys - {""}


def keys_of_rule(rule: LayerRule) -> Iterator[str]:
    """The keys that a rule for layers reads."""
    for field in dataclasses.fields(rule):
        value = getattr(rule, field.name)
        if isinstance(value, LayerRule):
            yield from keys_of_rule(value)
        elif isinstance(value, tuple):
            yield from (key for part in value if isinstance(part, LayerRule) for key in keys_of_rule(part))
        elif isinstance(value, str):
            yield value


if __name__ == "__main__":
    FILE.write_text(config_defaults(), encoding="utf-8")
