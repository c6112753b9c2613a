"""From a number of parameters to the shape that comes closest to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.depth import nearest_depth
from hyperclone_cli.growth.heads import choose_heads, head_copies
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.resolve import resolve

_LARGEST_RATIO = 64


def choose_sizes(proposal: Proposal, count: Callable[[Request], int]) -> Request:
    """The request of `proposal` with a hidden and a feed-forward size in place of its `target_params`.

    Candidates are the hidden sizes that are multiples of the head size and that the architecture can have, with heads
    and feed-forward width in proportion. The search takes the largest that makes too few parameters and the smallest
    that makes enough, gives each the feed-forward width (a multiple of `multiple_of`, or of the source's width where
    the architecture requires that) that comes closest to the target, and returns the closer of the two. `count` tells
    how many parameters a request makes. Under `--aspect keep` the layers are as many in proportion, or the nearest
    number that the architecture can have.

    Raises RequestError for fewer parameters than the source has, or more than any shape makes.
    """
    request, sizes, family = proposal.request, proposal.sizes, proposal.family
    target = request.target_params
    assert isinstance(target, int)
    plain = proposal.changed(target_params=None, multiple_of=Request.multiple_of, aspect=Request.aspect)
    unit = max(1, sizes["embed"] // (sizes["kv_heads"] * sizes["group"])) * request.head_dim_mult
    start = sizes["embed"]
    step = sizes["ffn"] if family.limit("ffn", proposal.config) else request.multiple_of
    widths = [start, *range((start // unit + 1) * unit, _LARGEST_RATIO * start, unit)]

    def proportional(width: int) -> Request:
        ffn = sizes["ffn"] * width / start
        ffn = _at_least(sizes["ffn"], ffn, step) if "ffn" in family.sizes else round(ffn)
        layers = nearest_depth(proposal, sizes["layers"] * width / start) if request.aspect == "keep" else None
        return replace(plain.request, hidden_size=width, intermediate_size=ffn, num_layers=layers or request.num_layers)

    def works(width: int) -> bool:
        try:
            resolve(replace(proposal, request=proportional(width)))
            heads = choose_heads(plain, width).query
        except RequestError:
            return False
        asked = (request.num_heads, request.heads_mult) != (None, None)
        implied = width // unit * request.head_dim_mult // head_copies(plain, width)
        return asked or not family.has_heads or width == start or heads == implied

    def next_that_works(index: int, step: int) -> int | None:
        while 0 <= index < len(widths):
            if works(widths[index]):
                return index
            index += step
        return None

    def filled(width: int) -> tuple[int, Request]:
        """The feed-forward width that comes closest at this hidden size, and by how many parameters it misses."""
        chosen = proportional(width)
        total = count(chosen)
        if "ffn" in family.sizes:
            ffn = chosen.intermediate_size
            assert ffn is not None
            for more in (
                step,
                step * sizes["ffn"],
            ):  # experts follow in proportion: one step may round to none of theirs
                each = (count(replace(chosen, intermediate_size=ffn + more)) - total) / more
                if each:
                    ffn = _at_least(sizes["ffn"], ffn + (target - total) / each, step)
                    chosen = replace(chosen, intermediate_size=ffn)
                    total = count(chosen)
                    break
        return abs(total - target), chosen

    low, high = 0, len(widths)  # every width that works below `low` makes fewer parameters, from `high` on as many
    while low < high:
        middle = (low + high) // 2
        index = next_that_works(middle, 1)
        if index is None or index >= high or count(proportional(widths[index])) >= target:
            high = middle
        else:
            low = index + 1
    below, above = next_that_works(low - 1, -1), next_that_works(low, 1)
    if below is None:
        if above is None:
            raise RequestError(f"--target-params {target:,}: no shape of this architecture has the heads asked for.")
        smallest = count(proportional(widths[above]))
        if target < smallest:
            raise RequestError(
                f"--target-params {target:,}: the smallest shape has {smallest:,}, and growth takes nothing away.",
                f"At least {smallest}.",
            )
    if above is None:
        most = count(proportional(widths[below])) if below is not None else 0
        raise RequestError(
            f"--target-params {target:,}: more than any shape of this architecture makes.", f"At most {most}."
        )
    return min((filled(widths[index]) for index in (below, above) if index is not None), key=lambda found: found[0])[1]


def _at_least(smallest: int, width: float, multiple: int) -> int:
    """The multiple nearest to `width`, or `smallest` where that is wider."""
    return max(smallest, round(width / multiple) * multiple)
