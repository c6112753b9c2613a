"""How both models are run, refused where they cannot be run so: before anything is fetched, read or compared."""

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
class Setting:
    """How both models are run."""

    device: torch.device
    dtype: torch.dtype
    new_tokens: int


def choose_setting(device: str | None, dtype: str, new_tokens: int) -> Setting:
    """See `verify`. Raises RequestError for another dtype than DTYPES, no tokens, or a device that is not there."""
    if dtype not in DTYPES:
        raise RequestError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}.")
    if type(new_tokens) is not int or new_tokens < 1:
        raise RequestError(f"--new-tokens {new_tokens}: expected a whole number from 1 up.")
    import torch

    from hyperclone_cli.verifier.forward import choose_device

    return Setting(choose_device(device), getattr(torch, dtype), new_tokens)


def check_unused(device: str | None, dtype: str, new_tokens: int) -> None:
    """Raise RequestError for what is asked of models that --weights-only does not run."""
    usual = {"--device": (device, None), "--dtype": (dtype, DTYPE), "--new-tokens": (new_tokens, NEW_TOKENS)}
    for option, (value, default) in usual.items():
        if value != default:
            raise RequestError(f"{option} {value}: with --weights-only no model is run.", "Leave one of the two out.")


def check_context(setting: Setting, source: Source, plan: Plan | None) -> None:
    """Raise RequestError if the models do not take as many tokens as are to be decoded."""
    context = context_length(source.config, plan.family if plan else find_family(source.config))
    if setting.new_tokens >= context:
        raise RequestError(
            f"--new-tokens {setting.new_tokens}: the models take {context} tokens, prompt included.",
            f"At most {context - 1}.",
        )
