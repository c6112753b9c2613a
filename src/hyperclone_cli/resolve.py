"""From a request to the growth of every width, or to the reason why the architecture cannot have it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from hyperclone_cli.axes import Form
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import Family
from hyperclone_cli.growth import Growth, padded, repeated, spaced, spread, tiled
from hyperclone_cli.request import Request

_ROPES = ("default", "linear", "llama3")
"""Rotary frequencies that a larger head keeps: each depends on its own number and the base alone."""

_ROTARY_WIDTHS = {"halves": 1, "pairs": 2}
"""Units that must stay together in a larger head for each way in which rotary positions pair them."""


_INSTEAD = {
    "pads": "A whole --embed-mult works.",
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
    embed = _target("--hidden-size", sizes["embed"], request.hidden_size, request.embed_mult)
    ffn = _target("--intermediate-size", sizes["ffn"], request.intermediate_size, request.ffn_mult)
    request = replace(request, head_dim_mult=head_copies(request, sizes, family, embed))
    heads = choose_heads(request, sizes, family, embed)
    if embed % sizes["embed"]:
        _check_limits("pads", f"--hidden-size {embed}: no multiple of {sizes['embed']}", family, config)
    if heads != Heads(sizes["kv_heads"] * sizes["group"], sizes["kv_heads"]):
        _check_limits("heads", f"{heads.query} heads", family, config)
    if request.head_dim_mult > 1:
        _check_limits("head_dim", f"--head-dim-mult {request.head_dim_mult}", family, config)
        _check_rotary(request.head_dim_mult, sizes["head_dim"], family, config)
    grown = {axis: tiled(size, 1) for axis, size in sizes.items()}
    if "ffn" not in family.sizes:
        _check_multiple(embed, ffn, sizes, family)
    grown["embed"] = padded(sizes["embed"], embed)
    grown["ffn"] = spread(sizes["ffn"], ffn)
    grown |= grow_experts(request, sizes, family, ffn / sizes["ffn"])
    grown["kv_heads"] = spread(sizes["kv_heads"], heads.key_value)
    grown["kv_pairs"] = spread(max(1, sizes["kv_heads"] // 2), max(1, heads.key_value // 2))
    grown["group"] = spread(sizes["group"], heads.query // heads.key_value)
    grown |= grow_head(sizes["head_dim"], request.head_dim_mult, family)
    if "rotary" in sizes:
        grown["rotary"] = tiled(sizes["rotary"], request.head_dim_mult)
    if sizes.get("proj") == sizes["embed"]:
        grown["proj"] = grown["embed"]  # no projection: the embedding's width is the residual stream
    return grown


def head_copies(request: Request, sizes: Mapping[str, int], family: Family, embed: int) -> int:
    """How often a head's units are copied in a residual stream of `embed` units."""
    if family.heads_stay and request.head_dim_mult == 1 and not embed % sizes["embed"]:
        return embed // sizes["embed"]
    return request.head_dim_mult


def grow_experts(request: Request, sizes: Mapping[str, int], family: Family, ffn_ratio: float) -> dict[str, Growth]:
    """The growths of the experts' own widths, which follow the feed-forward width unless asked otherwise.

    Raises RequestError where experts have no width of their own.
    """
    if request.moe_ffn_mult is not None and "moe_ffn" not in sizes:
        raise RequestError(
            f"--moe-ffn-mult {request.moe_ffn_mult}: {family.model_type} has no experts with a width of their own.",
            "Use --ffn-mult.",
        )
    ratio = ffn_ratio if request.moe_ffn_mult is None else request.moe_ffn_mult
    own = [axis for axis in ("moe_ffn", "shared_ffn") if sizes.get(axis)]
    return {axis: spread(sizes[axis], round(sizes[axis] * ratio)) for axis in own}


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
        span = 2 if family.rotary == "pairs" else 1
        query, key = repeated(size, copies, scale, span), spaced(size, copies, span)
        return {"query": query, "key": key, "value": tiled(size, copies)}
    return {"query": tiled(size, copies, scale / copies), "key": tiled(size, copies), "value": tiled(size, copies)}


class Heads(NamedTuple):
    """How many heads the clone has."""

    query: int
    key_value: int


def choose_heads(request: Request, sizes: Mapping[str, int], family: Family, embed: int) -> Heads:
    """The clone's heads for a residual stream of `embed` units. Raises RequestError if the wanted ones cannot be."""
    old = Heads(sizes["kv_heads"] * sizes["group"], sizes["kv_heads"])
    request = replace(request, head_dim_mult=head_copies(request, sizes, family, embed))
    ratio = max(1.0, embed / sizes["embed"] / request.head_dim_mult)
    query = _heads_target("--num-heads", old.query, request.num_heads, request.heads_mult)
    key_value = _heads_target("--num-kv-heads", old.key_value, request.num_kv_heads, request.kv_heads_mult)
    head_dim = sizes["head_dim"] * request.head_dim_mult
    fixed = None if family.heads_are_free else embed // head_dim
    if fixed is not None and (embed % head_dim or fixed < old.query):
        nearest = max(old.query, round(embed / head_dim)) * head_dim
        raise RequestError(
            f"hidden size {embed}: in {family.model_type} hidden_size is heads × head size, so hidden_size"
            f" must be a multiple of the head size, here {head_dim}, with room for at least {old.query} heads.",
            f"The nearest that works: --hidden-size {nearest}.",
        )
    wanted = query or round(old.query * ratio)
    for chosen in _possible_heads(wanted, key_value, fixed, old, family, embed):
        if query is None or chosen.query == query:
            return chosen
        raise _heads_refusal(query, key_value, chosen, family, embed)
    anything = next(_possible_heads(wanted, None, fixed, old, family, embed), None)
    raise _heads_refusal(wanted, key_value, anything, family, embed)


def _possible_heads(
    wanted: int, key_value: int | None, fixed: int | None, old: Heads, family: Family, embed: int
) -> Iterator[Heads]:
    """Every number of heads that the architecture can have, the nearest to `wanted` first."""
    numbers = [fixed] if fixed is not None else sorted(range(old.query, 2 * wanted + 1), key=lambda n: abs(n - wanted))
    for query in numbers:
        if family.embed_divides_by_heads and embed % query:
            continue
        pairs = [
            Heads(query, kv) for kv in range(old.key_value, query + 1) if _is_possible(Heads(query, kv), old, family)
        ]
        if key_value is not None:
            pairs = [pair for pair in pairs if pair.key_value == key_value]
        elif old.key_value == 1 and "kv_heads" in family.sizes:
            pairs = [pair for pair in pairs if pair.key_value == 1]
        if pairs:
            like_the_heads = old.key_value * query / old.query
            yield min(pairs, key=lambda pair: abs(pair.key_value - like_the_heads))


def _is_possible(new: Heads, old: Heads, family: Family) -> bool:
    group, old_group = new.query // new.key_value, old.query // old.key_value
    if (family.paired_heads and new.key_value % 2) or (family.heads_stay and new != old):
        return False
    if new.query % new.key_value or new.key_value < old.key_value or group < old_group:
        return False
    if "kv_heads" in family.fixed:
        if new.key_value != old.key_value:
            return False
    elif "kv_heads" not in family.sizes and new.key_value != new.query:
        return False
    return not _norms_all_heads(family) or not (new.key_value % old.key_value or group % old_group)


def _norms_all_heads(family: Family) -> bool:
    """Whether a norm spans all heads: it tells unequal numbers of copies from equal ones."""

    def spans_heads(form: Form) -> bool:
        return form.kind == "norm" and "kv_heads" in form.parameters["weight"][-1].axes

    return any(map(spans_heads, family.tensors.values()))


def _heads_refusal(
    query: int, key_value: int | None, nearest: Heads | None, family: Family, embed: int
) -> RequestError:
    shares_keys = "kv_heads" in family.sizes
    wanted = f"{query} heads" + (f" over {key_value} key/value heads" if key_value else "")
    rules = ["every key/value head serves the same number of query heads, at least as many as in the source"]
    if "kv_heads" in family.fixed:
        rules = ["the number of key/value heads is no choice"]
        if family.fixed["kv_heads"] > 1:
            rules.append(f"heads come in {family.fixed['kv_heads']} blocks of the same size")
    elif not shares_keys:
        rules = ["every query head has a key and value head of its own"]
    if family.heads_stay:
        rules.append("heads grow in size alone: what each does depends on how many there are")
    if family.paired_heads:
        rules.append("the key/value heads are two halves")
    if not family.heads_are_free:
        rules.append("hidden_size is heads × head size")
    if family.embed_divides_by_heads:
        rules.append("transformers wants hidden_size to be a multiple of the number of heads")
    if _norms_all_heads(family):
        rules.append("a norm spans all heads, so each must be copied equally often")
    hint = "Choose another --hidden-size."
    if nearest:
        hint = f"The nearest that works: --hidden-size {embed} --num-heads {nearest.query}"
        hint += f" --num-kv-heads {nearest.key_value}." if shares_keys else "."
    return RequestError(
        f"hidden size {embed} with {wanted}: not in {family.model_type}, where {'; '.join(rules)}.", hint
    )


def _heads_target(option: str, size: int, units: int | None, mult: float | None) -> int | None:
    return None if units is None and mult is None else _target(option, size, units, mult or 1)


def _target(option: str, size: int, units: int | None, mult: float) -> int:
    target = round(size * mult) if units is None else units
    if target < size:
        raise RequestError(
            f"{option} {target}: the source has {size}, and growth takes nothing away.", f"At least {size}."
        )
    return target


def _check_limits(growth: str, wanted: str, family: Family, config: Mapping[str, Any]) -> None:
    for limit in family.limits:
        if limit.growth == growth and family.fits(config, limit.when):
            raise RequestError(f"{wanted}: not in {family.name}, {limit.why}.", _INSTEAD[growth])


def _check_multiple(embed: int, ffn: int, sizes: Mapping[str, int], family: Family) -> None:
    times, axis = sizes["ffn"] // sizes["embed"], family.multiples["ffn"][1]
    if ffn != times * embed:
        key = family.sizes[axis]
        raise RequestError(
            f"--intermediate-size {ffn}: {family.name} has no key for it: it is {times} × {key}, here {times * embed}.",
            f"Grow both alike: --intermediate-size {times * embed}.",
        )


def _check_rotary(copies: int, head_dim: int, family: Family, config: Mapping[str, Any]) -> None:
    if not family.rotary:
        return
    for rope in rope_parameters(config):
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in _ROPES:
            raise RequestError(
                f"--head-dim-mult {copies}: rotary positions of type {kind!r} give a larger head other frequencies.",
                "Grow the number of heads instead: --heads-mult.",
            )
        part = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
        if part is None:
            part = family.value(config, family.rotary_fraction) if family.rotary_fraction else 1.0
        turned = int(head_dim * part)
        if int(copies * head_dim * part) != copies * turned or turned % 2:
            raise RequestError(
                f"--head-dim-mult {copies}: {part:g} of a head of {head_dim} units are {turned} with rotary positions,"
                f" and {int(copies * head_dim * part)} of {copies * head_dim} units: pairs do not stay pairs.",
                "Choose another --head-dim-mult.",
            )


def rope_parameters(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every set of rotary parameters in a config: one, or one for each kind of layer."""
    ropes = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(ropes, Mapping):
        return [{}]
    nested = [rope for rope in ropes.values() if isinstance(rope, Mapping)]
    return nested or [ropes]
