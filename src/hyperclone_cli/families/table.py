"""The table of one architecture: how its checkpoints lie on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hyperclone_cli.families.config_defaults import defaults_of
from hyperclone_cli.families.layer_rules import LayerRule
from hyperclone_cli.families.positions import Positions, Rotary
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import Fold, HeadRule, Layout, Limit, NextToken, PerLayer, Stated
from hyperclone_cli.families.tensor_names import TensorNames
from hyperclone_cli.families.vocabulary import Form

if TYPE_CHECKING:
    from hyperclone_cli.families.wrapper import Wrapping


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
class Family:
    """One architecture as its checkpoints lie on disk.

    layout      what tells this table from others of the same model_type
    known_as    models that have it
    sizes       axis → the config key that states it. Without "kv_heads" every query head has its own key and value;
                without "head_dim" it is embed / heads, whatever the config says
    fixed       axis → units, where the architecture leaves no choice
    multiples   axis → (n, other axis): it is n times the other, rounded up, where its key says nothing or "auto", or
                where it has no key. n is a number, or the config key of one
    stated      axis → how its key states it, where not in units
    aliases     config key → other keys that state the same number. One with a default of its own is always written.
                In all keys "a.b" is b inside a
    context     the config key for the most tokens that the model takes
    tensors     module name (the first `*` is a layer's number, the second that of an expert) → form
    defaults    what transformers assumes for a key that config.json omits, where its config class has no such field:
                for all others see `config_defaults`
    folds       modules that the factor of a tied head can be folded into, where they are not the final norm; the first
                that applies is used
    norm        what the norms divide by: "rms", the root mean square, "layer", the standard deviation, or "length", the
                root of the sum of squares, by norms without weights of the residual stream, of the feed-forward and of
                all heads
    positions   `Rotary`, `Alibi` or `Learned`, and how attention scores are scaled
    heads       what ties the heads to the residual stream
    mean_of_group  whether the query heads of a key/value head are averaged, so that they are copied equally often
    logits      the config key for the number of logits, where they may be fewer than the tokens of the vocabulary
    cache       the packed axes of what one token adds to the KV cache in each layer
    next_token  modules for predicting further tokens
    per_layer   how layers differ; None: they have the same widths
    layer_rules  how config.json tells layers apart by their numbers
    routing     how a router weighs the experts that it chooses; None: not known, or there are no experts
    limits      growths that this architecture cannot have
    tiny        what the config of a tiny model needs besides its sizes; see `hyperclone families --check`
    whole       module → form of all tensors in it that `tensors` does not have
    wrapping    what makes it the table of a wrapper around a text model; None for a text model's own
    """

    model_type: str
    sizes: Mapping[str, str]
    tensors: Mapping[str, Form]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    known_as: str = ""
    layout: Layout = field(default_factory=Layout)
    fixed: Mapping[str, int] = field(default_factory=dict)
    multiples: Mapping[str, tuple[int | Fraction | str, str]] = field(default_factory=dict)
    stated: Mapping[str, Stated] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    context: str = "max_position_embeddings"
    folds: tuple[Fold, ...] = ()
    norm: str = "rms"
    positions: Positions = field(default_factory=Rotary)
    heads: HeadRule = HeadRule.FREE
    mean_of_group: bool = False
    logits: str = ""
    cache: tuple[str, ...] = ("kv_heads key", "kv_heads value")
    next_token: NextToken = field(default_factory=NextToken)
    per_layer: PerLayer | None = None
    layer_rules: tuple[LayerRule, ...] = ()
    routing: Routing | None = None
    limits: tuple[Limit, ...] = ()
    tiny: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[str, Form] = field(default_factory=dict)
    wrapping: Wrapping | None = None

    def own(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part of config.json that the table's keys are in: all of it, or a wrapper's config of its text model.

        Raises CheckpointError where a wrapper has none.
        """
        return self.wrapping.wrapper.own(config) if self.wrapping else config

    def is_tied(self, config: Mapping[str, Any]) -> bool:
        """Whether config.json, the whole of it, makes head and embedding one matrix."""
        if self.wrapping is None:
            return bool(self.value(config, "tie_word_embeddings"))
        wrapper, text = self.wrapping.wrapper, self.wrapping.text
        tied = config.get("tie_word_embeddings")
        inside = wrapper.tie_inside and bool(text.value(self.own(config), "tie_word_embeddings"))
        return bool(wrapper.tied if tied is None else tied) or inside

    @property
    def has_heads(self) -> bool:
        """Whether there are attention heads."""
        return "heads" in self.sizes

    @property
    def heads_are_free(self) -> bool:
        """Whether number and size of the heads may grow apart from the residual stream."""
        return "head_dim" in self.sizes and self.heads is not HeadRule.FILLS_EMBED

    def variant(self, model_type: str, **changes: Any) -> Family:
        """The same table under another model_type, for other models; `tensors` and `defaults` are merged into it."""
        changes.setdefault("known_as", "")
        for key in ("tensors", "defaults"):
            changes[key] = {**getattr(self, key), **changes.get(key, {})}
        return replace(self, model_type=model_type, **changes)

    @property
    def name(self) -> str:
        """The model_type, and the layout where there are several."""
        return f"{self.model_type} ({self.layout.name})" if self.layout.name else self.model_type

    def names(self, key: str) -> tuple[str, ...]:
        """`key` and its aliases: the keys of config.json that state the same."""
        return (key, *self.aliases.get(key, ()))

    def value(self, config: Mapping[str, Any], key: str) -> Any:
        """What transformers sees for `key`: the file's value, else the architecture's default."""
        stated = [found[0] for found in (stated_value(config, name) for name in self.names(key)) if found]
        assumed = None if stated else self.assumed.get(key)
        return next((item for item in stated if item is not None), assumed)

    @cached_property
    def assumed(self) -> Mapping[str, Any]:
        """What transformers assumes for keys that config.json omits."""
        return {**self.defaults, **defaults_of(self.model_type)}

    def fits(self, config: Mapping[str, Any], when: Mapping[str, Any]) -> bool:
        """Whether a config has the values `when`; `...` stands for any that is set: not null, nor a list of zeros."""
        found = {key: self.value(config, key) for key in when}
        return all(_is_set(found[key]) if wanted is ... else found[key] == wanted for key, wanted in when.items())

    def without(self, *modules: str) -> Family:
        """The same table without some of its modules."""
        return replace(self, tensors={name: form for name, form in self.tensors.items() if name not in modules})

    def limit(self, growth: str, config: Mapping[str, Any]) -> Limit | None:
        """The first limit on a growth that applies to a config."""
        return next((limit for limit in self.limits if limit.growth == growth and self.fits(config, limit.when)), None)

    @cached_property
    def silent(self) -> Mapping[str, float]:
        """Module of a layer → the value of its weights in a layer that adds nothing to the residual stream.

        Those are the last on the way to the stream: norms behind attention and feed-forward, where there are any, else
        what writes the stream. Behind a zeroed writer such a norm would divide by √eps, and magnify its first update.
        A norm that multiplies by 1 + w multiplies by zero at -1.
        """
        layers = {module: form for module, form in self.tensors.items() if "*" in module and not form.dropped}
        found = {
            module: -1.0 if form.plus_one else 0.0
            for module, form in layers.items()
            if form.kind == "norm" and form.writes and not form.summed and form.written == {"embed"}
        }
        if not found:
            writers = (m for m, form in layers.items() if form.kind in ("linear", "bias") and not form.gates)
            found = {module: 0.0 for module in writers if "embed" in layers[module].written}
        return found | {module: form.at_rest for module, form in layers.items() if form.at_rest is not None}

    @property
    def embedding(self) -> str:
        """The module of the token embedding, whose matrix a tied head shares."""
        return [*self._outside_layers("embedding", "vocab"), *self._outside_layers("embedding", "padded_vocab")][0]

    @property
    def head(self) -> str:
        """The module that makes the logits."""
        return self._outside_layers("linear", "vocab")[0]

    @property
    def prefix(self) -> str:
        """The base model's attribute; checkpoints of the bare base model lack it."""
        return self.embedding.partition(".")[0]

    @property
    def carriers(self) -> tuple[Fold, ...]:
        """What may carry the factor of a tied head: `folds`, or else the final norm, if it has a weight."""
        norms = self._outside_layers("norm", "embed")
        return self.folds or tuple(Fold(module) for module in norms if not self.tensors[module].writes)

    def _outside_layers(self, kind: str, axis: str) -> list[str]:
        """The modules outside of the layers that are of this kind and write this axis alone."""
        return [
            module
            for module, form in self.tensors.items()
            if form.kind == kind and "*" not in module and not form.part
            if next(iter(form.parameters.values()))[0].axes == (axis,)
        ]

    @cached_property
    def tensor_names(self) -> TensorNames:
        """The names that a checkpoint's tensors may have."""
        return TensorNames(self.tensors, self.prefix, self.whole)

    def is_stored_in(self, names: Iterable[str]) -> bool:
        """Whether a checkpoint with tensors of these names has the module that tells this layout, if there is one."""
        module = self.layout.module
        return not module or self.tensor_names.has(module, names)
