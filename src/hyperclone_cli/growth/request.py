"""What the user asked for, checked as far as that is possible without a source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.option import CHECKING, WRITING, Option, check_values, flag, options_of, take
from hyperclone_cli.growth.strategies import Mixing

MAX_MULTIPLIER = 65536
MAX_UNITS = 1 << 30
Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _times(width: str, unset: str = "") -> Option:
    return Option(f"Multiply {width}.", min=1, max=MAX_MULTIPLIER, unset=unset)


def _units(width: str, mult: str) -> Option:
    return Option(f"The clone's {width}, instead of {flag(mult)}.", min=1, max=MAX_UNITS, instead_of=mult)


@dataclass(frozen=True)
class Request:
    """What the user asked for. Each field but `mixing`, the strategy and the noise, is an option.

    How a width follows from what was asked for is described at `resolve`.

    Raises RequestError for a value that no checkpoint could be grown by.
    """

    embed_mult: Annotated[float, _times("hidden_size, the width of the residual stream")] = 1
    ffn_mult: Annotated[float, _times("the feed-forward width")] = 1
    moe_ffn_mult: Annotated[
        float | None,
        _times(
            "the width of each expert, shared ones too, where config.json states it apart from the feed-forward width",
            unset="as --ffn-mult",
        ),
    ] = None
    heads_mult: Annotated[
        float | None,
        _times(
            "the number of query heads", unset="as --embed-mult, or the nearest number that the architecture allows"
        ),
    ] = None
    kv_heads_mult: Annotated[
        float | None,
        _times(
            "the number of key/value heads; 1 keeps the size of the KV cache",
            unset="as --heads-mult, but a single key/value head stays single",
        ),
    ] = None
    head_dim_mult: Annotated[int, _times("the size of a head")] = 1
    hidden_size: Annotated[int | None, _units("hidden_size", "embed_mult")] = None
    intermediate_size: Annotated[int | None, _units("feed-forward width", "ffn_mult")] = None
    num_heads: Annotated[int | None, _units("number of query heads", "heads_mult")] = None
    num_kv_heads: Annotated[int | None, _units("number of key/value heads", "kv_heads_mult")] = None
    family: Annotated[
        str | None,
        Option(
            "The table of another architecture, such as llama, for a model_type without one. A refusal names the table "
            "that fits all tensors; the verification shows whether the architecture computes the same too.",
        ),
    ] = None
    target_params: Annotated[
        int | str | None,
        Option(
            "The clone's number of parameters, such as 1.3B, instead of hidden_size and the feed-forward width. The "
            "closest shape is chosen and shown.",
        ),
    ] = None
    multiple_of: Annotated[
        int, Option("--target-params chooses a feed-forward width that is a multiple of this.", min=1, max=MAX_UNITS)
    ] = 64
    dtype: Annotated[
        Dtype | None,
        Option("The clone's storage dtype.", WRITING, unset="each tensor's own; bfloat16 for a GGUF file"),
    ] = None
    max_shard_size: Annotated[int | str, Option("The size of the largest file, in bytes or such as 5GB.", WRITING)] = (
        "50GB"
    )
    tie_embeddings: Annotated[
        Literal["auto", "keep", "untie"],
        Option(
            "What becomes of tied embeddings. auto: they stay tied where that can be exact; elsewhere the head becomes "
            "a matrix of its own. keep: they stay tied, or the request is refused. untie: a matrix of its own.",
        ),
    ] = "auto"
    mixing: Mixing = field(default_factory=Mixing)

    def __post_init__(self) -> None:
        check_values(self)
        for name, value in vars(self).items():
            if isinstance(value, float) and value.is_integer():
                object.__setattr__(self, name, int(value))  # 2.0 is the same request as 2
        for option in options_of(Request):
            mult = option.instead_of
            if mult and getattr(self, option.name) is not None and getattr(self, mult) not in (None, 1):
                raise RequestError(f"{option.flag} and {flag(mult)} are two answers to one question.", "Give one.")
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

    @classmethod
    def of(cls, given: Request | None, options: Mapping[str, Any]) -> Request:
        """`given`, or the request that the keywords `options` make, fields of Mixing among them.

        Raises TypeError for an unknown keyword, and for keywords beside `given`; RequestError for a value out of range.
        """
        if given is not None and options:
            raise TypeError(f"{', '.join(options)}: give a request or keywords, not both")
        rest = dict(options)
        mixing = Mixing(**take(Mixing, rest))
        return given or cls(**rest, mixing=mixing)

    def typed(self, size: str, mult: str) -> str:
        """The option that gave a width, as on a command line; empty where it is the source's."""
        name = mult if getattr(self, size) is None else size
        return "" if getattr(self, name) in (None, 1) else f"{flag(name)} {getattr(self, name)}"


@dataclass(frozen=True)
class Writing:
    """How a clone is written. Each field is an option."""

    overwrite: Annotated[
        bool,
        Option(
            "Replace the clone at --out once the new one is complete. A directory that hyperclone did not write, or "
            "that was trained since, is never replaced.",
            WRITING,
        ),
    ] = False
    restart: Annotated[
        bool,
        Option(
            "Discard what an interrupted run has written. Without it the same command goes on, and another is refused.",
            WRITING,
        ),
    ] = False
    threads: Annotated[
        int | None, Option("How many blocks are worked on at once.", WRITING, min=1, unset="one for each core")
    ] = None
    max_memory: Annotated[
        int | str | None,
        Option(
            "Memory for these blocks, in bytes or such as 2GB, and then for each model that the verification runs. "
            "Fewer threads run where it is too little, and models layer by layer. PyTorch itself takes about 200 MB "
            "more.",
            WRITING,
            unset="512MB, and for the models what is free",
        ),
    ] = None
    checksum: Annotated[
        bool,
        Option(
            "Record the SHA-256 of every file but the card in hyperclone.json. `verify --checksum` compares them.",
            CHECKING,
        ),
    ] = False


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
