"""Rows of experts that transformers' default path cannot multiply, and the nearest widths that it can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hyperclone_cli.checkpoint.safetensors_file import FLOAT_DTYPES, ITEM_BYTES
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families.axes import AXES
from hyperclone_cli.growth.option import flag
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.resolve import resolve
from hyperclone_cli.growth.widths import Growth
from hyperclone_cli.planning.grown_tensor import TensorKind

ALIGNED_BYTES = 16
"""torch's grouped matrix product takes rows of a multiple of this many bytes."""

_TRIED = 16  # widths on either side


def alignment_note(proposal: Proposal, growths: Mapping[str, Growth], kinds: Iterable[TensorKind]) -> list[str]:
    """A note if the clone, loaded in its storage dtype, has experts whose rows are not aligned."""
    unaligned = {
        axis: kind.dtype
        for kind in kinds
        if _is_expert(kind) and kind.growths[-1].target * ITEM_BYTES[kind.dtype] % ALIGNED_BYTES
        for axis in ("embed", "moe_ffn", "ffn")
        if axis in growths and growths[axis].target == kind.growths[-1].target
    }
    if not unaligned:
        return []
    widths = ", ".join(f"{AXES[axis].what} of {growths[axis].target}" for axis in unaligned)
    dtype = next(name for name, stored in FLOAT_DTYPES.items() if stored in unaligned.values())
    note = (
        f"Experts with {widths} have rows that are no multiple of {ALIGNED_BYTES} bytes in {dtype}; the grouped matrix"
        ' product, transformers\' default, stops there. Load the clone with experts_implementation="eager"'
    )
    options = [_nearest(proposal, axis, growths[axis].target, dtype) for axis in unaligned]
    return [f"{note}, or use {' '.join(options)}." if all(options) and options else f"{note}."]


def _is_expert(kind: TensorKind) -> bool:
    """Whether such a tensor is an expert's matrix, or those of all experts in a dimension of their own."""
    stacked = len(kind.stack) == 3 and len(kind.stored.shape) == 3
    return len(kind.growths) == 2 and (stacked or (kind.experts > 0 and not kind.stack))


def _nearest(proposal: Proposal, axis: str, width: int, dtype: str) -> str:
    """The option that gives the axis the nearest width with aligned rows that the architecture can have, or ""."""
    step = ALIGNED_BYTES // ITEM_BYTES[FLOAT_DTYPES[dtype]]
    size, (option, multiplier) = proposal.sizes[axis], AXES[axis].options
    first = width // step * step
    candidates = sorted((first + step * n for n in range(-_TRIED, _TRIED + 1)), key=lambda w: abs(w - width))
    for candidate in candidates:
        changes: dict[str, float]
        if option:
            changes, typed = {option: candidate, multiplier: 1}, f"{flag(option)} {candidate}"
        else:
            times = float(f"{candidate / size:.6g}")
            changes, typed = {multiplier: times}, f"{flag(multiplier)} {times:g}"
        try:
            if resolve(proposal.changed(**changes))[axis].target == candidate:
                return typed
        except RequestError:
            continue
    return ""
