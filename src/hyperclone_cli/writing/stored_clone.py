"""A clone in an object store: shards are written on this machine, one after another, and uploaded; config.json is last.

An object store renames nothing and appends nothing. So shards have their own names from the beginning, and what keeps
readers from taking them for a model is that there is neither config.json nor an index until all the rest is there. The
journal is an object that is written anew after every shard; ranks have one each, as on a filesystem. An upload that is
cut leaves no object.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.object_store import Objects, StoreUrl
from hyperclone_cli.checkpoint.source import INDEX_NAME, Place
from hyperclone_cli.checkpoint.stored_source import hollow
from hyperclone_cli.errors import HypercloneError, RequestError, StorageError
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.writing.clone_files import PROVENANCE_NAME
from hyperclone_cli.writing.journal import Journal, RunKey, open_journal
from hyperclone_cli.writing.publish import JOURNAL_NAME, mark_of_ranks, marks_of_ranks
from hyperclone_cli.writing.ranks import (
    Rank,
    Standing,
    check_others,
    finished_path,
    read_standing,
    unfinished_path,
)

if TYPE_CHECKING:
    from hyperclone_cli.writing.shard_task import ShardTask, ShardWritten

_CONFIG = "config.json"
_SPARE_BYTES = 64 << 20

Report = Callable[[int], None]
"""Called with the number of bytes just written."""


class StoredClone:
    """The clone that is written to a prefix, by one process or by ranks.

    Raises RequestError if something is there already that is not the unfinished clone of the run `key`.
    """

    def __init__(self, out: StoreUrl) -> None:
        self.out = out
        self._objects = Objects(out)

    def published(self) -> str | None:
        """The digest of the plan of the clone that is there, "" for another model; None if none is.

        A journal that a run left which was killed after it had published is removed.
        """
        found = self._objects.list()
        if _CONFIG not in found:
            return None
        self._objects.delete(name for name in found if name.startswith(JOURNAL_NAME))
        try:
            record = json.loads(bytes(self._objects.read(PROVENANCE_NAME)))
            return str(record["plan_digest"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return ""

    def check_vacant(self, src: Place) -> None:
        """Raise RequestError unless nothing is there but an unfinished clone, and the source is not there either."""
        if (isinstance(src, StoreUrl) and f"{self.out}/".startswith(f"{src}/")) or f"{src}/".startswith(f"{self.out}/"):
            raise RequestError(f"--out {self.out}: is, contains or lies inside --src {src}.", "Choose another prefix.")
        if self.published() is not None:
            raise RequestError(f"--out {self.out}: already exists.", "Choose another prefix, or delete what is there.")
        found = self._objects.list()
        if found and not any(name.startswith(JOURNAL_NAME) for name in found):
            raise RequestError(
                f"--out {self.out}: contains {min(found)!r}, not written by hyperclone.", "Choose another prefix."
            )

    @contextmanager
    def opened(self, key: RunKey, rank: Rank | None, restart: bool = False) -> Iterator[Journal]:
        """A directory of this machine with the journals in it, and this process's own; gone at the end."""
        with tempfile.TemporaryDirectory(prefix="hyperclone-") as temporary, self._named(Path(temporary)):
            directory = Path(temporary)
            if restart:
                self._objects.delete(self._objects.list())
            self._fetch_journals(directory)
            yield self._own_journal(directory, key, rank)

    def write(self, plan: Plan, tasks: Sequence[ShardTask], journal: Journal, report: Report) -> frozenset[str]:
        """Do the tasks of `plan`, and upload each shard; names of the source's non-finite tensors."""
        from hyperclone_cli.writing.shard_task import write_shard

        directory, non_finite, found = journal.directory, journal.non_finite, self._objects.list()
        uploading: list[Future[None]] = []

        def deliver(written: ShardWritten) -> None:
            self._objects.upload(directory / written.shard, written.shard)
            (directory / written.shard).unlink()
            journal.record(written.shard, written.tensors, written.non_finite)
            self._objects.write(journal.path.name, journal.path.read_bytes())

        with ThreadPoolExecutor(1) as thread:
            for task in tasks:
                if task.shard in found and task.done >= {*plan.shards[task.shard]}:
                    report(sum(plan_bytes(plan, task.shard)))
                    continue
                written = write_shard(plan, task, sync=lambda *_: None, report=report)
                non_finite |= written.non_finite
                while uploading:  # two shards are here at most: one that is written, one that is uploaded
                    uploading.pop().result()
                uploading.append(thread.submit(deliver, written))
            while uploading:
                uploading.pop().result()
        return non_finite

    def finish(self, plan: Plan, journal: Journal, key: RunKey, rank: Rank) -> Standing:
        """Note that a rank's share is there, and see how far the others are."""
        directory = journal.directory
        finished = finished_path(directory, rank)
        self._objects.write(finished.name, journal.path.read_bytes())
        if journal.path != finished:
            self._objects.delete([journal.path.name])
        self._fetch_journals(directory)
        standing = read_standing(directory, plan, key, rank)
        if standing.unfinished:
            return standing if _CONFIG not in self._objects.list() else Standing()
        publisher = mark_of_ranks(directory, "publisher").name
        self._objects.create(publisher, str(rank.number).encode())
        try:
            return replace(standing, publisher=int(bytes(self._objects.read(publisher))))
        except FileNotFoundError:  # meanwhile another rank has published the clone
            return Standing()

    def publish(self, plan: Plan, journal: Journal, complete: Callable[[Path], None]) -> None:
        """Hold the shards against the plan, write all other files, config.json last, and remove the journals.

        complete  writes the other files into a directory in which the shards are files without weights, and checks it
        """
        directory, found = journal.directory / "files", self._objects.list()
        directory.mkdir(exist_ok=True)
        for shard in plan.shards:
            if shard not in found:
                raise StorageError(f"{self.out}/{shard}: is gone.", "Run the same command again: it writes it anew.")
            hollow(self._objects, shard, found[shard].nbytes, directory / shard)
        complete(directory)
        names = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
        self._objects.delete(name for name in found if name not in names and not name.startswith(JOURNAL_NAME))
        for name in sorted(names - plan.shards.keys(), key=lambda name: (name == _CONFIG, name == INDEX_NAME, name)):
            self._objects.write(name, (directory / name).read_bytes())
        self._objects.delete(name for name in self._objects.list() if name.startswith(JOURNAL_NAME))

    def discard(self) -> None:
        """Remove everything of the unfinished clone."""
        self._objects.delete(self._objects.list())

    def _fetch_journals(self, directory: Path) -> None:
        for name in self._objects.list():
            if name.startswith(JOURNAL_NAME) and "/" not in name:
                (directory / name).write_bytes(self._objects.read(name))

    def _own_journal(self, directory: Path, key: RunKey, rank: Rank | None) -> Journal:
        alone = directory / JOURNAL_NAME
        if rank is None:
            if marks_of_ranks(directory):
                raise RequestError(
                    f"{self.out}: contains an unfinished clone that several ranks write.",
                    "Run those that have not finished, each with its --rank, or add --restart to discard what they"
                    " have written.",
                )
            path = alone
        elif alone.exists():
            raise RequestError(
                f"{self.out}: contains an unfinished clone that one process writes.",
                "Run the same command without --rank to finish it, or with --restart to discard it.",
            )
        else:
            finished = finished_path(directory, rank)
            path = finished if finished.exists() else unfinished_path(directory, rank)
        path.touch()
        journal = open_journal(path, key)
        if rank is not None:
            check_others(directory, key, rank)
        self._objects.write(path.name, path.read_bytes())
        if rank is not None:  # of two that begin at once, one sees both
            self._fetch_journals(directory)
            check_others(directory, key, rank)
        return journal

    @contextmanager
    def _named(self, directory: Path) -> Iterator[None]:
        """Errors name the prefix, not the temporary directory."""
        try:
            yield
        except HypercloneError as error:
            message, hint = (text.replace(str(directory), str(self.out)) for text in (error.message, error.hint))
            raise type(error)(message, hint) from None
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"Run the same command again: it resumes what is in {self.out}.") from stop
        except OSError as error:
            raise StorageError(
                f"{error.filename or self.out}: {error.strerror or error}.",
                f"Remove the cause and run the same command again: it resumes what is in {self.out}.",
            ) from error


def plan_bytes(plan: Plan, shard: str) -> Iterator[int]:
    """The bytes of each tensor of a shard."""
    names = {*plan.shards[shard]}
    return (tensor.nbytes for tensor in plan.tensors if tensor.name in names)


def check_room(plan: Plan) -> None:
    """Raise StorageError if this machine has no room for two of the shards, which go through its temporary files."""
    largest = max(sum(plan_bytes(plan, shard)) for shard in plan.shards)
    needed = min(2, len(plan.shards)) * largest + _SPARE_BYTES
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if needed > free:
        raise StorageError(
            f"{tempfile.gettempdir()}: shards on their way to the store need {needed:,} bytes, {free:,} are free.",
            "Choose another directory by TMPDIR, or smaller files by --max-shard-size.",
        )
