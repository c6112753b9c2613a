"""From a request to the growth of every width, or to the reason why the architecture cannot have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hyperclone_cli.checkpoint.sizes import multiple_of
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import Family
from hyperclone_cli.growth.alibi import slotted
from hyperclone_cli.growth.heads import choose_heads, grown_size, head_copies, heads_of
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.rotary import check_rotary, grow_head
from hyperclone_cli.growth.widths import Growth, padded, spread, tiled

_WITH_EMBED = {"inner", "ssm_group", "delta_heads"}
"""Widths and numbers of heads that grow like the residual stream, whole units of them."""

_INSTEAD = {
    "pads": "A whole --embed-mult works.",
    "ffn": "A whole --ffn-mult works.",
    "heads": "Grow the feed-forward width alone: --ffn-mult.",
    "head_dim": "Leave --head-dim-mult out.",
}


def resolve(request: Request, sizes: Mapping[str, int], family: Family, config: Mapping[str, Any]) -> dict[str, Growth]:
    """The growth of each axis under `request`, for a source of these `sizes` (axis → units).

    Heads grow like the residual stream unless asked otherwise (less what the head size takes of it),
    key/value heads like the heads, and a single key/value head stays single. Query heads that grow more
    than the key/value heads grow the group inside each of these.

    Raises RequestError, with the nearest request that works, for one that the architecture cannot meet.
    """
    embed = grown_size("--hidden-size", sizes["embed"], request.hidden_size, request.embed_mult)
    ffn = grown_size("--intermediate-size", sizes["ffn"], request.intermediate_size, request.ffn_mult)
    _check_heads(request, family)
    request = replace(request, head_dim_mult=head_copies(request, sizes, family, embed))
    heads = choose_heads(request, sizes, family, embed)
    typed = request.typed("hidden_size", "embed_mult")
    if embed % sizes["embed"]:
        _check_limits("pads", f"{typed}: hidden size {embed} is no multiple of {sizes['embed']}", family, config)
    if ffn % sizes["ffn"]:
        typed_ffn = request.typed("intermediate_size", "ffn_mult")
        _check_limits("ffn", f"{typed_ffn}: width {ffn} is no multiple of {sizes['ffn']}", family, config)
    if heads != heads_of(sizes):
        _check_limits("heads", f"{heads.query} heads", family, config)
    if request.head_dim_mult > 1:
        _check_limits("head_dim", f"--head-dim-mult {request.head_dim_mult}", family, config)
        check_rotary(request.head_dim_mult, sizes["head_dim"], family, config)
    grown = {axis: tiled(size, 1) for axis, size in sizes.items()}
    if "ffn" not in family.sizes:
        _check_multiple(request, embed, ffn, family, config)
    grown["embed"] = padded(sizes["embed"], embed)
    grown["ffn"] = spread(sizes["ffn"], ffn)
    grown |= grow_experts(request, sizes, family, ffn / sizes["ffn"])
    has_slopes = family.alibi is not None and family.fits(config, family.alibi)
    grown["kv_heads"] = (slotted if has_slopes else spread)(sizes["kv_heads"], heads.key_value)
    grown["kv_pairs"] = spread(max(1, sizes["kv_heads"] // 2), max(1, heads.key_value // 2))
    grown["group"] = spread(sizes["group"], heads.query // heads.key_value)
    grown |= {
        axis: spread(sizes[axis], round(sizes[axis] * embed / sizes["embed"])) for axis in _WITH_EMBED & sizes.keys()
    }
    grown |= grow_head(sizes["head_dim"], request.head_dim_mult, family)
    if "rotary" in sizes:
        grown["rotary"] = tiled(sizes["rotary"], request.head_dim_mult)
    if sizes.get("proj") == sizes["embed"]:
        grown["proj"] = grown["embed"]  # no projection: the embedding's width is the residual stream
    return grown


def grow_experts(request: Request, sizes: Mapping[str, int], family: Family, ffn_ratio: float) -> dict[str, Growth]:
    """The growths of the experts' own widths, which follow the feed-forward width unless asked otherwise.

    Raises RequestError where experts have no width of their own.
    """
    if request.moe_ffn_mult is not None and not sizes.get("moe_ffn"):
        raise RequestError(
            f"--moe-ffn-mult {request.moe_ffn_mult}: {family.model_type} has no experts with a width of their own.",
            "Use --ffn-mult.",
        )
    ratio = ffn_ratio if request.moe_ffn_mult is None else request.moe_ffn_mult
    own = [axis for axis in ("moe_ffn", "shared_ffn") if sizes.get(axis)]
    return {axis: spread(sizes[axis], round(sizes[axis] * ratio)) for axis in own}


def _check_heads(request: Request, family: Family) -> None:
    """Raise RequestError where heads are asked for of an architecture that has none."""
    asked = {
        "--heads-mult": request.heads_mult,
        "--kv-heads-mult": request.kv_heads_mult,
        "--num-heads": request.num_heads,
        "--num-kv-heads": request.num_kv_heads,
        "--head-dim-mult": request.head_dim_mult if request.head_dim_mult > 1 else None,
    }
    for option, number in asked.items():
        if number is not None and not family.has_heads:
            raise RequestError(f"{option} {number}: {family.name} has no attention heads.", f"Leave {option} out.")


def _check_limits(growth: str, wanted: str, family: Family, config: Mapping[str, Any]) -> None:
    for limit in family.limits:
        if limit.growth == growth and family.fits(config, limit.when):
            raise RequestError(f"{wanted}: not in {family.name}, {limit.why}.", _INSTEAD[growth])


def _check_multiple(request: Request, embed: int, ffn: int, family: Family, config: Mapping[str, Any]) -> None:
    times, axis = multiple_of("ffn", config, family), family.multiples["ffn"][1]
    if ffn != times * embed:
        key = family.sizes[axis]
        typed = request.typed("intermediate_size", "ffn_mult") or request.typed("hidden_size", "embed_mult")
        raise RequestError(
            f"{typed}: a feed-forward width of {ffn}: {family.name} has no key for it, it is {times} × {key},"
            f" here {times * embed}.",
            f"Grow both alike: --intermediate-size {times * embed}.",
        )
