"""How both models are run. Options that cannot be used are refused before anything is downloaded or compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.sizes import context_length
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import find_family
from hyperclone_cli.growth.request import DTYPES

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.source import Source
    from hyperclone_cli.planning.planner import Plan

DTYPE, NEW_TOKENS = "float32", 16


@dataclass(frozen=True)
class RunOptions:
    """How both models are run; see `verify`."""

    device: torch.device
    dtype: torch.dtype
    new_tokens: int


def choose_run_options(device: str | None, dtype: str, new_tokens: int) -> RunOptions:
    """Options from what the user gave. Raises RequestError for an unknown dtype or device, or less than one token."""
    if dtype not in DTYPES:
        raise RequestError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}.")
    if type(new_tokens) is not int or new_tokens < 1:
        raise RequestError(f"--new-tokens {new_tokens}: expected a whole number from 1 up.")
    import torch

    from hyperclone_cli.verifier.forward import choose_device

    return RunOptions(choose_device(device), getattr(torch, dtype), new_tokens)


def check_unused(device: str | None, dtype: str, new_tokens: int) -> None:
    """Raise RequestError for an option that --weights-only leaves without use, because it runs no model."""
    given = {"--device": (device, None), "--dtype": (dtype, DTYPE), "--new-tokens": (new_tokens, NEW_TOKENS)}
    for option, (value, default) in given.items():
        if value != default:
            raise RequestError(f"{option} {value}: with --weights-only no model is run.", "Leave one of the two out.")


def check_context(options: RunOptions, source: Source, plan: Plan | None) -> None:
    """Raise RequestError if the new tokens do not fit into the models' context."""
    context = context_length(source.config, plan.family if plan else find_family(source.config))
    if options.new_tokens >= context:
        raise RequestError(
            f"--new-tokens {options.new_tokens}: the models take {context} tokens, prompt included.",
            f"Use at most {context - 1}.",
        )
