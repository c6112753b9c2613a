"""What a family's table holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from hyperclone_cli.axes import Form


@dataclass(frozen=True)
class Fold:
    """A module that feeds a tied head, able to carry the factor that the shared matrix cannot.

    `when` are values of config.json under which it is the last module before the head.
    `layers.-1` in the name stands for the last layer.
    """

    module: str
    when: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Limit:
    """A growth that the architecture cannot have, and why.

    `growth` is "pads", a hidden size that is no multiple of the source's, or "head_dim". `when` are values of
    config.json under which it applies; `...` stands for any that is set.
    """

    growth: str
    why: str
    when: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """One architecture as its checkpoints lie on disk.

    sizes     axis → the config key that states it. Without "kv_heads" every query head has its
              own key and value; without "head_dim" it is embed / heads, whatever the config says.
    synonyms  config key → the other name by which transformers also knows it.
    aliases   further config keys → the axis that they state; they are written, not read.
    tensors   module name (the first `*` is a layer's number, the second that of an expert) → form.
    defaults  what transformers assumes for a key that config.json omits.
    prefix    the base model's attribute; checkpoints of the bare base model lack it.
    embedding, head   the modules that `tie_word_embeddings` makes one matrix.
    norm      "rms" or "layer": what the norms divide by, the root mean square or the standard deviation.
    rotary    how rotary positions pair a head's units: "halves" (i with i + half), "pairs" (2i with 2i + 1),
              or "" without them.
    rotary_fraction   the config key for the part of a head that has them, where it is not a rope parameter.
    query_scalar   the config key that scales attention; empty if that is done by the root of head_dim.
    folds     where the factor of a tied head can go; the first that applies is used.
    cache     the packed axes of what one token adds to the cache in each layer.
    extra_layers   the config key for layers beyond the stated ones, which predict further tokens and which
              transformers does not load; `extra_names` is what their names hold where they are not numbered on.
    limits    what this architecture cannot have.
    embed_divides_by_heads   transformers refuses a hidden_size that is no multiple of the heads.
    heads_fill_embed   hidden_size is heads × head_dim, although the config states head_dim.
    """

    model_type: str
    sizes: Mapping[str, str]
    tensors: Mapping[str, Form]
    defaults: Mapping[str, Any]
    prefix: str = "model"
    embedding: str = "model.embed_tokens"
    head: str = "lm_head"
    norm: str = "rms"
    rotary: str = "halves"
    rotary_fraction: str = ""
    query_scalar: str = ""
    synonyms: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    cache: tuple[str, ...] = ("kv_heads key", "kv_heads value")
    extra_layers: str = ""
    extra_names: str = ""
    folds: tuple[Fold, ...] = (Fold("model.norm"),)
    limits: tuple[Limit, ...] = ()
    embed_divides_by_heads: bool = False
    heads_fill_embed: bool = False

    @property
    def heads_are_free(self) -> bool:
        """Whether number and size of the heads may grow apart from the residual stream."""
        return "head_dim" in self.sizes and not self.heads_fill_embed

    def variant(self, model_type: str, **changes: Any) -> Family:
        """The same table under another model_type; `tensors` and `defaults` are merged into it."""
        for key in ("tensors", "defaults"):
            changes[key] = {**getattr(self, key), **changes.get(key, {})}
        return replace(self, model_type=model_type, **changes)

    def without(self, *modules: str) -> Family:
        """The same table without some of its modules."""
        return replace(self, tensors={name: form for name, form in self.tensors.items() if name not in modules})

    @cached_property
    def _patterns(self) -> tuple[tuple[re.Pattern[str], str, Form], ...]:
        return tuple(
            (
                re.compile(re.escape(module).replace(r"\*", r"\d+") + (rf"\.{parameter}" if parameter else "")),
                parameter,
                form,
            )
            for module, form in self.tensors.items()
            for parameter in form.parameters
        )

    def matches(self, name: str) -> list[tuple[str, str, Form]]:
        """Every (full tensor name, parameter, form) whose rule fits `name`, with or without prefix."""
        return [
            (full, parameter, form)
            for full in (name, f"{self.prefix}.{name}")
            for pattern, parameter, form in self._patterns
            if pattern.fullmatch(full)
        ]
