"""`expand`: plan, grow and write a clone, into a directory that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from hyperclone_cli import __version__
from hyperclone_cli.checkpoint.checksums import checksums
from hyperclone_cli.checkpoint.object_store import StoreUrl
from hyperclone_cli.checkpoint.quantised.unpack import quantisation
from hyperclone_cli.checkpoint.source import INDEX_NAME, Origin, Place, Source
from hyperclone_cli.checkpoint.training_state import state_note
from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.families import find_family
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.request import Request, Writing
from hyperclone_cli.growth.resolve import resolve
from hyperclone_cli.growth.upcycling import as_mixture
from hyperclone_cli.hub.download import Access, cache_of, locate, open_checkpoint
from hyperclone_cli.hub.remote_headers import open_headers
from hyperclone_cli.planning.planner import Plan, make_plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.writing.budget import plan_budget
from hyperclone_cli.writing.card import command, write_card
from hyperclone_cli.writing.clone_files import CARD_NAME, PROVENANCE_NAME
from hyperclone_cli.writing.integrity import check_written, finiteness_note
from hyperclone_cli.writing.journal import Journal, RunKey
from hyperclone_cli.writing.lineage import weights_digest
from hyperclone_cli.writing.preflight import check_loads
from hyperclone_cli.writing.provenance import earlier_growths, provenance, read_provenance
from hyperclone_cli.writing.publish import (
    check_places,
    new_directory,
    partial_of,
    remove_leftovers,
    remove_stale_journal,
    sync,
    take_place,
)
from hyperclone_cli.writing.ranks import Rank, Standing, finish, joined, rank_of, share_of
from hyperclone_cli.writing.stored_clone import StoredClone, check_room

if TYPE_CHECKING:
    from hyperclone_cli.writing.optimizer_state import GrownOptimizer

_SPARE_BYTES = 64 << 20


def expand(
    src: str | Path,
    out: Path | StoreUrl,
    request: Request,
    writing: Writing | None = None,
    access: Access | None = None,
    progress: Progress | None = None,
    planned: Callable[[Plan], None] | None = None,
) -> Plan:
    """Write the clone of `src` under `request` to the new directory or prefix `out`, and return its plan.

    `src` is a directory, a URL, or the name of a model on the Hub, which is fetched with `access`. It is only read;
    a note of the plan names tensors that contain NaN or Inf. Until the clone is complete, `out` is absent, or the
    clone that was there before. An interrupted run of the same clone is resumed, unless `writing` says otherwise. The
    number of threads and their memory (see `plan_budget`) do not change a byte of the clone.

    `planned` is called with the plan before anything is written.

    Raises RequestError, CheckpointError, or StorageError if the disk is too small or fails, the source changes
    while it is read, another run is writing `out`, or the Hub fails.
    """
    return expand_part(src, out, request, writing, access, progress, planned).plan


@dataclass(frozen=True)
class Written:
    """What a process has written of a clone.

    share     the plan of this rank's shards alone
    standing  how far the ranks are; None where the clone was published before this rank began
    """

    plan: Plan
    rank: Rank | None = None
    share: Plan | None = None
    standing: Standing | None = None

    @property
    def published(self) -> bool:
        """Whether this process published the clone, and so has it in hand."""
        return self.rank is None or (self.standing is not None and self.standing.publisher == self.rank.number)


def expand_part(
    src: str | Path,
    out: Path | StoreUrl,
    request: Request,
    writing: Writing | None = None,
    access: Access | None = None,
    progress: Progress | None = None,
    planned: Callable[[Plan], None] | None = None,
) -> Written:
    """As `expand`, for a process that may be one of several: says what it wrote, and how far the others are."""
    access, writing, progress = access or Access(), writing or Writing(), progress or Progress()
    rank = rank_of(writing, os.environ)
    if rank and writing.restart:
        raise RequestError(
            f"--restart: {rank} cannot discard what the others write.",
            "Leave it out, and remove the unfinished clone before any rank is started.",
        )
    if rank and writing.optimizer:
        raise RequestError(f"--optimizer: one process grows it, and this is {rank}.", "Write the clone by one process.")
    place = locate(src, access)

    def check(config: Mapping[str, Any]) -> None:
        _check_request(config, request)
        if quantisation(config):
            _check_quantised(place, access, request)

    def make(check_room: Callable[[Plan], None]) -> Plan:
        plan = make_plan(open_checkpoint(place, access, progress, request.dtype, check), request)
        check_room(plan)
        progress.step("Checking that transformers accepts the clone")
        return check_loads(plan)

    if isinstance(out, StoreUrl):
        asked = _Asked(src, access, rank, writing, progress)
        return _into_store(place, out, asked, make, planned or (lambda _: None))
    shown, out = out, Path(os.path.abspath(out))
    directory = cache_of(access) if isinstance(place, Origin) else place if isinstance(place, Path) else None
    remove_stale_journal(out)
    check_places(directory, out, writing.overwrite or rank is not None)
    plan = make(lambda plan: check_space(plan, out))
    source = plan.source
    if rank is not None and not writing.overwrite and _is_published(plan, out):
        return Written(plan, rank)
    check_places(directory, out, writing.overwrite)
    optimizer = _plan_optimizer(plan, out) if writing.optimizer else None
    more = [*(optimizer.notes if optimizer else ()), state_note(source.path, writing.optimizer)]
    plan = replace(plan, notes=(*plan.notes, *filter(None, more)))
    if planned:
        planned(plan)
    key = _run_key(plan, src, access, out, optimizer)
    from hyperclone_cli.writing.writer import write_shards

    def write(part: Plan, journal: Journal) -> frozenset[str]:
        budget = plan_budget(part.kinds, writing.threads, writing.max_memory)
        progress.step(f"Writing {shown}", "bytes")
        non_finite = write_shards(part, journal.directory, budget, journal, progress.advance)
        if optimizer:
            from hyperclone_cli.writing.optimizer_state import check_optimizer, copy_training_state, write_optimizer

            progress.step(f"Growing the optimizer of {source.path}", "bytes")
            write_optimizer(optimizer, journal, writing.threads, writing.max_memory, progress.advance)
            check_optimizer(optimizer, journal.directory)
            copy_training_state(source.path, journal.directory)
        _check_unchanged(source, key, optimizer)
        return non_finite

    def complete(partial: Path, non_finite: frozenset[str]) -> None:
        _complete(plan, partial, out, non_finite, writing.checksum, progress, shown)

    if rank is None:
        with _disk_errors(out), new_directory(directory, out, key, writing.overwrite, writing.restart) as journal:
            non_finite = write(plan, journal)
            complete(journal.directory, non_finite)
        notes = (*_resumed(plan, journal), *filter(None, [finiteness_note(non_finite)]))
        return Written(replace(plan, notes=(*plan.notes, *notes)))
    with _disk_errors(out), joined(directory, out, key, rank, writing.overwrite) as journal:
        share = share_of(plan, rank)
        write(share, journal)
        standing = finish(journal, plan, key, rank)
        if standing.publisher == rank.number:
            remove_leftovers(journal.directory, plan.shards)
            complete(journal.directory, standing.non_finite)
            take_place(directory, out, writing.overwrite)
    notes = (*_resumed(share, journal), *filter(None, [finiteness_note(standing.non_finite)]))
    return Written(replace(plan, notes=(*plan.notes, *notes)), rank, share, standing)


@dataclass(frozen=True)
class _Asked:
    """What was asked for beside the request."""

    src: str | Path
    access: Access
    rank: Rank | None
    writing: Writing
    progress: Progress


def _into_store(
    place: Place,
    out: StoreUrl,
    asked: _Asked,
    make: Callable[[Callable[[Plan], None]], Plan],
    planned: Callable[[Plan], None],
) -> Written:
    """Write the clone that `make` plans to a prefix in an object store."""
    writing, rank, progress = asked.writing, asked.rank, asked.progress
    for option in ("overwrite", "checksum", "optimizer"):
        if getattr(writing, option):
            raise RequestError(f"--{option}: not for an --out in an object store.", "Leave it out.")
    clone = StoredClone(out)
    there = clone.published()
    if rank is None or not there:
        clone.check_vacant(place)
    plan = make(check_room)
    if rank is not None and there == plan.digest:
        return Written(plan, rank)
    clone.check_vacant(place)
    planned(plan)
    key = _run_key(plan, asked.src, asked.access, out, None)
    with clone.opened(key, rank, writing.restart) as journal:
        part = share_of(plan, rank) if rank else plan
        budget, nbytes = plan_budget(part.kinds, writing.threads, writing.max_memory), part.nbytes
        progress.step(f"Writing {out}", "bytes")
        try:
            non_finite = clone.write(part, journal, budget, lambda written: progress.advance(written, nbytes))
        except RequestError:
            if rank is None:
                clone.discard()
            raise
        _check_unchanged(plan.source, key, None)
        standing = clone.finish(plan, journal, key, rank) if rank else None
        non_finite = standing.non_finite if standing else non_finite
        if standing is None or standing.publisher == (rank and rank.number):
            clone.publish(
                plan, journal, lambda directory: _complete(plan, directory, None, non_finite, False, progress, out)
            )
    notes = (*plan.notes, *_resumed(part, journal), *filter(None, [finiteness_note(non_finite)]))
    return Written(replace(plan, notes=notes), rank, part if rank else None, standing)


def _complete(
    plan: Plan,
    directory: Path,
    out: Path | None,
    non_finite: frozenset[str],
    checksum: bool,
    progress: Progress,
    shown: object,
) -> None:
    """Write what lies beside the shards into the directory that holds them, and hold the whole against the plan.

    out  where the clone will be; None in an object store
    """
    progress.step(f"Writing config and tokenizer, and syncing {shown}")
    read = ""
    if earlier_growths(plan.source):
        progress.step(f"Hashing the weights of {plan.source.path}, a clone itself", "bytes")
        read = weights_digest(plan, progress.advance)
    _write_files(plan, directory, out, non_finite, checksum, read)
    check_written(plan, directory)


def _is_published(plan: Plan, out: Path) -> bool:
    """Whether the clone of this plan has its place already, as for a rank that is run again after all have finished."""
    record = read_provenance(out)
    return record is not None and record.plan_digest == plan.digest


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError, and add to a KeyboardInterrupt how the run can be resumed."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if not partial_of(out).exists():
            raise  # nothing was written yet, or the clone is complete
        raise KeyboardInterrupt(f"Run the same command again: it resumes what is in {partial_of(out)}.") from stop
    except OSError as error:
        partial = partial_of(out)
        raise StorageError(
            f"{error.filename or partial}: {error.strerror or error}.",
            f"Remove the cause and run the same command again: it resumes what is in {partial}."
            if partial.exists()
            else "Remove the cause, or choose another --out.",
        ) from error


def _plan_optimizer(plan: Plan, out: Path) -> GrownOptimizer:
    from hyperclone_cli.writing.optimizer_state import plan_optimizer

    optimizer = plan_optimizer(plan)
    check_space(plan, out, optimizer.nbytes)
    return optimizer


def _run_key(plan: Plan, src: str | Path, access: Access, out: object, optimizer: GrownOptimizer | None) -> RunKey:
    typed = command(plan.request, str(src), access.revision, str(out)) + (" --optimizer" if optimizer else "")
    which = f"{plan.digest} and its optimizer" if optimizer else plan.digest
    return RunKey(typed, which, _fingerprint(plan.source, optimizer), f"hyperclone {__version__}")


def _fingerprint(source: Source, optimizer: GrownOptimizer | None) -> dict[str, list[int]]:
    return source.fingerprint() | (optimizer.fingerprint() if optimizer else {})


def _check_unchanged(source: Source, key: RunKey, optimizer: GrownOptimizer | None) -> None:
    now = _fingerprint(source, optimizer)
    changed = [name for name, found in key.source.items() if now.get(name) != found]
    if changed:
        raise StorageError(
            f"{source.path}: {changed[0]} changed while it was read.",
            "Run the command again with --restart once the source is complete.",
        )


def _resumed(plan: Plan, journal: Journal) -> list[str]:
    """A note on what an earlier run had written."""
    written = frozenset[str]().union(*journal.done.values())
    done = [tensor for tensor in plan.tensors if tensor.name in written]
    kept = decimal(sum(tensor.nbytes for tensor in done))
    return [f"An earlier run had written {kept} in {len(done)} of {len(plan.tensors)} tensors."] if done else []


def _check_request(config: Mapping[str, Any], request: Request) -> None:
    """Raise RequestError if the config alone rules the request out, before gigabytes are fetched."""
    family = find_family(config, instead=request.family)
    if request.target_params is None:
        resolve(as_mixture(Proposal.of(request, family, config)))


def _check_quantised(place: Place, access: Access, request: Request) -> None:
    """Raise CheckpointError if a model on the Hub is quantised in a way that is not read: its headers tell."""
    with suppress(RequestError):  # of files whose headers cannot be read apart
        open_headers(place, access, Progress(), request.dtype)


def check_space(plan: Plan, out: Path, more: int = 0) -> None:
    """Raise StorageError if the filesystem of `out` has too little space for the clone, and for so many bytes `more`.

    The space of an unfinished clone in `<out>.partial` counts as free: that is resumed, or removed first.
    """
    existing = next(parent for parent in out.parents if parent.exists())
    leftovers = [path for path in partial_of(out).rglob("*") if path.is_file()]
    free = shutil.disk_usage(existing).free + sum(path.stat().st_blocks * 512 for path in leftovers)
    needed = bytes_needed(plan) + more
    if needed > free:
        raise StorageError(
            f"{existing}: the clone needs {needed:,} bytes, {free:,} are free.",
            "Choose another disk for --out, smaller multipliers, or a narrower --dtype.",
        )


def bytes_needed(plan: Plan) -> int:
    """The free space without which a clone is not begun."""
    return plan.nbytes + plan.source.side_file_bytes() + _SPARE_BYTES


def write_checkpoint(plan: Plan, directory: Path, advance: Callable[[int, int], None]) -> None:
    """Write the clone of `plan` into an existing directory, to be read and removed: without card, record or journal."""
    from hyperclone_cli.writing.writer import write_shards

    write_shards(plan, directory, plan_budget(plan.kinds), progress=advance)
    _write_beside_shards(plan, directory)


def _write_beside_shards(plan: Plan, directory: Path) -> None:
    if len(plan.shards) > 1:
        weight_map = {name: shard for shard, names in plan.shards.items() for name in names}
        _write_json(directory / INDEX_NAME, {"metadata": {"total_size": plan.nbytes}, "weight_map": weight_map})
    plan.source.copy_side_files(directory)
    _write_json(directory / "config.json", dict(plan.config))


def _write_files(
    plan: Plan, partial: Path, out: Path | None, non_finite: frozenset[str], checksum: bool, source_sha256: str
) -> None:
    _write_beside_shards(plan, partial)
    write_card(partial, plan)
    files = [path for path in partial.rglob("*") if path.is_file() and not path.name.startswith(".")]
    written = sorted(str(path.relative_to(partial)) for path in files)
    record = provenance(plan, out, source_sha256) | {"files": written}
    record |= {"not_finite": sorted(non_finite)} if non_finite else {}
    record |= {"sha256": checksums(partial, set(written) - {CARD_NAME})} if checksum else {}
    _write_json(partial / PROVENANCE_NAME, record)
    for path in partial.rglob("*"):
        sync(path)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
