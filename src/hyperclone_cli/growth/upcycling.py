"""A dense model proposed as a mixture: the request is put to a mixture of the parts of its feed-forward, all chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from hyperclone_cli.checkpoint.sizes import read_sizes
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families.upcycling import NO_MIXTURE, UPCYCLINGS, Upcycling
from hyperclone_cli.growth.depth import rules_of
from hyperclone_cli.growth.proposal import Proposal

_OF_CODE = ("auto_map",)
"""Keys that name code of the dense model."""


def as_mixture(proposal: Proposal) -> Proposal:
    """The same request, put to the source as a mixture, where it asks for experts of a dense model.

    The mixture has as many experts as make one feed-forward; each token has all of them. Where experts are to differ,
    it has all that the clone has.

    Raises RequestError for a dense model that is written as no mixture, or cannot be cut into so many parts.
    """
    request, family = proposal.request, proposal.family
    if request.num_experts is None or "experts" in family.sizes:
        return proposal
    upcycling = _upcycling(proposal)
    parts, ffn = request.expert_granularity, proposal.sizes["ffn"]
    if ffn % parts:
        raise RequestError(
            f"--expert-granularity {parts}: the feed-forward width {ffn} has no {parts} equal parts.",
            "Use a divisor of it.",
        )
    config = _config_of(upcycling, proposal)
    return replace(
        proposal,
        family=upcycling.target,
        config=config,
        sizes=read_sizes(config, upcycling.target),
        upcycling=upcycling,
    )


def _upcycling(proposal: Proposal) -> Upcycling:
    family, asked = proposal.family, f"--num-experts {proposal.request.num_experts}"
    if family.wrapping:
        raise RequestError(
            f"{asked}: not around the towers of {family.model_type}.",
            "Write its text model alone first: --text-only. Then give that experts.",
        )
    if proposal.request.text_only:
        raise RequestError(
            f"{asked}: --text-only makes a dense model of a wrapper.", "Do one, then the other: the clone is a source."
        )
    found = UPCYCLINGS.get(family.model_type)
    if found is None:
        reason = NO_MIXTURE.get(family.model_type, "it has no experts, and no mixture is known that is otherwise alike")
        raise RequestError(
            f"{asked}: not in {family.name}: {reason}.",
            f"Experts of a dense model are for {', '.join(UPCYCLINGS)}.",
        )
    for limit in found.limits:
        if family.fits(proposal.config, limit.when):
            raise RequestError(f"{asked}: not in this {family.model_type}: {limit.why}.", "Leave --num-experts out.")
    return found


def _config_of(upcycling: Upcycling, proposal: Proposal) -> dict[str, Any]:
    """config.json of the source as a mixture: what both have in common, and what the mixture needs besides."""
    dense, sizes, target, parts = proposal.family, proposal.sizes, upcycling.target, proposal.request.expert_granularity
    read = {rule.key for rule in target.layer_rules}
    left = {rule.key for rule in dense.layer_rules} - read
    config = {key: value for key, value in proposal.config.items() if key not in (*left, *_OF_CODE)}
    for rule in rules_of(proposal):
        if rule.key in read:
            value = partial(dense.value, proposal.config)
            config |= rule.written(value, list(rule.kinds(value, sizes["layers"])))
    widths = {"ffn": sizes["ffn"], "moe_ffn": sizes["ffn"] // parts, "shared_ffn": sizes["ffn"]}
    # experts that differ are no copies of others: then the source has all that the clone has
    widths["experts"] = proposal.request.num_experts or 0 if proposal.request.varies_experts else parts
    if "moe_ffn" not in target.sizes:
        widths["ffn"] //= parts
    heads = {"heads": sizes["kv_heads"] * sizes["group"], "head_dim": sizes["head_dim"]}
    stated = {**sizes, **heads, **widths}
    config |= {key: stated[axis] for axis, key in target.sizes.items()}
    config |= {key: value for key, value in upcycling.assumed.items() if not _says(proposal.config, key)}
    return {
        **config,
        **upcycling.config,
        "model_type": target.model_type,
        "architectures": [upcycling.class_name],
    }


def _says(config: Mapping[str, Any], key: str) -> bool:
    """Whether config.json states a key, or among the parameters of its rotary positions."""
    rope = config.get("rope_parameters")
    return key in config or (isinstance(rope, Mapping) and key in rope)
