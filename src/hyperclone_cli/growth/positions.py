"""How heads grow under each kind of positions: which rotary frequencies a larger head keeps, which ALiBi slopes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families.positions import Alibi, Positions, Rotary
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.widths import Growth, Run, repeated, spaced, spread, tiled

_KEPT = ("default", "linear", "llama3")
"""Types whose frequencies a larger head keeps: each depends on its own number and the base alone."""

_TOGETHER = {"halves": 1, "neighbours": 2}
"""Units that must stay side by side in a larger head, for each way in which rotary positions pair them."""


def positions_of(proposal: Proposal) -> Positions:
    """The positions that the source has under its config."""
    positions = proposal.family.positions
    if isinstance(positions, Alibi) and not proposal.family.fits(proposal.config, positions.when):
        return positions.otherwise
    return positions


def grow_kv_heads(proposal: Proposal, target: int) -> Growth:
    """The growth of the key/value heads to `target`: copies, or under ALiBi copies at the places of their slopes."""
    grow = at_their_slopes if isinstance(positions_of(proposal), Alibi) else spread
    return grow(proposal.sizes["kv_heads"], target)


def grow_head(proposal: Proposal) -> dict[str, Growth]:
    """The growths of a head's query, key and value to `head_dim_mult` times their size.

    Without rotary positions all are copied: scores grow with the copies. With them a unit of the larger head turns at
    the source's frequency only if its number (its pair's, where pairs are neighbours) is a multiple of the source
    unit's by the copies. So keys keep one copy there and zeros between, and queries, which meet these zeros, are
    repeated: scores stay. Queries are scaled by what remains once attention divides by the root of the head size,
    where it does.
    """
    size, copies, positions = proposal.sizes["head_dim"], proposal.request.head_dim_mult, positions_of(proposal)
    query = key = value = tiled(size, copies)
    if copies == 1 or positions.stated_scale:
        return {"query": query, "key": key, "value": value}
    scale = 1.0 if positions.constant_scale else copies**0.5
    if isinstance(positions, Rotary):
        span = _TOGETHER[positions.pairs]
        query, key = repeated(size, copies, scale, span), spaced(size, copies, span)
    else:
        query = tiled(size, copies, scale / copies)
    return {"query": query, "key": key, "value": value}


def check_rotary(proposal: Proposal) -> None:
    """Raise RequestError if rotary positions do not allow heads `head_dim_mult` times as large."""
    copies, size, positions = proposal.request.head_dim_mult, proposal.sizes["head_dim"], positions_of(proposal)
    if not isinstance(positions, Rotary):
        return
    for rope in rope_parameters(proposal.config):
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in _KEPT:
            raise RequestError(
                f"--head-dim-mult {copies}: rotary positions of type {kind!r} give a larger head other frequencies.",
                "Grow the number of heads instead: --heads-mult.",
            )
        part = _rotary_part(rope, positions, proposal)
        turned = int(size * part)
        if int(copies * size * part) != copies * turned or turned % 2:
            raise RequestError(
                f"--head-dim-mult {copies}: {part:g} of a head of {size} units are {turned} with rotary positions,"
                f" and {int(copies * size * part)} of {copies * size} units: pairs do not stay pairs.",
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


def _rotary_part(rope: Mapping[str, Any], positions: Rotary, proposal: Proposal) -> float:
    part = rope.get("partial_rotary_factor", proposal.config.get("partial_rotary_factor"))
    if part is None:
        part = proposal.family.value(proposal.config, positions.fraction) if positions.fraction else 1.0
    if type(part) not in (int, float) or not 0 <= part <= 1:
        raise CheckpointError(f"config.json: partial_rotary_factor should be a number from 0 to 1, found {part!r}.")
    return float(part)


def slopes(heads: int) -> list[Fraction]:
    """The slope of each of so many heads, as the power of ½ that it is: (heads).

    Those of a power of two are spaced evenly; others take that below them, and the gaps in order (Press et al., 2022).
    """
    power = 1 << (heads.bit_length() - 1)
    spaced = [Fraction(8 * number, power) for number in range(1, power + 1)]
    between = [Fraction(8 * number, 2 * power) for number in range(1, 2 * (heads - power), 2)]
    return spaced + between


def at_their_slopes(size: int, target: int) -> Growth:
    """`size` heads, each at the place among `target` that has its slope; the other places hold silent copies.

    Every larger number of heads has a place with each slope: new slopes lie between the old ones.
    """
    if target == size:
        return tiled(size, 1)
    places = {slope: head for head, slope in enumerate(slopes(size))}
    silent = Counter[int]()
    runs = []
    for number, slope in enumerate(slopes(target)):
        if slope in places:
            runs.append(Run(places[slope], 1, 0, 1))
        else:
            head = number % size
            silent[head] += 1
            runs.append(Run(head, 1, silent[head], 1, silent=True))
    return Growth(size, tuple(runs))
