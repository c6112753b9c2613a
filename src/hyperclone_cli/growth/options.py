"""The growth options as keywords."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypedDict, Unpack

from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing


class GrowthOptions(TypedDict, total=False):
    """What can be asked for. Every option may be left out; the defaults are those of the command line.

    embed_mult       times hidden_size, rounded to a whole unit as all multipliers are; 1
    ffn_mult         times the feed-forward width; 1
    moe_ffn_mult     times the width of each expert, where that is one of its own; None: as ffn_mult
    heads_mult       times the query heads; None: as embed_mult, or the nearest number that the architecture can have
    kv_heads_mult    times the key/value heads; None: as heads_mult likewise, but a single one stays single
    head_dim_mult    times the size of a head, a whole number; 1
    hidden_size, intermediate_size, num_heads, num_kv_heads   these widths themselves, instead of multipliers
    family           the table to use for an architecture that has none of its own
    target_params    parameters of the clone, a number or "1.3B"; the hidden and feed-forward sizes follow
    multiple_of      what target_params makes the feed-forward width a multiple of; 64
    tie_embeddings   "auto": a tied head stays tied where that can be exact; "keep": or is refused; "untie"
    strategy         "halving", "symmetric", "diagonal" or "uneven": how copies read the copies that they are fed
    uneven_ratio     proportions of "uneven"; (1, 2), and 1 : 2 : … : n for other numbers of copies
    noise_snr_db     add noise that cancels over the copies, this many decibels below the weights; None
    seed             of the noise; 0
    dtype            "float32", "bfloat16" or "float16"; None: each tensor's own
    max_shard_size   largest file in bytes, or a size such as "5GB"; "50GB"
    """

    embed_mult: float
    ffn_mult: float
    moe_ffn_mult: float | None
    heads_mult: float | None
    kv_heads_mult: float | None
    head_dim_mult: int
    hidden_size: int | None
    intermediate_size: int | None
    num_heads: int | None
    num_kv_heads: int | None
    family: str | None
    target_params: int | str | None
    multiple_of: int
    tie_embeddings: str
    strategy: str
    uneven_ratio: tuple[int, ...]
    noise_snr_db: float | None
    seed: int
    dtype: str | None
    max_shard_size: int | str


def request(**options: Unpack[GrowthOptions]) -> Request:
    """The request that `options` make. Raises TypeError for an unknown one, RequestError for a value out of range."""
    rest: dict[str, Any] = dict(options)
    mixing = {field.name: rest.pop(field.name) for field in fields(Mixing) if field.name in rest}
    return Request(mixing=Mixing(**mixing), **rest)
