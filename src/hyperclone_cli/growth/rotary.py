"""Rotary positions: which of them a larger head keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import Family
from hyperclone_cli.growth.widths import Growth, repeated, spaced, tiled

_KEPT = ("default", "linear", "llama3")
"""Types whose frequencies a larger head keeps: each depends on its own number and the base alone."""

_TOGETHER = {"halves": 1, "pairs": 2}
"""Units that must stay side by side in a larger head, for each way in which rotary positions pair them."""


def grow_head(size: int, copies: int, family: Family) -> dict[str, Growth]:
    """The growths of a head's query, key and value, each of `size` units.

    Without rotary positions all are copied: scores grow `copies`-fold. With them a unit of the larger
    head turns at the source's frequency only if its number (its pair's, where pairs lie together) is `copies`
    times the source unit's, so the keys keep one copy there and zeros between, and the queries, which these
    zeros hide, are repeated: scores stay. Queries are scaled by what is left once attention divides by the
    root of the head size, where it does.
    """
    if copies == 1:
        return {axis: tiled(size, 1) for axis in ("query", "key", "value")}
    scale = 1.0 if family.query_scalar else copies**0.5
    if family.score_scale:
        return dict.fromkeys(("query", "key", "value"), tiled(size, copies))
    if family.rotary:
        span = _TOGETHER[family.rotary]
        query, key = repeated(size, copies, scale, span), spaced(size, copies, span)
        return {"query": query, "key": key, "value": tiled(size, copies)}
    return {"query": tiled(size, copies, scale / copies), "key": tiled(size, copies), "value": tiled(size, copies)}


def check_rotary(copies: int, head_dim: int, family: Family, config: Mapping[str, Any]) -> None:
    """Raise RequestError if heads of `head_dim` units cannot become `copies` times as large."""
    if not family.rotary:
        return
    for rope in rope_parameters(config):
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in _KEPT:
            raise RequestError(
                f"--head-dim-mult {copies}: rotary positions of type {kind!r} give a larger head other frequencies.",
                "Grow the number of heads instead: --heads-mult.",
            )
        part = _turning_part(rope, family, config)
        turned = int(head_dim * part)
        if int(copies * head_dim * part) != copies * turned or turned % 2:
            raise RequestError(
                f"--head-dim-mult {copies}: {part:g} of a head of {head_dim} units are {turned} with rotary positions,"
                f" and {int(copies * head_dim * part)} of {copies * head_dim} units: pairs do not stay pairs.",
                "Grow the number of heads instead: --heads-mult.",
            )


def rope_parameters(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every set of rotary parameters in a config: one, or one for each kind of layer.

    Where a file has the older `rope_scaling` too, that is what transformers reads.
    """
    ropes = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(ropes, Mapping):
        return [{}]
    nested = [rope for rope in ropes.values() if isinstance(rope, Mapping)]
    return nested or [ropes]


def _turning_part(rope: Mapping[str, Any], family: Family, config: Mapping[str, Any]) -> float:
    part = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if part is None:
        part = family.value(config, family.rotary_fraction) if family.rotary_fraction else 1.0
    if type(part) not in (int, float) or not 0 <= part <= 1:
        raise CheckpointError(f"config.json: partial_rotary_factor should be a number from 0 to 1, found {part!r}.")
    return float(part)
