"""config.json of the clone: the source's, with the grown numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperclone_cli.checkpoint.json_config import with_value
from hyperclone_cli.families import stated_value
from hyperclone_cli.families.axes import PRODUCTS
from hyperclone_cli.growth.experts import grow_experts
from hyperclone_cli.growth.positions import positions_of
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.widths import Growth


def grow_config(proposal: Proposal, growths: Mapping[str, Growth], tied: bool) -> dict[str, Any]:
    """config.json of the clone: the same keys in the same order, with the grown numbers.

    A number that the source leaves to a default is written out once anything grows, and so is the tie. A dtype is
    written if the request has one. Layers for predicting further tokens are not in the clone, so their number is 0.
    """
    config, family, dtype = proposal.config, proposal.family, proposal.request.dtype
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
                stated += [name for name in family.aliases.get(key, ()) if name in family.assumed]
                for name in stated:
                    grown = with_value(grown, name, targets[axis])
    for key, value in grow_experts(proposal).config.items():
        grown = with_value(grown, key, value)
    scale_key = positions_of(proposal).stated_scale
    if scale_key and growths["key"].grows:
        head_dim = growths["key"]
        scale = family.value(config, scale_key) or head_dim.source**-0.5
        grown = with_value(grown, scale_key, scale / float(head_dim.ratio))
    if grown.get(family.next_token.layers):
        grown[family.next_token.layers] = 0
    if family.wrapping is None:
        ties = [name for name in family.names("tie_word_embeddings") if name in config]
        if tied != proposal.tied or not ties:
            grown |= dict.fromkeys(ties or ["tie_word_embeddings"], tied)
        grown = _with_dtype(grown, dtype)
    return grown


def placed(
    grown: Mapping[str, Any], config: Mapping[str, Any], proposal: Proposal, growths: Mapping[str, Growth], tied: bool
) -> dict[str, Any]:
    """config.json of the clone, from what `grow_config` made of the table's part of the source's `config`.

    Around a text model that is the source's whole config, with the text model's grown, and the width of its residual
    stream wherever a tower's config states it. The tie and the dtype are the wrapper's, and the text model's too where
    its own config states them.
    """
    family, dtype = proposal.family, proposal.request.dtype
    if family.wrapping is None:
        return dict(grown)
    wrapper, own = family.wrapping.wrapper, dict(proposal.config)
    stated = {key: value for key, value in grown.items() if key not in own or own[key] != value}
    inside = config.get(wrapper.config)
    inner = {**(config if inside is None else inside), **stated}
    if "tie_word_embeddings" in inner:
        inner["tie_word_embeddings"] = tied
    if inside is None:
        whole = dict(inner)
    else:
        if any(key in inner for key in ("dtype", "torch_dtype")):
            inner = _with_dtype(inner, dtype)
        # some releases of transformers wrote the text model's numbers beside the wrapper's too
        copies = {key: value for key, value in stated.items() if wrapper.flat and key in config}
        whole = {**config, **copies, wrapper.config: inner}
    whole["tie_word_embeddings"] = tied
    if any(growth.grows for growth in growths.values()):
        for key in wrapper.widths:
            whole = with_value(whole, key, growths["embed"].target)
    return _with_dtype(whole, dtype)


def _with_dtype(config: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    return config if dtype is None else {**config, **dict.fromkeys(keys, dtype)}


def targets_of(growths: Mapping[str, Growth]) -> dict[str, int]:
    """Axis → units of the clone, products of axes and "head_dim" included."""
    targets = {axis: growth.target for axis, growth in growths.items()}
    for product, (outer, inner) in reversed(PRODUCTS.items()):
        if outer in targets and inner in targets:
            targets[product] = targets[outer] * targets[inner]
    return {**targets, "head_dim": targets["value"]}
