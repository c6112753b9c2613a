"""How many heads a clone has: those asked for, or the nearest that the architecture can have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import isqrt
from typing import NamedTuple

from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import Family
from hyperclone_cli.families.vocabulary import Form
from hyperclone_cli.growth.request import Request

_FARTHEST = 4096
"""Heads further than this from what is wanted are no help to anybody."""


class Heads(NamedTuple):
    """How many heads a model has."""

    query: int
    key_value: int


class _Wanted(NamedTuple):
    """`near` is the number of query heads that the width calls for; the others are None unless asked for."""

    near: int
    query: int | None
    key_value: int | None


def heads_of(sizes: Mapping[str, int]) -> Heads:
    """The source's heads."""
    return Heads(sizes["kv_heads"] * sizes["group"], sizes["kv_heads"])


def choose_heads(request: Request, sizes: Mapping[str, int], family: Family, embed: int) -> Heads:
    """The clone's heads for a residual stream of `embed` units. Raises RequestError if the wanted ones cannot be."""
    chosen = _choose(request, sizes, family, embed)
    if chosen is None:
        raise _refusal(request, sizes, family, embed)
    return chosen


def _choose(request: Request, sizes: Mapping[str, int], family: Family, embed: int) -> Heads | None:
    if not family.has_heads:
        return heads_of(sizes)
    wanted = _wanted(request, sizes, family, embed)
    chosen = next(_possible(wanted, request, sizes, family, embed), None)
    return chosen if chosen and wanted.query in (None, chosen.query) else None


def head_copies(request: Request, sizes: Mapping[str, int], family: Family, embed: int) -> int:
    """How often a head's units are copied in a residual stream of `embed` units."""
    if family.heads_stay and request.head_dim_mult == 1 and not embed % sizes["embed"]:
        return embed // sizes["embed"]
    return request.head_dim_mult


def _wanted(request: Request, sizes: Mapping[str, int], family: Family, embed: int) -> _Wanted:
    old = heads_of(sizes)
    query = _target("--num-heads", old.query, request.num_heads, request.heads_mult)
    key_value = _target("--num-kv-heads", old.key_value, request.num_kv_heads, request.kv_heads_mult)
    ratio = max(1.0, embed / sizes["embed"] / head_copies(request, sizes, family, embed))
    return _Wanted(query or round(old.query * ratio), query, key_value)


def _possible(
    wanted: _Wanted, request: Request, sizes: Mapping[str, int], family: Family, embed: int
) -> Iterator[Heads]:
    """What the architecture can have, the nearest to the wanted number of query heads first."""
    old = heads_of(sizes)
    for query in _query_heads(wanted.near, request, sizes, family, embed):
        numbers: Iterable[int] = _divisors(query)
        if wanted.key_value is not None:
            numbers = [wanted.key_value]
        elif old.key_value == 1 and "kv_heads" in family.sizes:
            numbers = [1]
        pair = _nearest(query, numbers, old.key_value * query / old.query, old, family)
        if pair:
            yield pair


def _nearest(query: int, numbers: Iterable[int], near: float, old: Heads, family: Family) -> Heads | None:
    """So many query heads with that of the possible `numbers` of key/value heads that is nearest to `near`."""
    pairs = [pair for pair in (Heads(query, number) for number in numbers) if _is_possible(pair, old, family)]
    return min(pairs, key=lambda pair: abs(pair.key_value - near), default=None)


def heads_like(old: Heads, others: Heads, grown: Heads, family: Family) -> Heads:
    """The heads of a layer with other key/value heads than most, whose heads grow from `others` to `grown`.

    Raises RequestError where the query heads cannot be shared out among at least as many as in the source.
    """
    query = old.query * grown.query // others.query
    numbers = [1] if old.key_value == 1 else _divisors(query)
    heads = _nearest(query, numbers, old.key_value * grown.key_value / others.key_value, old, family)
    if heads is None:
        raise RequestError(
            f"{query} heads: not in this model, some of whose layers have {old.query} heads over {old.key_value}"
            " key/value heads: each of these serves the same number of query heads, at least as many as in the source.",
            f"A multiple of {old.query} heads works: --num-heads.",
        )
    return heads


def _query_heads(near: int, request: Request, sizes: Mapping[str, int], family: Family, embed: int) -> Iterable[int]:
    fewest = heads_of(sizes).query
    if not family.heads_are_free:
        number, rest = divmod(embed, sizes["head_dim"] * head_copies(request, sizes, family, embed))
        return [number] if not rest and number >= fewest else []
    if family.embed_divides_by_heads:
        numbers = [number for number in _divisors(embed) if fewest <= number <= 2 * near]
        return sorted(numbers, key=lambda number: abs(number - near))
    around = (number for step in range(_FARTHEST) for number in dict.fromkeys((near - step, near + step)))
    return (number for number in around if fewest <= number <= 2 * near)


def _divisors(number: int) -> list[int]:
    small = [divisor for divisor in range(1, isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


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
    return not norms_all_heads(family) or not (new.key_value % old.key_value or group % old_group)


def norms_all_heads(family: Family) -> bool:
    """Whether a norm spans all heads: it tells unequal numbers of copies from equal ones."""

    def spans_heads(form: Form) -> bool:
        weight = next(iter(form.parameters.values()))
        return form.kind == "norm" and "kv_heads" in weight[-1].axes

    return any(map(spans_heads, family.tensors.values()))


def _refusal(request: Request, sizes: Mapping[str, int], family: Family, embed: int) -> RequestError:
    wanted = _wanted(request, sizes, family, embed)
    shares_keys = "kv_heads" in family.sizes
    heads = f"{wanted.near} heads" + (f" over {wanted.key_value} key/value heads" if wanted.key_value else "")
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
        head_dim = sizes["head_dim"] * head_copies(request, sizes, family, embed)
        rules.append(f"hidden_size is heads × head size, here a multiple of {head_dim}")
    if family.embed_divides_by_heads:
        rules.append("transformers wants hidden_size to be a multiple of the number of heads")
    if norms_all_heads(family):
        rules.append("a norm spans all heads, so each must be copied equally often")
    nearest = next(_possible(wanted, request, sizes, family, embed), None)
    nearest = nearest or next(_possible(wanted._replace(key_value=None), request, sizes, family, embed), None)
    hint = ""
    if nearest:
        hint = f"The nearest that works: --hidden-size {embed} --num-heads {nearest.query}"
        hint += f" --num-kv-heads {nearest.key_value}." if shares_keys else "."
    elif width := _nearest_width(request, sizes, family, embed):
        hint = f"The nearest that works: --hidden-size {width}."
    names = ("hidden_size", "embed_mult"), ("num_heads", "heads_mult"), ("num_kv_heads", "kv_heads_mult")
    typed = [request.typed(*pair) for pair in names]
    typed.append(f"--head-dim-mult {request.head_dim_mult}" if request.head_dim_mult > 1 else "")
    return RequestError(
        f"{' '.join(filter(None, typed))}: hidden size {embed} with {heads}: not in {family.name},"
        f" where {'; '.join(rules)}.",
        hint,
    )


def _nearest_width(request: Request, sizes: Mapping[str, int], family: Family, embed: int) -> int | None:
    for step in range(1, sizes["embed"] + 1):
        for width in (embed - step, embed + step):
            if width >= sizes["embed"] and _choose(request, sizes, family, width):
                return width
    return None


def _target(option: str, size: int, units: int | None, mult: float | None) -> int | None:
    return None if units is None and mult is None else grown_size(option, size, units, mult or 1)


def grown_size(option: str, size: int, units: int | None, mult: float) -> int:
    """The units that a width of `size` grows to. Raises RequestError for fewer, naming the option.

    So it does for a multiplier that would come to nothing.
    """
    target = round(size * mult) if units is None else units
    if units is None and mult > 1 and target == size:
        raise RequestError(f"{size} × {mult:g} is {size} in whole units: nothing would grow.", f"Use {option} instead.")
    if target < size:
        raise RequestError(
            f"{option} {target}: the source has {size}, and growth takes nothing away.", f"At least {size}."
        )
    return target
