"""The number of experts: which expert of the source each one of the clone copies, and how copies share its work.

With c copies of every expert and of its row of the router, and c times as many experts chosen, every copy of a chosen
expert is chosen with it. What the copies then add up to is told by `families.routing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.upcycling import Upcycling
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.widths import Growth, tiled


@dataclass(frozen=True)
class ExpertGrowth:
    """How the experts of a layer become more.

    growth       of the axis "experts"
    config       key of config.json → its value in the clone
    written      the factor of what every expert writes
    probability  the factor of what is added to the probabilities of experts
    """

    growth: Growth
    config: Mapping[str, Any] = field(default_factory=dict)
    written: float = 1.0
    probability: float = 1.0


def grow_experts(proposal: Proposal) -> ExpertGrowth:
    """How the experts grow under a request: copy after copy, groups of experts whole.

    Raises RequestError for a number of experts, or of chosen ones, with which the clone would not compute the same,
    and for an architecture without experts, or whose routing is not known.
    """
    request, experts = proposal.request, proposal.sizes.get("experts", 0)
    if request.num_experts is None:
        return ExpertGrowth(tiled(experts, 1))
    if proposal.upcycling:
        return _from_dense(proposal, proposal.upcycling)
    routing = _routing(proposal, experts)
    if request.expert_granularity != 1 or request.varies_experts:
        raise RequestError(
            f"this {proposal.family.model_type} has experts already: --expert-granularity, --expert-drop and"
            " --expert-noise-snr-db make those of a dense model.",
            "Leave them out.",
        )
    number, chosen = proposal.target("experts", experts), chosen_experts(proposal, routing)
    assert number is not None
    copies, more = divmod(number, experts)
    if more:
        raise RequestError(
            f"--num-experts {number}: no multiple of {experts}: experts with more copies than others would have a"
            " larger part in every token.",
            f"The nearest that works: --num-experts {max(2, copies + (2 * more > experts)) * experts}.",
        )
    asked = request.experts_per_token
    if asked != copies * chosen:
        found = "" if asked is None else f" --experts-per-token {asked}"
        raise RequestError(
            f"--num-experts {number}{found}: a router that chooses {asked or chosen} of {number} takes all {copies}"
            f" copies of the best experts, and so fewer of the {chosen} different ones than the source.",
            f"Add --experts-per-token {copies * chosen}."
            if asked is None
            else f"Use --experts-per-token {copies * chosen}.",
        )
    groups = {key: value for key, value in _groups(proposal, routing).items() if value}
    grouped = any(value != 1 for value in groups.values())
    alone = routing.alone is not None and proposal.family.fits(proposal.config, routing.alone)
    return ExpertGrowth(
        tiled(experts, copies),
        {routing.chosen: copies * chosen} | {key: value * (copies if grouped else 1) for key, value in groups.items()},
        written=1 / copies if alone else 1.0,
        probability=1 / copies,
    )


def _from_dense(proposal: Proposal, upcycling: Upcycling) -> ExpertGrowth:
    """The experts of a dense feed-forward, whose parts are the experts of the source.

    A token has m times all `parts` of the feed-forward, each with the weight 1 / (m · parts) on average. Experts that
    make one feed-forward have one row of the router, hence one score, and are chosen together.
    """
    number, chosen = proposal.request.num_experts, proposal.request.experts_per_token
    parts, routing = proposal.request.expert_granularity, upcycling.target.routing
    assert number is not None
    assert routing is not None
    if chosen is None:
        raise RequestError(
            f"--num-experts {number}: how many of them compute a token is not said.",
            f"Add --experts-per-token {parts}, or a multiple of it.",
        )
    for option, value in (("--num-experts", number), ("--experts-per-token", chosen)):
        if value % parts:
            raise RequestError(
                f"{option} {value}: no multiple of {parts}, the experts that make one feed-forward: a token would have"
                " some parts of it more often than others.",
                f"The nearest that works: {option} {max(1, round(value / parts)) * parts}.",
            )
    if chosen > number:
        raise RequestError(
            f"--experts-per-token {chosen}: there are {number} experts.", f"At most --experts-per-token {number}."
        )
    there = proposal.sizes["experts"]
    return ExpertGrowth(
        tiled(there, number // there), {routing.chosen: chosen}, written=float(parts * upcycling.routed)
    )


def chosen_experts(proposal: Proposal, routing: Routing) -> int:
    """How many experts the source's router chooses for a token. Raises CheckpointError if config.json does not say."""
    stated = proposal.family.value(proposal.config, routing.chosen)
    chosen = routing.default if stated is None else stated
    if type(chosen) is not int or not 1 <= chosen <= proposal.sizes["experts"]:
        raise CheckpointError(
            f"config.json: {routing.chosen} should be a number of experts, {proposal.sizes['experts']} at most, found"
            f" {chosen!r}."
        )
    return chosen


def chosen_shares(proposal: Proposal) -> tuple[Fraction, Fraction]:
    """The part of a layer's experts that a token is computed by, before and after; 1 where that is not known."""
    experts, routing = proposal.sizes.get("experts", 0), proposal.family.routing
    if not experts or routing is None:
        return Fraction(1), Fraction(1)
    try:
        chosen = experts if proposal.upcycling else chosen_experts(proposal, routing)
    except CheckpointError:
        return Fraction(1), Fraction(1)
    grown = grow_experts(proposal)
    return Fraction(chosen, experts), Fraction(grown.config.get(routing.chosen, chosen), grown.growth.target)


def _routing(proposal: Proposal, experts: int) -> Routing:
    """How the source's router works. Raises RequestError if it has none, or none that is known."""
    family, config = proposal.family, proposal.config
    asked = f"--num-experts {proposal.request.num_experts}"
    if not experts:
        raise RequestError(f"{asked}: this {family.model_type} has no experts.", "Leave --num-experts out.")
    proposal.check_limit("experts", asked)
    if family.routing is None:
        raise RequestError(
            f"{asked}: not in {family.name}, whose table does not say how its router weighs the experts it chooses.",
            "Leave --num-experts out.",
        )
    for key, values in family.routing.only.items():
        if (found := family.value(config, key)) not in values:
            raise RequestError(
                f"{asked}: not with {key} {found!r}: copies of an expert would not share its weight.",
                "Leave --num-experts out.",
            )
    return family.routing


def _groups(proposal: Proposal, routing: Routing) -> dict[str, int | None]:
    """Key of config.json → the number of groups, or of chosen ones; None where there are none."""
    stated = {key: proposal.family.value(proposal.config, key) for key in routing.groups}
    groups = {key: routing.groups[key] if value is None else value for key, value in stated.items()}
    for key, value in groups.items():
        if value is not None and (type(value) is not int or value < 1):
            raise CheckpointError(f"config.json: {key} should be a number of groups of experts, found {value!r}.")
    return groups
