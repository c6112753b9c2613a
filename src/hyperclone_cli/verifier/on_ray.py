"""What a verification reads of a clone's files, done by a Ray cluster: a task for each file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hyperclone_cli.checkpoint.checksums import checksums
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.checkpoint.source import Fingerprint, Source
from hyperclone_cli.errors import HypercloneError, StorageError
from hyperclone_cli.hub.download import Access, open_checkpoint
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.verifier.report import WeightFigures
from hyperclone_cli.verifier.weights import compare_tensors, misplaced
from hyperclone_cli.writing.budget import Budget, plan_budget
from hyperclone_cli.writing.lineage import plan_again, plans_to
from hyperclone_cli.writing.on_ray import place_for_workers
from hyperclone_cli.writing.provenance import read_provenance
from hyperclone_cli.writing.ray_cluster import Do

_SAME = "Choose filesystems that all nodes of the cluster have under the same paths, and install one version on all."


@dataclass(frozen=True)
class Comparison:
    """What a worker is told: where clone and source are, and what the driver sees there."""

    clone: Path
    source: str | Path
    plan_digest: str
    files: tuple[Fingerprint, Fingerprint]
    budget: Budget


def hash_on_ray(clone: Path, names: Iterable[str], do: Do) -> dict[str, str]:
    """Name → SHA-256 of these files of a clone. Raises StorageError if a worker does not see one."""
    clone = clone.absolute()
    sizes = {name: (clone / name).stat().st_size for name in names}
    tasks = sorted(sizes, key=lambda name: -sizes[name])
    found = dict(result for _, result in do(partial(_hash, clone, sizes), tasks, 1, 0))
    return {name: found[name] for name in sorted(found)}


def _hash(clone: Path, sizes: Mapping[str, int], name: str) -> Iterator[tuple[str, str]]:
    path = clone / name
    if not path.is_file() or path.stat().st_size != sizes[name]:
        raise StorageError(f"{path}: this worker does not see the file that is to be hashed.", _SAME)
    yield from checksums(clone, [name]).items()


def compare_on_ray(plan: Plan, checkpoint: Source, do: Do, advance: Callable[[int, int], None]) -> WeightFigures:
    """As `compare_weights`. Raises StorageError if a worker sees another source or another clone."""
    bad, by_file = misplaced(plan, checkpoint), defaultdict[Path, list[str]](list)
    for tensor in plan.tensors:
        if tensor.name not in bad:
            by_file[checkpoint.tensors[tensor.name].path].append(tensor.name)
    elements = sum(plan.named[name].elements for names in by_file.values() for name in names)
    source, budget = plans_to(plan)[0].source, plan_budget(plan.kinds, 1)
    seen = source.fingerprint(), checkpoint.fingerprint()
    place = place_for_workers(source)
    named = place if isinstance(place, Path) else str(place)
    told = Comparison(checkpoint.path.absolute(), named, plan.digest, seen, budget)
    total = WeightFigures(0, 0, 0.0, "", bad)
    for _, found in do(partial(compare_as_told, told), map(tuple, by_file.values()), budget.threads, budget.nbytes):
        advance(found.elements, elements)
        total = _together(total, found)
    return total


def compare_as_told(told: Comparison, names: tuple[str, ...]) -> Iterator[WeightFigures]:
    """What a worker does: plan again, and compare the tensors of one file.

    Raises StorageError if this machine sees something else than the driver.
    """
    try:
        record, checkpoint = read_provenance(told.clone), open_source(told.clone)
        plan = plan_again(record, told.source, Access(), Progress(), open_checkpoint).plan if record else None
    except HypercloneError as error:
        raise StorageError(error.message, _SAME) from error
    seen = plan and (plans_to(plan)[0].source.fingerprint(), checkpoint.fingerprint())
    if plan is None or (plan.digest, seen) != (told.plan_digest, told.files):
        raise StorageError(f"{told.clone}: this worker sees another clone, or another source, than the driver.", _SAME)
    yield compare_tensors(plan, checkpoint, [plan.named[name] for name in names], told.budget)


def _together(one: WeightFigures, other: WeightFigures) -> WeightFigures:
    worst = max(one, other, key=lambda figures: (figures.worst, figures.worst_tensor))
    return replace(
        worst,
        tensors=one.tensors + other.tensors,
        elements=one.elements + other.elements,
        bad=one.bad | other.bad,
        not_finite=tuple(sorted({*one.not_finite, *other.not_finite})),
    )
