"""config.json of the clone: the source's, with the grown numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperclone_cli.checkpoint.json_config import with_value
from hyperclone_cli.families import Family, stated_value
from hyperclone_cli.families.vocabulary import PRODUCTS
from hyperclone_cli.growth.widths import Growth


def grow_config(
    config: Mapping[str, Any], family: Family, growths: Mapping[str, Growth], dtype: str | None, tied: bool
) -> dict[str, Any]:
    """config.json of the clone: the same keys in the same order, with the grown numbers.

    A number that the source leaves to a default is written out once anything grows, and so is the
    tie. `dtype` is written if the user chose one. There are no extra layers: they are not written either.
    """
    grown = dict(config)
    targets = targets_of(growths)
    if any(growth.grows for growth in growths.values()):
        for axis, how in family.stated.items():
            if how.switch:
                grown[how.switch] = False
            else:
                targets[axis] = int(targets[axis] / how.part)
        for axis, key in family.sizes.items():
            if targets.get(axis):
                stated = [name for name in family.names(key) if stated_value(config, name)] or [key]
                stated += [name for name in family.aliases.get(key, ()) if name in family.defaults]
                for name in stated:
                    grown = with_value(grown, name, targets[axis])
    if family.score_scale and growths["key"].grows:
        head_dim = growths["key"]
        scale = family.value(config, family.score_scale) or head_dim.source**-0.5
        grown = with_value(grown, family.score_scale, scale / float(head_dim.ratio))
    if grown.get(family.extra_layers):
        grown[family.extra_layers] = 0
    ties = [name for name in family.names("tie_word_embeddings") if name in config]
    if tied != bool(family.value(config, "tie_word_embeddings")) or not ties:
        grown |= dict.fromkeys(ties or ["tie_word_embeddings"], tied)
    if dtype is not None:
        for key in [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]:
            grown[key] = dtype
    return grown


def targets_of(growths: Mapping[str, Growth]) -> dict[str, int]:
    """Axis → units of the clone, products of axes and "head_dim" included."""
    targets = {axis: growth.target for axis, growth in growths.items()}
    for product, (outer, inner) in reversed(PRODUCTS.items()):
        if outer in targets and inner in targets:
            targets[product] = targets[outer] * targets[inner]
    return {**targets, "head_dim": targets["value"]}
