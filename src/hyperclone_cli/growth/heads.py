"""How many heads a clone has: those asked for, or the nearest that the architecture can have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import isqrt
from typing import NamedTuple

from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import Family
from hyperclone_cli.families.positions import Alibi
from hyperclone_cli.families.statements import HeadRule
from hyperclone_cli.families.vocabulary import Form
from hyperclone_cli.growth.proposal import Proposal

_FARTHEST = 4096
"""Numbers of heads further than this from the wanted one are not tried."""


class Heads(NamedTuple):
    """How many heads a model has."""

    query: int
    key_value: int


class _Wanted(NamedTuple):
    """`near` is the number of query heads that the hidden size calls for; the others are None unless asked for."""

    near: int
    query: int | None
    key_value: int | None


def heads_of(sizes: Mapping[str, int]) -> Heads:
    """The heads of a model of these sizes."""
    return Heads(sizes["kv_heads"] * sizes["group"], sizes["kv_heads"])


def choose_heads(proposal: Proposal, embed: int) -> Heads:
    """The clone's heads for a residual stream of `embed` units. Raises RequestError where those asked for cannot be."""
    chosen = _choose(proposal, embed)
    if chosen is None:
        raise _refusal(proposal, embed)
    return chosen


def _choose(proposal: Proposal, embed: int) -> Heads | None:
    if not proposal.family.has_heads:
        return heads_of(proposal.sizes)
    wanted = _wanted(proposal, embed)
    chosen = next(_possible(wanted, proposal, embed), None)
    return chosen if chosen and wanted.query in (None, chosen.query) else None


def _number_is_kept(family: Family) -> bool:
    """Whether heads grow in size alone."""
    return isinstance(family.positions, Alibi) and not family.positions.more_heads


def head_copies(proposal: Proposal, embed: int) -> int:
    """How often a head's units are copied in a residual stream of `embed` units."""
    asked, before = proposal.request.head_dim_mult, proposal.sizes["embed"]
    return embed // before if _number_is_kept(proposal.family) and asked == 1 and not embed % before else asked


def _wanted(proposal: Proposal, embed: int) -> _Wanted:
    old = heads_of(proposal.sizes)
    query, key_value = proposal.target("heads", old.query), proposal.target("kv_heads", old.key_value)
    ratio = max(1.0, embed / proposal.sizes["embed"] / head_copies(proposal, embed))
    return _Wanted(query or round(old.query * ratio), query, key_value)


def _possible(wanted: _Wanted, proposal: Proposal, embed: int) -> Iterator[Heads]:
    """The heads that the architecture can have, the nearest to the wanted number of query heads first."""
    old = heads_of(proposal.sizes)
    for query in _query_heads(wanted.near, proposal, embed):
        numbers: Iterable[int] = _divisors(query)
        if wanted.key_value is not None:
            numbers = [wanted.key_value]
        elif old.key_value == 1 and "kv_heads" in proposal.family.sizes:
            numbers = [1]
        pair = _nearest(query, numbers, old.key_value * query / old.query, old, proposal)
        if pair:
            yield pair


def _nearest(query: int, numbers: Iterable[int], near: float, old: Heads, proposal: Proposal) -> Heads | None:
    """So many query heads with that of the possible `numbers` of key/value heads that is nearest to `near`."""
    pairs = [pair for pair in (Heads(query, number) for number in numbers) if _is_possible(pair, old, proposal)]
    return min(pairs, key=lambda pair: abs(pair.key_value - near), default=None)


def heads_like(old: Heads, others: Heads, grown: Heads, proposal: Proposal) -> Heads:
    """The heads of a layer with other key/value heads than most, whose heads grow from `others` to `grown`.

    Raises RequestError where the query heads cannot be shared out among at least as many as in the source.
    """
    query = old.query * grown.query // others.query
    numbers = [1] if old.key_value == 1 else _divisors(query)
    heads = _nearest(query, numbers, old.key_value * grown.key_value / others.key_value, old, proposal)
    if heads is None:
        raise RequestError(
            f"{query} heads: not in this model, some of whose layers have {old.query} heads over {old.key_value}"
            " key/value heads: each of these serves the same number of query heads, at least as many as in the source.",
            f"A multiple of {old.query} heads works: --num-heads.",
        )
    return heads


def _query_heads(near: int, proposal: Proposal, embed: int) -> Iterable[int]:
    fewest = heads_of(proposal.sizes).query
    if not proposal.family.heads_are_free:
        number, rest = divmod(embed, proposal.sizes["head_dim"] * head_copies(proposal, embed))
        return [number] if not rest and number >= fewest else []
    if proposal.family.heads is HeadRule.DIVIDES_EMBED:
        numbers = [number for number in _divisors(embed) if fewest <= number <= 2 * near]
        return sorted(numbers, key=lambda number: abs(number - near))
    around = (number for step in range(_FARTHEST) for number in dict.fromkeys((near - step, near + step)))
    return (number for number in around if fewest <= number <= 2 * near)


def _divisors(number: int) -> list[int]:
    small = [divisor for divisor in range(1, isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


def _is_possible(new: Heads, old: Heads, proposal: Proposal) -> bool:
    family = proposal.family
    group, old_group = new.query // new.key_value, old.query // old.key_value
    if group % proposal.sizes.get("group_parts", 1):
        return False
    if (family.heads is HeadRule.PAIRED and new.key_value % 2) or (_number_is_kept(family) and new != old):
        return False
    if family.mean_of_group and group % old_group:
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
    """Whether one norm spans all heads, so that unequal numbers of copies would change what it computes."""
    if family.norm == "length":
        return True

    def spans_heads(form: Form) -> bool:
        weight = next(iter(form.parameters.values()))
        return form.kind == "norm" and "kv_heads" in weight[-1].axes

    return any(map(spans_heads, family.tensors.values()))


def _refusal(proposal: Proposal, embed: int) -> RequestError:
    family, wanted = proposal.family, _wanted(proposal, embed)
    heads = f"{wanted.near} heads" + (f" over {wanted.key_value} key/value heads" if wanted.key_value else "")
    nearest = next(_possible(wanted, proposal, embed), None)
    nearest = nearest or next(_possible(wanted._replace(key_value=None), proposal, embed), None)
    hint = ""
    if nearest:
        hint = f"The nearest that works: --hidden-size {embed} --num-heads {nearest.query}"
        hint += f" --num-kv-heads {nearest.key_value}." if "kv_heads" in family.sizes else "."
    elif width := _nearest_width(proposal, embed):
        hint = f"The nearest that works: --hidden-size {width}."
    typed = [proposal.typed(axis) for axis in ("embed", "heads", "kv_heads", "head_dim")]
    return RequestError(
        f"{' '.join(filter(None, typed))}: hidden size {embed} with {heads}: not in {family.name},"
        f" where {'; '.join(_rules(proposal, embed))}.",
        hint,
    )


def _rules(proposal: Proposal, embed: int) -> list[str]:
    """What the architecture demands of its heads."""
    family = proposal.family
    rules = ["every key/value head serves the same number of query heads, at least as many as in the source"]
    if "kv_heads" in family.fixed:
        rules = ["the number of key/value heads is fixed"]
        if family.fixed["kv_heads"] > 1:
            rules.append(f"heads come in {family.fixed['kv_heads']} blocks of the same size")
    elif "kv_heads" not in family.sizes:
        rules = ["every query head has a key and value head of its own"]
    if parts := proposal.sizes.get("group_parts"):
        rules.append(f"the query heads of each are in {parts} parts of the same size")
    if _number_is_kept(family):
        rules.append("heads grow in size alone: what each does depends on how many there are")
    if family.heads is HeadRule.PAIRED:
        rules.append("the number of key/value heads is even")
    if family.mean_of_group:
        rules.append("the query heads of each are averaged, so they are copied equally often")
    if not family.heads_are_free:
        unit = proposal.sizes["head_dim"] * head_copies(proposal, embed)
        rules.append(f"hidden_size is heads × head size, here a multiple of {unit}")
    if family.heads is HeadRule.DIVIDES_EMBED:
        rules.append("transformers requires hidden_size to be a multiple of the number of heads")
    if norms_all_heads(family):
        rules.append("a norm spans all heads, so each must be copied equally often")
    return rules


def _nearest_width(proposal: Proposal, embed: int) -> int | None:
    smallest = proposal.sizes["embed"]
    for step in range(1, smallest + 1):
        for width in (embed - step, embed + step):
            if width >= smallest and _choose(proposal, width):
                return width
    return None
