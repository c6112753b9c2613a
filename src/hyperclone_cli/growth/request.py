"""What the user asked for, checked as far as that is possible without a source."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import isfinite

from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.strategies import Mixing

MAX_MULTIPLIER = 65536
MAX_UNITS = 1 << 30
DEFAULT_MAX_MEMORY = "512MB"
DTYPES = ("float32", "bfloat16", "float16")
TIES = ("auto", "keep", "untie")

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Request:
    """What the user asked for. What is None takes its default; see `resolve`.

    embed_mult, ffn_mult, moe_ffn_mult, heads_mult, kv_heads_mult   times the source's width, rounded to a whole unit
    head_dim_mult   times the size of a head, a whole number
    hidden_size, intermediate_size, num_heads, num_kv_heads   the clone's width, instead of a multiplier
    family          the table to use for an architecture without one, by name
    target_params   parameters of the clone, instead of all of these but the number of heads; a number or "1.3B"
    multiple_of     what `target_params` makes the feed-forward width a multiple of
    dtype           storage dtype of the clone; None keeps each tensor's own
    max_shard_size  bytes, or a size such as "5GB"
    tie_embeddings  "auto": tied where that can be exact; "keep": tied or refused; "untie"
    mixing          strategy and noise

    Raises RequestError for a value that no checkpoint could be grown by.
    """

    embed_mult: float = 1
    ffn_mult: float = 1
    moe_ffn_mult: float | None = None
    heads_mult: float | None = None
    kv_heads_mult: float | None = None
    head_dim_mult: int = 1
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    family: str | None = None
    target_params: int | str | None = None
    multiple_of: int = 64
    dtype: str | None = None
    max_shard_size: int | str = "50GB"
    tie_embeddings: str = "auto"
    mixing: Mixing = field(default_factory=Mixing)

    def __post_init__(self) -> None:
        for name in ("embed_mult", "ffn_mult", "moe_ffn_mult", "heads_mult", "kv_heads_mult"):
            self._check_multiplier(name)
        if type(self.head_dim_mult) is not int or not 1 <= self.head_dim_mult <= MAX_MULTIPLIER:
            raise RequestError(f"--head-dim-mult {self.head_dim_mult}: expected a whole number from 1 up.")
        for name in ("hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "multiple_of"):
            units = getattr(self, name)
            if units is None and name != "multiple_of":
                continue
            if type(units) is not int or not 1 <= units <= MAX_UNITS:
                raise RequestError(f"{option_name(name)} {units}: expected a whole number from 1 to {MAX_UNITS:,}.")
        for size, mult in (
            ("hidden_size", "embed_mult"),
            ("intermediate_size", "ffn_mult"),
            ("num_heads", "heads_mult"),
            ("num_kv_heads", "kv_heads_mult"),
        ):
            if getattr(self, size) is not None and getattr(self, mult) not in (None, 1):
                raise RequestError(
                    f"{option_name(size)} and {option_name(mult)} are two answers to one question.", "Give one."
                )
        if self.target_params is not None:
            object.__setattr__(self, "target_params", _parameters(self.target_params))
            sizes = self.hidden_size, self.intermediate_size, self.moe_ffn_mult
            chosen = [self.embed_mult != 1, self.ffn_mult != 1, *sizes]
            if any(chosen):
                raise RequestError(
                    "--target-params chooses the hidden and the feed-forward size itself.",
                    "Leave out --embed-mult, --ffn-mult, --moe-ffn-mult, --hidden-size and --intermediate-size.",
                )
        if self.target_params is None and self.multiple_of != Request.multiple_of:
            raise RequestError("--multiple-of is for the widths that --target-params chooses.", "Leave it out.")
        if self.dtype not in (None, *DTYPES):
            raise RequestError(f"--dtype {self.dtype}: expected one of {', '.join(DTYPES)}.")
        if self.tie_embeddings not in TIES:
            raise RequestError(f"--tie-embeddings {self.tie_embeddings}: expected one of {', '.join(TIES)}.")

    def _check_multiplier(self, name: str) -> None:
        mult = getattr(self, name)
        if mult is None and name not in ("embed_mult", "ffn_mult"):
            return
        if type(mult) not in (int, float) or not isfinite(mult) or not 1 <= mult <= MAX_MULTIPLIER:
            raise RequestError(f"{option_name(name)} {mult}: a multiplier is a number from 1 to {MAX_MULTIPLIER}.")
        if mult == int(mult):
            object.__setattr__(self, name, int(mult))  # 2.0 is the same request as 2


def option_name(name: str) -> str:
    """The command line's name of a field."""
    return "--" + name.replace("_", "-")


def bytes_of(option: str, size: int | str) -> int:
    """What a size such as "512MB", or a number of bytes, is in bytes. Raises RequestError if it is none."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d+)?) ?([KMGT]?B)?", str(size).upper())
    if not found:
        raise RequestError(f"{option} {size}: no size in bytes.", 'Use a size such as "5GB" or "512MB".')
    return round(float(found[1]) * _BYTES[found[2] or "B"])


def _parameters(number: int | str) -> int:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMBT]?)", str(number).upper())
    count = round(float(found[1]) * _UNITS[found[2]]) if found else 0
    if not 1 <= count <= 10**15:
        raise RequestError(f"--target-params {number}: expected a number of parameters such as 1.3B.")
    return count
