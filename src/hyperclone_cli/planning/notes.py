"""What a plan notes for its user."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hyperclone_cli.checkpoint.safetensors_file import ITEM_BYTES
from hyperclone_cli.errors import first_of
from hyperclone_cli.families import Family
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.widths import Growth
from hyperclone_cli.planning.grown_tensor import GrownTensor, TensorKind
from hyperclone_cli.planning.matching import UNUSUAL

LEAST_SNR_DB_IN_16_BITS = 10
"""The paper's noise. In bfloat16 a `diagonal` clone failed its verification at 6 dB, a `halving` one at 0 dB."""


def copied_layers(request: Request) -> list[str]:
    """A note on a clone that is not function-preserving by request."""
    what = "its weights alone can be compared, and it never counts as verified"
    return [] if request.keeps_function else [f"The clone is {request.by_request}: {what}."]


def new_experts(proposal: Proposal, config: Mapping[str, Any]) -> list[str]:
    """Notes on experts that a clone has more of: how they are chosen, and how their load is balanced in training."""
    request, family, upcycling = proposal.request, proposal.family, proposal.upcycling
    if request.num_experts is None:
        return []
    notes = []
    if upcycling:
        parts = request.expert_granularity
        each = "the feed-forward" if parts == 1 else f"1/{parts} of the feed-forward"
        notes.append(
            f"Written as {family.model_type} ({upcycling.class_name}): {request.num_experts} experts, each {each},"
            f" {request.experts_per_token} for a token. The router is random, by --seed {request.mixing.seed}."
        )
        if parts > 1:
            notes.append(
                f"The {parts} experts that make one feed-forward have one row of the router, and are chosen together"
                " but where others have the very same score, as happens in 16 bits: compare the clone in float32."
            )
    if "router_aux_loss_coef" in config:
        switch = "" if config.get("output_router_logits") else ", once output_router_logits is true"
        notes.append(
            f"Training balances the load of experts by router_aux_loss_coef {config['router_aux_loss_coef']}{switch}."
        )
    return notes


def silent_heads(heads: Growth) -> list[str]:
    """A note on heads that nothing reads, if there are any."""
    silent = sum(run.length for run in heads.runs if run.silent)
    why = f"ALiBi gives each head a slope of its own, and {heads.source} of these are the source's."
    return [f"{silent} of {heads.target} heads are silent until training reads them: {why}"] if silent else []


def noise_warning(request: Request, kinds: Iterable[TensorKind]) -> list[str]:
    """A note on noise that 16 bits round too coarsely."""
    snr_db = request.mixing.noise_snr_db
    short = sorted({kind.dtype for kind in kinds if kind.noisy and ITEM_BYTES[kind.dtype] < 4})
    if snr_db is None or snr_db >= LEAST_SNR_DB_IN_16_BITS or not short:
        return []
    why = "rounding makes the copies differ, and noise that no longer cancels grows with the depth"
    return [f"--noise-snr-db {snr_db:g} in {short[0]}: {why}. Verification may fail; in float32 it passes."]


def kept_note(family: Family, request: Request, tensors: Sequence[GrownTensor]) -> str:
    """What of a wrapper, the source, stays as it is or is left out, for the user; "" for a text model."""
    if family.wrapping is None:
        return ""
    if request.text_only:
        out = ", ".join(family.wrapping.towers)
        return f"The text model of {family.model_type}, {family.wrapping.text.model_type}, alone. Left out: {out}."
    kept = {tower: sum(one.kept for one in tensors if _is_in(one.name, tower)) for tower in family.wrapping.towers}
    joins = {re.sub(r"\.(weight|bias)$", "", one.pattern) for one in tensors if one.part == "projector"}
    named = ", ".join(f"{tower} ({number} tensor{'s' * (number > 1)})" for tower, number in kept.items() if number)
    return (
        f"{family.model_type} is {family.wrapping.text.model_type} with towers, which are copied byte for byte,"
        f" whatever --dtype says: {named}. What joins them to the text model grows with it: {first_of(sorted(joins))}."
    )


def _is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def left_out(dropped: Mapping[str, str]) -> list[str]:
    """A note for each unusual reason why stored tensors (name → why) are not written."""
    named = {why: [name for name, reason in dropped.items() if reason == why] for why in UNUSUAL}
    return [f"Not written, {why}: {first_of(names)}." for why, names in named.items() if names]
