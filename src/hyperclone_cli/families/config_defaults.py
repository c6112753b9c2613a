"""What transformers' config classes assume of keys that config.json leaves out, from a file made of these classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

CONFIG_DEFAULTS: Mapping[str, Mapping[str, Any]] = json.loads(
    (files(__package__) / "config_defaults.json").read_text(encoding="utf-8")
)
"""model_type → config key → default. Null, and what a class works out from other keys, is left out."""

_STATED = {
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"),
    *("n_embd", "d_model", "ffn_dim", "n_head", "n_heads", "num_heads", "n_layer", "n_layers", "num_layers"),
}
"""Keys that every config.json states, but that of a text model inside a wrapper."""


def defaults_of(model_type: str) -> dict[str, Any]:
    """The defaults of a model_type's config; without the sizes that each config states."""
    return {key: value for key, value in CONFIG_DEFAULTS.get(model_type, {}).items() if key not in _STATED}
