"""Which files of a source may be read: regular ones inside it, or inside the Hub cache that it is a snapshot of.

A source may come from anybody. A link in it that leads to a private file of this machine would have that file copied
into the clone and published with it; a pipe would never end; a device is as long as it likes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from hyperclone_cli.errors import CheckpointError

MOST_BYTES = 1 << 28
"""Bytes that a file beside the weights may have. The largest tokenizers have some 40 million."""

_KINDS = {
    stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


def check_entries(directory: Path, patterns: Iterable[str], whole: Iterable[str] = ()) -> None:
    """Raise CheckpointError for the first entry of a directory that could be read, and must not be.

    patterns  globs, relative to `directory`, of all that is ever read from it or copied
    whole     globs of those that are read as a whole, and so may have MOST_BYTES

    Directories are left alone unless they are links. Reads no file.
    """
    for pattern in patterns:
        for path in sorted(directory.glob(pattern)):
            held = path.parent if path.parent != directory else path
            if held.is_symlink() and held.is_dir():
                raise _refusal(held, f"a link to the directory {held.resolve()}")
            if path.is_symlink() or not path.is_dir():
                regular_file(path, directory)
    for pattern in whole:
        for path in sorted(directory.glob(pattern)):
            check_length(path)


def regular_file(path: Path, directory: Path) -> Path:
    """The place, without links, of a file that lies inside the source `directory` or the Hub cache around it.

    Raises CheckpointError for links that lead elsewhere or nowhere, directories, pipes, sockets and devices.
    """
    try:
        place = path.resolve(strict=True)
        kind = stat.S_IFMT(place.stat().st_mode)
    except (OSError, RuntimeError):  # RuntimeError: links that lead to each other
        found = f"a link to {os.readlink(path)}, where nothing is" if path.is_symlink() else "nothing that can be read"
        raise _refusal(path, found) from None
    if not any(root in place.parents for root in _roots(directory)):
        raise _refusal(path, f"a link to {place}, outside the checkpoint")
    if kind != stat.S_IFREG:
        raise _refusal(path, _KINDS.get(kind, "a special file"))
    return place


def check_length(path: Path, most: int = MOST_BYTES) -> None:
    """Raise CheckpointError for a file of more than `most` bytes."""
    found = path.stat().st_size if path.is_file() else 0
    if found > most:
        raise CheckpointError(
            f"{path}: {found:,} bytes, more than the {most:,} that a file beside the weights may have.",
            "Move it out of the checkpoint.",
        )


def read_file(path: Path, directory: Path) -> bytes:
    """The contents of a file of the source `directory`, held to the same rules at the moment when it is opened."""
    place = regular_file(path, directory)
    check_length(place)
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _refusal(path, "something else than a moment ago")
        return file.read(MOST_BYTES)


def _roots(directory: Path) -> list[Path]:
    """Directories, without links, inside which a source's files lie: its own, and the blobs of its snapshot's cache."""
    own = directory.resolve()
    caches = [
        snapshots.parent / "blobs"
        for snapshots in own.parents
        if snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--")
    ]
    return [own, *(blobs for blobs in caches if not blobs.is_symlink())]


def _refusal(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: expected a file, found {found}.",
        "Only files inside the checkpoint are read and copied. If you trust it, put the file itself there"
        " (`cp --remove-destination FILE PLACE`); else move the entry away.",
    )
