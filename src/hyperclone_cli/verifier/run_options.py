"""How both models are run. Options that cannot be used are refused before anything is downloaded or compared."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.sizes import context_length
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import find_family
from hyperclone_cli.growth.numbers import bytes_of
from hyperclone_cli.growth.request import DTYPES

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.source import Source
    from hyperclone_cli.planning.plan import Plan

DTYPE, NEW_TOKENS, FEW_NEW_TOKENS = "float32", 16, 4
"""Defaults. Few new tokens where the source runs layer by layer: each costs one pass over its weights."""


def follow_steps(new_tokens: int) -> list[tuple[int, int]]:
    """(first, last + 1) of the new tokens that each step feeds to a model: 1, 2, 4, … The last one is not fed."""
    ends = [min((1 << step) - 1, new_tokens - 1) for step in range(new_tokens.bit_length() + 1)]
    return [(first, stop) for first, stop in pairwise(ends) if first < stop]


def follow_passes(new_tokens: int) -> int:
    """Forward passes that these steps take, the prompts' included."""
    return 1 + len(follow_steps(new_tokens))


@dataclass(frozen=True)
class RunOptions:
    """How both models are run; see `verify`.

    new_tokens  None: NEW_TOKENS, or FEW_NEW_TOKENS
    max_memory  bytes; None: what is free
    all_gpus    whether all visible GPUs are used, not `device` alone
    """

    device: torch.device
    dtype: torch.dtype
    new_tokens: int | None
    page_tokens: int | None
    max_memory: int | None
    all_gpus: bool


def choose_run_options(
    device: str | None,
    dtype: str,
    new_tokens: int | None,
    page_tokens: int | None = None,
    max_memory: int | str | None = None,
) -> RunOptions:
    """Options from what the user gave. Raises RequestError for an unknown dtype or device, or numbers out of range."""
    if dtype not in DTYPES:
        raise RequestError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}.")
    if new_tokens is not None and (type(new_tokens) is not int or new_tokens < 1):
        raise RequestError(f"--new-tokens {new_tokens}: expected a whole number from 1 up.")
    if page_tokens is not None and (type(page_tokens) is not int or page_tokens < 2):
        raise RequestError(f"--verify-tokens {page_tokens}: expected a whole number from 2 up.")
    limit = None if max_memory is None else bytes_of("--max-memory", max_memory)
    import torch

    from hyperclone_cli.verifier.forward import choose_device

    chosen = choose_device(device)
    all_gpus = chosen.type == "cuda" and chosen.index is None
    return RunOptions(chosen, getattr(torch, dtype), new_tokens, page_tokens, limit, all_gpus)


def check_unused(
    device: str | None,
    dtype: str,
    new_tokens: int | None,
    page_tokens: int | None = None,
    max_memory: int | str | None = None,
) -> None:
    """Raise RequestError for an option that --weights-only leaves without use, because it runs no model."""
    given = {
        "--device": (device, None),
        "--dtype": (dtype, DTYPE),
        "--new-tokens": (new_tokens, None),
        "--verify-tokens": (page_tokens, None),
        "--max-memory": (max_memory, None),
    }
    for option, (value, default) in given.items():
        if value != default:
            raise RequestError(f"{option} {value}: with --weights-only no model is run.", "Leave one of the two out.")


def check_context(options: RunOptions, source: Source, plan: Plan | None) -> None:
    """Raise RequestError if the new tokens do not fit into the models' context."""
    family = plan.source_family if plan else find_family(source.config)
    context = context_length(family.own(source.config), family)
    if (options.new_tokens or 1) >= context:
        raise RequestError(
            f"--new-tokens {options.new_tokens}: the models take {context} tokens, prompt included.",
            f"Use at most {context - 1}.",
        )
