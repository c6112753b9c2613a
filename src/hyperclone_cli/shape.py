"""From a number of parameters to the shape that comes closest to it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import replace

from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import Family
from hyperclone_cli.request import Request
from hyperclone_cli.resolve import choose_heads, head_copies

_LARGEST_RATIO = 256


def propose(request: Request, sizes: Mapping[str, int], family: Family, count: Callable[[Request], int]) -> Request:
    """`request` with a hidden and a feed-forward size in place of its `target_params`.

    The hidden size is the multiple of the head size that comes closest if heads and feed-forward width grow
    in proportion; that width is then the multiple of `multiple_of` that comes closest. `count` tells how
    many parameters a request makes; it must not fall as either size grows.

    Raises RequestError for fewer parameters than the source has, or more than any shape makes.
    """
    target = request.target_params
    assert isinstance(target, int)
    request = replace(request, target_params=None)
    smallest = count(request)
    if target < smallest:
        raise RequestError(
            f"--target-params {target:,}: the source has {smallest:,} already, and growth takes nothing away.",
            f"At least {smallest}.",
        )

    def proportional(hidden: int) -> Request:
        ffn = sizes["ffn"] * hidden / sizes["embed"]
        return replace(request, hidden_size=hidden, intermediate_size=_at_least(sizes["ffn"], ffn, request.multiple_of))

    heads = sizes["kv_heads"] * sizes["group"]
    unit = sizes["embed"] // heads * request.head_dim_mult  # the head size, where hidden_size is heads × head size
    multiples = range(-(-sizes["embed"] // unit) * unit, _LARGEST_RATIO * sizes["embed"], unit)
    possible = [hidden for hidden in multiples if _has_heads(request, sizes, family, hidden, hidden // unit)]
    above = bisect_left(possible, target, key=lambda hidden: count(proportional(hidden)))
    if above == len(possible):
        raise RequestError(f"--target-params {target:,}: more than any shape of this architecture makes.")
    nearest = min(possible[max(0, above - 1) : above + 1], key=lambda h: abs(count(proportional(h)) - target))
    chosen = proportional(nearest)
    width = chosen.intermediate_size
    assert width is not None
    wider = replace(chosen, intermediate_size=width + request.multiple_of)
    each = (count(wider) - count(chosen)) / request.multiple_of
    width = _at_least(sizes["ffn"], width + (target - count(chosen)) / each, request.multiple_of)
    return replace(chosen, intermediate_size=width)


def _at_least(smallest: int, width: float, multiple: int) -> int:
    """The multiple nearest to `width`, or `smallest` where that is wider."""
    return max(smallest, round(width / multiple) * multiple)


def _has_heads(request: Request, sizes: Mapping[str, int], family: Family, hidden: int, heads: int) -> bool:
    """Whether the clone can have as many heads as its hidden size calls for, or those that were asked for."""
    try:
        chosen = choose_heads(request, sizes, family, hidden)
    except RequestError:
        return False
    return (
        chosen.query * head_copies(request, sizes, family, hidden) == heads * request.head_dim_mult
        or request.num_heads is not None
        or request.heads_mult is not None
    )
