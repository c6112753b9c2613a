"""SHA-256 of files, by their names in a directory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def checksums(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """Name → SHA-256 in hexadecimal of each of these files that exists in `directory`."""
    present = [name for name in sorted(names) if (directory / name).is_file()]

    def checksum(name: str) -> str:
        with (directory / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(4) as pool:  # more threads do not read a disk faster
        return dict(zip(present, pool.map(checksum, present), strict=True))


def differences(recorded: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """One message for each file whose SHA-256 differs from the recorded one, or that is missing."""
    return [
        f"file {name}: SHA-256 should be {expected}, found {found.get(name, 'no such file')}"
        for name, expected in recorded.items()
        if found.get(name) != expected
    ]
