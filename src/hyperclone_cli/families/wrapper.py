"""How a model of text, pictures and sound wraps a text model: the text model's own table, placed under other names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.families.config_defaults import CONFIG_DEFAULTS
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.text_classes import CAUSAL_CLASSES
from hyperclone_cli.families.vocabulary import KEPT, Form, drop, in_part


@dataclass(frozen=True)
class Naming:
    """How the tensors of a wrapper are named.

    body    the name of the text model without its head
    rest    what stands before the names of the text model's other modules, which are its head
    others  what stands before the names of towers and of what joins them to the text model
    """

    body: str
    rest: str = ""
    others: str = ""

    def wrapped(self, module: str, base: str) -> str:
        """The name in the wrapper of a module of the text model, whose own name for its body is `base`."""
        inner = module.removeprefix(f"{base}.")
        return f"{self.rest}{module}" if inner == module else f"{self.body}.{inner}"

    def is_of(self, names: Iterable[str]) -> bool:
        """Whether any of a checkpoint's names has the text model's body in it."""
        return any(name.startswith(f"{self.body}.") for name in names)

    def alone(self, name: str, base: str) -> str:
        """The name in the text model of a tensor of the wrapper's."""
        inner = name.removeprefix(f"{self.body}.")
        return name.removeprefix(self.rest) if inner == name else f"{base}.{inner}"


PUBLISHED = Naming("language_model.model", "language_model.")
"""A causal language model beside its towers, as most wrappers were published."""
CURRENT = Naming("model.language_model", others="model.")
"""A base model of text and towers, and a head, as transformers names them now."""


@dataclass(frozen=True)
class Wrapper:
    """A text model with towers, for pictures or sound, whose features are put among the embeddings of tokens.

    text         the model_type of the text model, where its config does not state it
    texts        model_type of text models that have no causal class of their own → the tables of their layouts
    known_as     models that have the architecture
    towers       modules that are kept as they are
    joins        modules that write the text model's residual stream from features of a tower
    namings      how its tensors may be named; where tensors do not tell, the first
    config       the key of config.json that has the text model's config
    flat         older files state the text model's numbers beside those of the wrapper
    widths       keys of config.json that state the width of the text model's residual stream besides its own
    tied         whether the head is tied where config.json does not say
    reads_text   whether transformers loads the text model alone from tensors of the wrapper's names too
    tie_inside   whether it is tied too where the text model's own config says so
    limits       growths that it cannot have, besides those of its text model
    alone        model_type of a text model → what its config states where it is alone: its class then does by itself
                 what it does not do in the wrapper
    not_alone    why the text model cannot be written alone; "" where it can
    pixels       the form of a picture as the model takes it: "whole", pixels (1, channels, side, side); "sized", these
                 and their sides; "tiles", (1, tiles, …) and the sides of the whole; "frames", (1, 1, …); "grid", rows
                 of pixels of a patch, and how many patches high and wide; "placed", such rows, each with its place
    """

    model_type: str
    text: str
    towers: tuple[str, ...]
    joins: Mapping[str, Form]
    known_as: str = ""
    texts: Mapping[str, tuple[Family, ...]] = field(default_factory=dict)
    namings: tuple[Naming, ...] = (PUBLISHED, CURRENT)
    config: str = "text_config"
    flat: bool = False
    widths: tuple[str, ...] = ()
    tied: bool = False
    tie_inside: bool = False
    reads_text: bool = False
    limits: tuple[Limit, ...] = ()
    alone: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    not_alone: str = ""
    pixels: str = "whole"

    @staticmethod
    def causal_class(model_type: str) -> str:
        """The name of the class of a text model alone, for loaders that go by it; "" for one that is not listed."""
        return CAUSAL_CLASSES.get(model_type, "")

    def own(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The text model's config, which states its model_type. Raises CheckpointError if there is none."""
        found = config.get(self.config)
        if found is None and self.flat:
            found = {key: value for key, value in config.items() if key != "model_type"}
        if not isinstance(found, Mapping):
            raise CheckpointError(
                f"config.json: {self.config} should be the config of the text model, found {found!r}.",
                "Load the model with transformers and save it again: save_pretrained writes it out.",
            )
        stated = found.get("model_type") or self.text
        if not isinstance(stated, str):
            raise CheckpointError(f"config.json: {self.config}.model_type should be a name, found {stated!r}.")
        return {**found, "model_type": stated}

    def around(self, text: Family, model_type: str, naming: Naming) -> Family:
        """The table of the wrapper with a text model of this table and model_type, and tensors of these names."""
        joins = in_part("projector", {f"{naming.others}{module}": form for module, form in self.joins.items()})
        follows = any("projector" in d.axes for form in joins.values() for ds in form.parameters.values() for d in ds)
        other = "" if model_type == self.text else model_type
        named = " ".join(filter(None, (other, text.layout.name)))
        inside = _renamed(text, naming)
        return replace(
            inside,
            model_type=self.model_type,
            known_as=self.known_as,
            layout=replace(inside.layout, name=named),
            sizes={**text.sizes, **({"projector": text.sizes["embed"]} if follows else {})},
            tensors={**inside.tensors, **joins},
            whole={f"{naming.others}{tower}": KEPT for tower in self.towers},
            defaults={**text.assumed, **CONFIG_DEFAULTS.get(model_type, {})},
            limits=(*text.limits, *self.limits),
            wrapping=Wrapping(self, naming, text),
        )

    def beside(self, text: Family) -> Family:
        """The table of the text model alone with tensors of the wrapper's names, and without those of its towers."""
        naming = self.namings[0]
        return replace(_renamed(text, naming), whole={f"{naming.others}{tower}": _NOT_TEXT for tower in self.towers})


_NOT_TEXT = drop("of a tower, which transformers does not load for the text model alone")


def _renamed(text: Family, naming: Naming) -> Family:
    """The table of a text model with the names that it has in a wrapper."""
    base = text.prefix

    def name(module: str) -> str:
        return naming.wrapped(module, base)

    return replace(
        text,
        layout=replace(text.layout, module=text.layout.module and name(text.layout.module)),
        tensors={name(module): form for module, form in text.tensors.items()},
        folds=tuple(replace(fold, module=name(fold.module)) for fold in text.folds),
    )


@dataclass(frozen=True)
class Wrapping:
    """What makes a table that of a wrapper: the wrapper, how its tensors are named, and its text model's own table."""

    wrapper: Wrapper
    naming: Naming
    text: Family

    @property
    def towers(self) -> tuple[str, ...]:
        """The names of the modules that are kept as they are, but for what joins them to the text model."""
        return tuple(f"{self.naming.others}{tower}" for tower in self.wrapper.towers)

    def alone(self, name: str) -> str:
        """The name in the text model alone of a tensor of the wrapper's."""
        return self.naming.alone(name, self.text.prefix)


def as_named(layouts: Iterable[Family], names: Iterable[str]) -> Family | None:
    """The first of these tables whose embedding is among the names; the first of all where there are no names."""
    layouts, names = list(layouts), list(names)
    stored = (one for one in layouts if names and one.tensor_names.has(one.embedding, names))
    return next(stored, layouts[0] if layouts else None)
