"""A directory that appears whole or not at all, and that no two runs write at once.

It is written as `<out>.partial`, where a run that was cut goes on, and renamed at the end. Only what hyperclone
wrote is ever replaced, and only if it still is as it was written.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperclone_cli.checkpoint.json_config import read_json
from hyperclone_cli.errors import CheckpointError, RequestError, StorageError
from hyperclone_cli.writing.clone_files import CARD_NAME, PROVENANCE_NAME, VERIFICATION_NAMES
from hyperclone_cli.writing.journal import Journal, Making, open_journal

_JOURNAL_NAME = ".hyperclone-partial"
"""The journal, which is also what a run holds locked."""
_ASIDE_MARK = ".replaced-by-hyperclone"
_ELSEWHERE = "Choose another directory."
_AWAY = "Move it away, or choose another directory."


def check_places(src: Path, out: Path, overwrite: bool) -> None:
    """Refuse an `out` (absolute) that could harm the source or anything else that is already there.

    Raises RequestError.
    """
    if not out.name or out.is_symlink():
        raise RequestError(f"--out {out}: a clone needs a directory of its own, not a link or a root.", _ELSEWHERE)
    source, target = src.resolve(), out.resolve()
    for place in (target, partial_of(target), _aside(target), _discarded(target)):
        if place == source or source in place.parents or place in source.parents:
            raise RequestError(f"--out {out}: is, lies inside or holds --src {src}.", "Choose a directory beside it.")
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
            f"--out {out}: exists and is no clone, so --overwrite will not replace it.", _ELSEWHERE
        ) from None
    own = VERIFICATION_NAMES | {PROVENANCE_NAME, _JOURNAL_NAME, _ASIDE_MARK}
    present = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir() or path.is_symlink()}
    strangers = sorted(present - files - own)
    if strangers:
        raise RequestError(
            f"--out {out}: holds {strangers[0]!r}, which hyperclone did not write, so --overwrite will not replace it.",
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
    src: Path, out: Path, making: Making, overwrite: bool = False, restart: bool = False
) -> Iterator[Journal]:
    """The journal of `<out>.partial`, which becomes `out` (absolute) if the block ends without an error.

    Nothing else is there but the shards that the journal names: those that an earlier run for `making` left, none
    after a `restart`. If the block fails, `out` is as it was; a request that turns out to be impossible leaves
    nothing, other failures leave what was written.
    Raises RequestError, also if the directory is for something else, or StorageError if another run is at it.
    """
    partial = partial_of(out)
    lock = partial / _JOURNAL_NAME
    strange = partial.is_symlink() or (partial.exists() and not partial.is_dir())
    if strange or (partial.exists() and not lock.exists() and any(partial.iterdir())):
        raise RequestError(f"{partial}: exists and is not ours.", "Move it away, or choose another --out.")
    partial.mkdir(parents=True, exist_ok=True)
    with _locked(lock):
        _settle_overwrite(out)
        try:
            check_places(src, out, overwrite)  # again: another run may have come first
        except RequestError:
            if not lock.stat().st_size:  # else it is what an earlier run has written
                shutil.rmtree(partial)
            raise
        journal = open_journal(lock, making, restart)
        try:
            for leftover in partial.iterdir():
                if leftover != lock and leftover.name not in journal.done:
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield journal
        except RequestError:
            shutil.rmtree(partial)
            raise
        sync(partial)
        try:
            check_places(src, out, overwrite)  # once more: it may have taken hours to come here
        except RequestError as error:
            again = f"Run the same command again after that: it goes on with what is in {partial}."
            raise StorageError(error.message, f"{error.hint} {again}") from None
        try:
            if out.exists():
                (out / _ASIDE_MARK).touch()
                out.rename(_aside(out))
            partial.rename(out)
        except BaseException:  # between the two renames there is no model: not even Ctrl-C may leave it so
            _settle_overwrite(out)
            raise
        (out / _JOURNAL_NAME).unlink()  # only now: whoever waits for the old path must not find it free
        sync(out.parent)
        _settle_overwrite(out)


def settle_published(out: Path) -> None:
    """Take away the journal of a clone whose run was killed when it was published already, and only that.

    Raises StorageError if that run is still at it.
    """
    journal = out / _JOURNAL_NAME
    if journal.exists() and (out / PROVENANCE_NAME).exists():
        with _locked(journal):
            journal.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise BlockingIOError  # a run that has just ended took this lock along
        yield
    except BlockingIOError:
        raise StorageError(
            f"{path.parent}: another run is writing it.", "Wait for it, or choose another --out."
        ) from None
    finally:
        os.close(descriptor)


def _settle_overwrite(out: Path) -> None:
    """Undo the two renames of an overwrite that was killed between them, or finish one killed after them."""
    aside, discarded = _aside(out), _discarded(out)
    if (discarded / _ASIDE_MARK).exists():
        _remove(discarded)
    if not (aside / _ASIDE_MARK).exists():
        return
    if out.exists():
        aside.rename(discarded)  # half removed, it must not be taken for a model that could be put back
        _remove(discarded)
    else:
        aside.rename(out)
        (out / _ASIDE_MARK).unlink()


def _remove(marked: Path) -> None:
    """Remove a directory, and its mark last: whatever is left of it can still be told to be ours."""
    for path in marked.iterdir():
        if path.name != _ASIDE_MARK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(marked)


def sync(path: Path) -> None:
    """Have the system write a file's bytes, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_of(out: Path) -> Path:
    """Where the directory `out` is written before it is whole."""
    return out.with_name(out.name + ".partial")


def _aside(out: Path) -> Path:
    """Where the clone that is replaced waits until the new one has its name."""
    return out.with_name(f".{out.name}{_ASIDE_MARK}")


def _discarded(out: Path) -> Path:
    """Where it is removed after that."""
    return out.with_name(f".{out.name}.discarded-by-hyperclone")
