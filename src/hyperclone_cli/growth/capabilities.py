"""What each architecture can grow, read off its table: for `hyperclone families` and its documentation."""

from __future__ import annotations

from dataclasses import dataclass

from hyperclone_cli.families import Family, Limit
from hyperclone_cli.families.axes import AXES
from hyperclone_cli.families.layer_rules import Every
from hyperclone_cli.families.statements import HeadRule
from hyperclone_cli.growth.heads import norms_all_heads

_MEANS = {
    "pads": "hidden size in whole multiples",
    "ffn": "feed-forward width in whole multiples",
    "heads": "number of heads kept",
    "head_dim": "head size kept",
    "layers": "number of layers kept",
    "between": "new layers after the source's alone",
    "last": "no new layer after the last",
    "experts": "number of experts kept",
    "untie": "head kept tied",
}


@dataclass(frozen=True)
class Capabilities:
    """One line of the table of architectures.

    known_as    models that have the architecture
    hidden_size, heads, feed_forward   which values these widths may take in a clone
    tied_head   whether a tied head can stay tied
    layers      how many layers a clone may have, and where new ones may stand
    limits      what the architecture cannot grow, each with its reason; joined by "; "
    """

    architecture: str
    known_as: str
    hidden_size: str
    heads: str
    feed_forward: str
    tied_head: str
    layers: str
    limits: str


def capabilities(family: Family) -> Capabilities:
    """What an architecture can grow, as its table says."""
    return Capabilities(
        family.name,
        family.known_as,
        _hidden_size(family),
        _heads(family),
        "any" if "ffn" in family.sizes else "implied",
        "tied" if family.carriers else "untied",
        _layers(family),
        "; ".join(map(_limit, family.limits)),
    )


def grown_keys(family: Family) -> list[str]:
    """The keys of config.json that grow with the model. A head's size grows only when asked for."""
    kept = {"head_dim"} | ({"experts"} if family.routing is None else set())
    return [key for axis, key in family.sizes.items() if AXES[axis].grows and axis not in kept]


def _hidden_size(family: Family) -> str:
    if any(limit.growth == "pads" and not limit.when for limit in family.limits):
        return "multiples"
    return "any" if family.heads_are_free or not family.has_heads else "whole heads"


def _heads(family: Family) -> str:
    if not family.has_heads:
        return "none"
    if norms_all_heads(family):
        return "multiples"
    if family.heads_are_free:
        return "divisors" if family.heads is HeadRule.DIVIDES_EMBED else "any"
    return "implied"


def _layers(family: Family) -> str:
    always = {limit.growth for limit in family.limits if not limit.when}
    if "layers" in always:
        return "kept"
    if any(isinstance(rule, Every) for rule in family.layer_rules):
        return "whole periods"
    return "on top" if "between" in always else "not on top" if "last" in always else "any"


def _limit(limit: Limit) -> str:
    values = {key: "set" if value is ... else str(value).lower() for key, value in limit.when.items()}
    where = " and ".join(f"{key} is {value}" for key, value in values.items())
    return f"{_MEANS[limit.growth]}{f' if {where}' if where else ''}: {limit.why.removeprefix('where ')}"
