"""A directory that appears whole or not at all, and that no two runs write at once.

It is written as `<out>.partial`, where an interrupted run is resumed, and renamed at the end. Only a clone that
hyperclone wrote, and that has not changed since, is ever replaced.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperclone_cli.checkpoint.json_config import read_json
from hyperclone_cli.errors import CheckpointError, HypercloneError, RequestError, StorageError
from hyperclone_cli.writing.clone_files import CARD_NAME, PROVENANCE_NAME, VERIFICATION_NAMES
from hyperclone_cli.writing.journal import Journal, RunKey, open_journal

JOURNAL_NAME = ".hyperclone-partial"
"""The journal, which is also the file that a run locks. Names of what ranks keep beside it begin with it too."""
_ASIDE_MARK = ".replaced-by-hyperclone"
_ELSEWHERE = "Choose another directory."
_AWAY = "Move it away, or choose another directory."


def check_places(src: Path | None, out: Path, overwrite: bool) -> None:
    """Raise RequestError if writing `out` (absolute) could damage the source or anything else that exists.

    src  None if it is on no disk
    """
    if not out.name or out.is_symlink():
        raise RequestError(f"--out {out}: a clone needs a directory of its own, not a link or a root.", _ELSEWHERE)
    source, target = src and src.resolve(), out.resolve()
    for place in (target, partial_of(target), _aside(target), _discarded(target)):
        if source and (place == source or source in place.parents or place in source.parents):
            raise RequestError(
                f"--out {out}: is, contains or lies inside --src {src}.", "Choose a directory beside it."
            )
    holder = next(parent for parent in out.parents if parent.exists())
    if not holder.is_dir():
        raise RequestError(f"--out {out}: {holder} is a file.", _ELSEWHERE)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise RequestError(f"--out {out}: already exists.", "Choose another directory, or add --overwrite.")
    _check_is_clone(out)


def _check_is_clone(out: Path) -> None:
    try:
        files = set(read_json(out / PROVENANCE_NAME)["files"])
    except (CheckpointError, KeyError, TypeError, NotADirectoryError):
        raise RequestError(
            f"--out {out}: exists and is not a clone, so --overwrite will not replace it.", _ELSEWHERE
        ) from None
    own = VERIFICATION_NAMES | {PROVENANCE_NAME, _ASIDE_MARK}
    present = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir() or path.is_symlink()}
    foreign = sorted(name for name in present - files - own if not name.startswith(JOURNAL_NAME))
    if foreign:
        raise RequestError(
            f"--out {out}: contains {foreign[0]!r}, not written by hyperclone, so --overwrite will not replace it.",
            _AWAY,
        )
    finished = (out / PROVENANCE_NAME).stat().st_mtime_ns  # it is written last
    written = (present & files) - {CARD_NAME}  # the card is the user's to edit
    changed = sorted(name for name in written if (out / name).stat().st_mtime_ns > finished)
    if changed:
        raise RequestError(
            f"--out {out}: {changed[0]} is newer than the clone, as if trained since: --overwrite will not replace it.",
            _AWAY,
        )


@contextmanager
def new_directory(
    src: Path | None, out: Path, key: RunKey, overwrite: bool = False, restart: bool = False, begin: bool = True
) -> Iterator[Journal]:
    """Yield the journal of `<out>.partial`; rename that directory to `out` (absolute) if the block raises nothing.

    The directory contains only the journal and the shards that it lists: those that an earlier run with the same
    `key` wrote, none after a `restart`. If the block fails, `out` is unchanged; a RequestError removes the directory,
    and so does any refusal before the journal has begun. Other errors leave it to be resumed.

    begin  whether the journal begins now, or with its first record

    Raises RequestError, also if the directory is of another run, or StorageError if another run is writing it.
    """
    lock = make_partial(out)
    partial = lock.parent
    with locked(lock):
        _recover_overwrite(out)
        try:
            check_places(src, out, overwrite)  # again: another run may have finished first
        except RequestError:
            if not lock.stat().st_size and not marks_of_ranks(partial):
                shutil.rmtree(partial)  # else the directory is the work of an earlier run
            raise
        if marks_of_ranks(partial) and not restart:
            raise RequestError(
                f"{partial}: contains an unfinished clone that several ranks write.",
                "Run those that have not finished, each with its --rank, add --restart to discard what they have"
                " written, or choose another --out.",
            )
        journal = open_journal(lock, key, restart, begin)
        for mark in marks_of_ranks(partial):
            mark.unlink()
        try:
            remove_leftovers(partial, journal.done)
            yield journal
        except HypercloneError as error:
            if isinstance(error, RequestError) or not lock.stat().st_size:
                shutil.rmtree(partial)
            raise
        take_place(src, out, overwrite)


def make_partial(out: Path) -> Path:
    """Make `<out>.partial` unless it is there; returns the file in it that a run locks, which need not exist yet.

    Raises RequestError if something else has that name.
    """
    partial = partial_of(out)
    away = "Move it away, or choose another --out."
    if partial.is_symlink() or (partial.exists() and not partial.is_dir()):
        raise RequestError(f"{partial}: exists and was not written by hyperclone.", away)
    partial.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in partial.iterdir()}
    if names and JOURNAL_NAME not in names:
        raise RequestError(f"{partial}: exists and was not written by hyperclone.", away)
    return partial / JOURNAL_NAME


def mark_of_ranks(partial: Path, name: str) -> Path:
    """A file of that name that ranks keep in an unfinished clone; it is gone once the clone has its place."""
    return partial / f"{JOURNAL_NAME}-{name}"


def marks_of_ranks(directory: Path) -> list[Path]:
    """All such files in a directory."""
    return sorted(directory.glob(f"{JOURNAL_NAME}-*"))


def remove_leftovers(partial: Path, kept: Iterable[str]) -> None:
    """Remove everything from an unfinished clone but files of these names, directories that hold any, and journals."""
    first = {Path(name).parts[0] for name in kept}
    for leftover in partial.iterdir():
        if leftover.name not in first and not leftover.name.startswith(JOURNAL_NAME):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def take_place(src: Path | None, out: Path, overwrite: bool) -> None:
    """Rename the finished `<out>.partial` to `out`, and remove its journals and the clone that it replaces.

    Raises StorageError if something stands at `out` that must not be replaced.
    """
    partial = partial_of(out)
    sync(partial)
    try:
        check_places(src, out, overwrite)  # once more: writing may have taken hours
    except RequestError as error:
        again = f"Then run the same command again: it resumes what is in {partial}."
        raise StorageError(error.message, f"{error.hint} {again}") from None
    try:
        if out.exists():
            (out / _ASIDE_MARK).touch()
            out.rename(_aside(out))
        partial.rename(out)
    except BaseException:  # between the two renames there is no model, not even Ctrl-C may leave that state
        _recover_overwrite(out)
        raise
    _remove_journals(out)  # only now: one is locked, and a waiting run must not find it free
    sync(out.parent)
    _recover_overwrite(out)


def _remove_journals(out: Path) -> None:
    for path in [*marks_of_ranks(out), out / JOURNAL_NAME]:
        path.unlink(missing_ok=True)


def remove_stale_journal(out: Path) -> None:
    """Remove the journal from a finished clone whose run was killed after the rename.

    Raises StorageError if that run is still working.
    """
    journal = out / JOURNAL_NAME
    if journal.exists() and (out / PROVENANCE_NAME).exists():
        with locked(journal):
            _remove_journals(out)


@contextmanager
def locked(path: Path, shared: bool = False, holder: str = "another run") -> Iterator[None]:
    """Hold a lock on a file, which is made if need be: others are kept out, or if it is `shared`, those who are not.

    Raises StorageError, which names the `holder`, if it is held otherwise. Machines that share a filesystem may not
    see each other's locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise BlockingIOError  # a run that has just ended renamed or removed the file
        yield
    except BlockingIOError:
        raise StorageError(f"{path.parent}: {holder} is writing it.", "Wait for it, or choose another --out.") from None
    finally:
        os.close(descriptor)


def _recover_overwrite(out: Path) -> None:
    """Undo an overwrite that was killed between its two renames, or finish one that was killed after them."""
    aside, discarded = _aside(out), _discarded(out)
    if (discarded / _ASIDE_MARK).exists():
        _remove(discarded)
    if not (aside / _ASIDE_MARK).exists():
        return
    if out.exists():
        aside.rename(discarded)  # half removed, it must never be restored
        _remove(discarded)
    else:
        aside.rename(out)
        (out / _ASIDE_MARK).unlink()


def _remove(marked: Path) -> None:
    """Remove a directory and its mark last, so that a part that is left can still be recognised."""
    for path in marked.iterdir():
        if path.name != _ASIDE_MARK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(marked)


def sync(path: Path) -> None:
    """Bring a file's bytes, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_of(out: Path) -> Path:
    """Where the directory `out` is written until it is complete."""
    return out.with_name(out.name + ".partial")


def _aside(out: Path) -> Path:
    """Where the clone that is replaced is kept until the new one has its name."""
    return out.with_name(f".{out.name}{_ASIDE_MARK}")


def _discarded(out: Path) -> Path:
    """Where the replaced clone is while it is removed."""
    return out.with_name(f".{out.name}.discarded-by-hyperclone")
