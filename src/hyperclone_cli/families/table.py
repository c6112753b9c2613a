"""What a family's table holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from hyperclone_cli.families.vocabulary import Form


def stated_value(config: Mapping[str, Any], key: str) -> tuple[Any] | tuple[()]:
    """What config.json states for a key, in a tuple of its own; an empty one if it says nothing."""
    inner: Any = config
    for part in key.split("."):
        if not isinstance(inner, Mapping) or part not in inner:
            return ()
        inner = inner[part]
    return (inner,)


def _is_set(value: Any) -> bool:
    return any(value) if isinstance(value, list) else value is not None


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

    `growth` is "pads" (a hidden size that is no multiple of the source's), "ffn" (a feed-forward width that is
    none), "heads" (their number) or "head_dim". `when` are values of config.json under which it applies; `...`
    stands for any that is set.
    """

    growth: str
    why: str
    when: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stated:
    """How a key states a width where that is not simply its number of units.

    part      the width is this part of the number, rounded down
    times     the config key of a factor on that, rounded down again
    multiple  the config key of what it is then rounded up to a multiple of
    switch    the config key without which the number is the width after all; the clone's config turns it off
    """

    part: Fraction
    times: str = ""
    multiple: str = ""
    switch: str = ""


@dataclass(frozen=True)
class Family:
    """One architecture as its checkpoints lie on disk.

    layout    what tells this table from others of the same model_type; `when` are the values of config.json
              under which it is the one.
    known_as  models that have it.
    holds     a module that only checkpoints of this layout have, where config.json does not tell.
    sizes     axis → the config key that states it. Without "kv_heads" every query head has its
              own key and value; without "head_dim" it is embed / heads, whatever the config says.
    fixed     axis → units, where the architecture leaves no choice.
    multiples axis → (n, other axis), of which it is n times the width, rounded up, where its key says nothing
              or "auto", or where it has no key: then always. n is a number, or the config key of one.
    stated    axis → how its key states it, where not in units.
    aliases   config key → other keys that state the same number. One with a default of its own is written in any case.
              In all keys "a.b" is b inside a.
    context   the config key for the most tokens that the model takes.
    tensors   module name (the first `*` is a layer's number, the second that of an expert) → form.
    defaults  what transformers assumes for a key that config.json omits.
    prefix    the base model's attribute; checkpoints of the bare base model lack it.
    embedding, head   the modules that `tie_word_embeddings` makes one matrix.
    norm      "rms" or "layer": what the norms divide by, the root mean square or the standard deviation.
    rotary    how rotary positions pair a head's units: "halves" (i with i + half), "pairs" (2i with 2i + 1), or
              "" without them. A "rotary" in `sizes` is the number of units in a head that have them.
    rotary_fraction   the config key for the part of a head that has them, where it is not a rope parameter.
    query_scalar   the config key, or the number, that scales attention; empty if the root of head_dim does.
    score_scale    the config key of what scores are multiplied by, 1 / √head size where it says nothing. In a larger
              head it is divided by the copies, and the queries are left alone.
    cache     the packed axes of what one token adds to the cache in each layer.
    folds     where the factor of a tied head can go; the first that applies is used.
    extra_layers   the config key for layers beyond the stated ones, which predict further tokens and which
              transformers does not load; `extra_names` is what their names hold where they are not numbered on.
    limits    what this architecture cannot have.
    embed_divides_by_heads   transformers refuses a hidden_size that is no multiple of the heads.
    tiny      what the config of a tiny model needs besides its widths; see `hyperclone families --check`.
    paired_heads   head i works with head i + half of them, so that the key/value heads are even in number.
    heads_stay     what a head does depends on its number and on how many there are: heads grow in size alone.
    heads_fill_embed   hidden_size is heads × head_dim, although the config states head_dim.
    alibi     values of config.json under which heads have ALiBi's slopes, and may grow in number: those that the
              source has not are silent.
    layer_keys   type of layer, as `layer_types` lists them → axis → the config key of the width that layers of
              this type have. transformers saves it in `per_layer_config` under the usual key, and reads that first.
    listed    axes whose key may list a width for each layer.
    borrowers   the config key for the number of layers, the last ones, that take keys and values from an earlier one;
              "keys/own" and "values/own" are the kind of layer that has the modules for these.
    double_wide   the config key by which the feed-forward of borrowers is twice as wide as that of the others.
    keys_are_values   types of layer that take their keys for values, before the norms.
    """

    model_type: str
    sizes: Mapping[str, str]
    tensors: Mapping[str, Form]
    defaults: Mapping[str, Any]
    layout: str = ""
    known_as: str = ""
    when: Mapping[str, Any] = field(default_factory=dict)
    holds: str = ""
    fixed: Mapping[str, int] = field(default_factory=dict)
    multiples: Mapping[str, tuple[int | Fraction | str, str]] = field(default_factory=dict)
    stated: Mapping[str, Stated] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cache: tuple[str, ...] = ("kv_heads key", "kv_heads value")
    context: str = "max_position_embeddings"
    prefix: str = "model"
    embedding: str = "model.embed_tokens"
    head: str = "lm_head"
    norm: str = "rms"
    rotary: str = "halves"
    rotary_fraction: str = ""
    query_scalar: str = ""
    score_scale: str = ""
    extra_layers: str = ""
    extra_names: str = ""
    folds: tuple[Fold, ...] = (Fold("model.norm"),)
    limits: tuple[Limit, ...] = ()
    embed_divides_by_heads: bool = False
    heads_fill_embed: bool = False
    paired_heads: bool = False
    heads_stay: bool = False
    alibi: Mapping[str, Any] | None = None
    layer_keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    listed: tuple[str, ...] = ()
    borrowers: str = ""
    double_wide: str = ""
    keys_are_values: tuple[str, ...] = ()
    tiny: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_heads(self) -> bool:
        """Whether there are attention heads."""
        return "heads" in self.sizes

    @property
    def heads_are_free(self) -> bool:
        """Whether number and size of the heads may grow apart from the residual stream."""
        return "head_dim" in self.sizes and not self.heads_fill_embed

    def variant(self, model_type: str, **changes: Any) -> Family:
        """The same table under another model_type, for other models; `tensors` and `defaults` are merged into it."""
        changes.setdefault("known_as", "")
        for key in ("tensors", "defaults"):
            changes[key] = {**getattr(self, key), **changes.get(key, {})}
        return replace(self, model_type=model_type, **changes)

    @property
    def name(self) -> str:
        """The model_type, and the layout where there are several."""
        return f"{self.model_type} ({self.layout})" if self.layout else self.model_type

    def names(self, key: str) -> tuple[str, ...]:
        """The keys of config.json that state what `key` does, itself first."""
        return (key, *self.aliases.get(key, ()))

    def value(self, config: Mapping[str, Any], key: str) -> Any:
        """What transformers sees for `key`: the file's value, else the architecture's default."""
        stated = [found[0] for found in (stated_value(config, name) for name in self.names(key)) if found]
        assumed = None if stated else self.defaults.get(key)
        return next((item for item in stated if item is not None), assumed)

    def fits(self, config: Mapping[str, Any], when: Mapping[str, Any]) -> bool:
        """Whether a config has the values `when`; `...` stands for any that is set: not null, nor a list of zeros."""
        found = {key: self.value(config, key) for key in when}
        return all(_is_set(found[key]) if wanted is ... else found[key] == wanted for key, wanted in when.items())

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

    def is_stored_in(self, names: Iterable[str]) -> bool:
        """Whether a checkpoint with tensors of these names has the module that tells this layout, if there is one."""
        module = self.tensors.get(self.holds)
        return module is None or any(form is module for name in names for _, _, form in self.matches(name))

    def matches(self, name: str) -> list[tuple[str, str, Form]]:
        """Every (full tensor name, parameter, form) whose rule fits `name`, with or without prefix."""
        return [
            (full, parameter, form)
            for full in (name, f"{self.prefix}.{name}")
            for pattern, parameter, form in self._patterns
            if pattern.fullmatch(full)
        ]
