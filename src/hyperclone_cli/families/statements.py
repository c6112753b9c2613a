"""What a table states of an architecture besides the names of its tensors: small records, each of one fact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from typing import Any


@dataclass(frozen=True)
class Fold:
    """A module before a tied head, into whose weight the factor can be folded that the shared matrix cannot carry.

    `when` are values of config.json under which it is the last module before the head.
    `.-1.` in the name stands for the last layer.
    """

    module: str
    when: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Limit:
    """A growth that the architecture cannot have, and the reason.

    `growth` is "pads" (a hidden size that is no multiple of the source's), "ffn" (a feed-forward width that is
    none), "heads" (their number), "head_dim", "layers" (their number), "between" (new layers anywhere but after the
    source's), "last" (new layers after the last of the source's), "experts" (their number) or "untie" (a head of
    its own where the source's is tied). `when` are values of config.json under which it applies; `...` stands for any
    that is set.
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
class Layout:
    """What tells a table from others of the same model_type.

    when    values of config.json under which it is the one
    module  a module that only checkpoints of this layout have, where config.json does not tell
    """

    name: str = ""
    when: Mapping[str, Any] = field(default_factory=dict)
    module: str = ""


class HeadRule(Enum):
    """What ties number and size of the heads to the residual stream, where config.json states the head size."""

    FREE = "free"  # nothing
    DIVIDES_EMBED = "divides embed"  # transformers refuses a hidden_size that is no multiple of the heads
    FILLS_EMBED = "fills embed"  # hidden_size is heads × head size, although the config states the head size
    PAIRED = "paired"  # free, but head i works with head i + half: the key/value heads are even in number


@dataclass(frozen=True)
class PerLayer:
    """How layers differ from each other.

    types       the config key that lists each layer's type of attention; empty where widths do not depend on it
    overrides   the config key under which transformers saves, by layer, the numbers that differ there, whatever keys
                they were made from; it reads that first
    keys        type of layer → axis → the config key of the width that layers of this type have
    listed      axis → the config key that may list a width for each layer
    kv_shared   the config key for the number of layers, the last ones, that share the keys and values of an earlier
                one. "keys/own" and "values/own" are the kinds of layer that have modules for these
    double_wide  the config key by which the feed-forward of these layers is twice as wide as that of the others
    keys_are_values  types of layer that take their keys, before the norms, for values
    """

    types: str = "layer_types"
    overrides: str = "per_layer_config"
    keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    listed: Mapping[str, str] = field(default_factory=dict)
    kv_shared: str = ""
    double_wide: str = ""
    keys_are_values: tuple[str, ...] = ()


@dataclass(frozen=True)
class NextToken:
    """Modules that predict further tokens, which transformers does not load and a clone does not have.

    layers  the config key for the number of layers beyond the stated ones
    names   a part of their tensors' names, where they are not numbered on
    """

    layers: str = ""
    names: str = ""
