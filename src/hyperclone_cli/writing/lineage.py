"""The growths that lead from an ancestor to a clone, planned again: its source, its source's source, and so on.

A model between the two need not be there any more, for it can be grown again, see `grown_source`. A plan thereby tells
its lineage: its source is a `GrownSource`, whose plan may have such a source itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.checkpoint.source import GgufSource, Origin, Place, Source
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.growth.depth import ClonedLayer
from hyperclone_cli.growth.request import Dtype
from hyperclone_cli.growth.widths import compose
from hyperclone_cli.hub.download import Access, locate
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.writing.grown_source import GrownSource
from hyperclone_cli.writing.provenance import Expansion, Provenance

if TYPE_CHECKING:
    from hyperclone_cli.checkpoint.row_io import Read

Opener = Callable[[Place, Access, Progress, str | None], Source]
"""Opens the checkpoint at a place; if it is quantised, dequantised to a dtype."""

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Planned:
    """A clone planned again.

    source    the ancestor that it is planned from
    plan      the clone's own; None if no growth of its record is one of `source`
    recorded  whether a growth of the record is one of `source`, by the digest of its plan
    growths   the number of growths from `source` to the clone
    unlike    the model after `source` that the clone's growths cannot have read as it is planned now, as a place; ""
    missing   the clone's recorded source, where it is not there any more and an earlier one was taken; else ""
    """

    source: Source
    plan: Plan | None
    recorded: bool = True
    growths: int = 1
    unlike: str = ""
    missing: str = ""


def plan_again(
    record: Provenance,
    src: str | Path | None,
    access: Access,
    progress: Progress,
    opened: Opener,
    oldest: bool = False,
) -> Planned:
    """The plan of a clone, made again from its nearest ancestor that is there, or the `oldest`, or from `src`.

    Its digest is the recorded one unless the ancestor has changed, or a model between. Of a `src` that is no ancestor
    the plan is that of the clone's own request, if that fits. Raises RequestError, CheckpointError or StorageError.
    """
    number = _ancestor(record, access, oldest) if src is None else 0
    place = record.chain[number].source if src is None else locate(src, access)
    source = opened(place, access, progress, record.chain[number].request.dtype)
    missing = place_name(record.source) if number and not oldest else ""
    first: Plan | None = None
    for which, growth in enumerate(record.chain):
        if isinstance(source, GgufSource) and growth.request.dtype != record.chain[number].request.dtype:
            source = opened(place, access, progress, growth.request.dtype)  # which it is dequantised to
        found = _plan_of(growth, source)
        if found and found.digest == growth.plan_digest:
            plan, unlike = _onwards(found, record.chain[:which])
            return Planned(found.source, plan, True, which + 1, unlike, missing)
        first = first or (found if which == number else None)
    if first is None and src is None:
        make_plan(_as_loaded(record.chain[number], source), record.chain[number].request)  # raises what is wrong
    plan, unlike = _onwards(first, record.chain[:number]) if first else (None, "")
    return Planned(first.source if first else source, plan, False, number + 1, unlike, missing)


def place_name(place: Place) -> str:
    """A recorded source as it is named to users."""
    return place.repo_id if isinstance(place, Origin) else str(place)


def _ancestor(record: Provenance, access: Access, oldest: bool) -> int:
    """The number of the last growth whose source is there, or of the first: as far as is told without the Hub."""
    if access.revision is not None:
        raise RequestError(
            f"--revision {access.revision}: the clone's source is recorded with its revision.",
            "Omit --revision, or name the source with --src too.",
        )
    places = [growth.source for growth in record.chain]
    there = [number for number, place in enumerate(places) if not isinstance(place, Path) or place.exists()]
    if there:
        return there[-1 if oldest else 0]
    raise CheckpointError(f"{record.source}: the clone's recorded source does not exist.", "Name it with --src.")


def _as_loaded(growth: Expansion, source: Source) -> Source:
    return source.as_loaded(growth.ignored, growth.zeros)


def _plan_of(growth: Expansion, source: Source) -> Plan | None:
    """The plan of a recorded growth for some source; None if it cannot be grown so."""
    try:
        return make_plan(_as_loaded(growth, source), growth.request)
    except (CheckpointError, RequestError):
        return None


def _onwards(plan: Plan, later: tuple[Expansion, ...]) -> tuple[Plan | None, str]:
    """The plan after the `later` growths, the last one first, and the first of their sources that was another."""
    unlike = ""
    for growth in reversed(later):
        found = _plan_of(growth, GrownSource.of(plan))
        if not found or found.digest != growth.plan_digest:
            unlike = unlike or place_name(growth.source)
        if not found:
            return None, unlike
        plan = found
    return plan, unlike


def goes_on(plan: Plan, growths: Iterable[Expansion]) -> bool:
    """Whether any of these growths is one of the clone of `plan`."""
    found = ((growth, _plan_of(growth, GrownSource.of(plan))) for growth in growths)
    return any(after is not None and after.digest == growth.plan_digest for growth, after in found)


def plans_to(plan: Plan) -> tuple[Plan, ...]:
    """The plans of all growths from the ancestor that `plan` begins with, the first growth first."""
    before = plans_to(plan.source.plan) if isinstance(plan.source, GrownSource) else ()
    return *before, plan


def as_one(plan: Plan) -> Plan:
    """All growths to a clone as one, for what its hidden states are: its layers, its residual stream, its last norm.

    Its tensors are those of the last growth.
    """
    return reduce(_joined, plans_to(plan))


def _joined(first: Plan, second: Plan) -> Plan:
    layers = tuple(
        ClonedLayer(first.order[layer.source].source, layer.new or first.order[layer.source].new)
        for layer in second.order
    )
    return replace(
        second,
        source=first.source,
        source_family=first.source_family,
        growths={**second.growths, "embed": compose(first.growths["embed"], second.growths["embed"])},
        order=layers,
        dropped=first.dropped,
        head=replace(second.head, factor=first.head.factor * second.head.factor),
    )


def in_dtype(plan: Plan, dtype: Dtype) -> Plan:
    """The same growths with a clone, and all models between, stored in `dtype`."""
    source = plan.source
    if isinstance(source, GrownSource):
        zeros = {tensor.name: tensor.shape[0] for tensor in source.tensors.values() if tensor.zeros}
        source = GrownSource.of(in_dtype(source.plan, dtype)).as_loaded(source.ignored, zeros)
    return make_plan(source, replace(plan.request, dtype=dtype))


def by_request(plan: Plan) -> str:
    """Why a clone does not keep the function of its oldest ancestor, by request of one of its growths, or ""."""
    return next((one.request.by_request for one in plans_to(plan) if not one.request.keeps_function), "")


def weights_digest(plan: Plan, advance: Callable[[int, int], None] = lambda *_: None) -> str:
    """SHA-256 of the weights that a plan reads: their names, dtypes, shapes and bytes, in whichever files they lie.

    Memory: a few blocks. `advance` is called with the bytes just read, and with all of them.
    """
    from hyperclone_cli.writing.block_loop import workers
    from hyperclone_cli.writing.budget import plan_budget

    heights = {tensor.source.name: tensor.growths[0].source for tensor in plan.tensors}
    stored = sorted({one.source.name: one.source for one in plan.tensors}.values(), key=lambda tensor: tensor.name)
    total = sum(tensor.nbytes for tensor in stored)
    whole = hashlib.sha256()
    with plan.source.rows() as read, workers(plan_budget(plan.kinds).threads) as executor:

        def digest(tensor: StoredTensor) -> str:
            return _rows_digest(tensor, heights[tensor.name], read)

        for tensor, found in zip(stored, executor.map(digest, stored), strict=True):
            whole.update(f"{tensor.name} {tensor.dtype} {list(tensor.shape)} {found}\n".encode())
            advance(tensor.nbytes, total)
    return whole.hexdigest()


def _rows_digest(tensor: StoredTensor, height: int, read: Read) -> str:
    """SHA-256 of the rows of a tensor, read block by block."""
    from hyperclone_cli.checkpoint.row_io import as_bytes

    digest = hashlib.sha256()
    step = max(1, _BLOCK_BYTES * height // max(1, tensor.nbytes))
    for start in range(0, height, step):
        digest.update(as_bytes(read(tensor, start, min(start + step, height))))
    return digest.hexdigest()
