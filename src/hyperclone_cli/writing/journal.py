"""The resume record: what an unfinished clone already has on disk, so that the next run need not write it again.

A file of lines, each a JSON object. The first is the run key; each of the others lists tensors of a shard that are
on the disk, and tensors of the source in which NaN or Inf was found. A process that is killed while it appends leaves
half a line, which is ignored: the tensors of that line are written again.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from hyperclone_cli.checkpoint.source import Fingerprint
from hyperclone_cli.errors import RequestError

_KEY_FIELDS: Mapping[str, type] = {"command": str, "plan": str, "source": dict, "tool": str}
_RECORD_FIELDS: Mapping[str, type] = {"shard": str, "tensors": list, "not_finite": list}
_CHOICES = "Add --restart to discard it, or choose another --out."


@dataclass(frozen=True)
class RunKey:
    """What identifies a run: runs with the same plan, source and tool write the same bytes.

    command  the command line, to be shown to the user
    plan     the plan's digest
    source   the state of the files of weights
    tool     name and version
    """

    command: str
    plan: str
    source: Fingerprint
    tool: str


@dataclass(frozen=True)
class Journal:
    """The file at `path`, and its contents when it was opened.

    done        shard → tensors that are on the disk
    non_finite  tensors of the source in which NaN or Inf was found
    """

    path: Path
    done: Mapping[str, frozenset[str]]
    non_finite: frozenset[str]
    _key: RunKey
    _lock: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)

    @property
    def directory(self) -> Path:
        """Where the unfinished clone is."""
        return self.path.parent

    def record(self, shard: str, tensors: Iterable[str], non_finite: Iterable[str] = ()) -> None:
        """Add tensors whose bytes are already on the disk. Several threads may do so. Raises OSError if it fails."""
        if named := list(tensors):
            with self._lock:
                _begin(self.path, self._key)
                _append(self.path, {"shard": shard, "tensors": named, "not_finite": sorted(non_finite)})


def open_journal(path: Path, key: RunKey, restart: bool = False, begin: bool = True) -> Journal:
    """Open the journal of the run `key` at `path`, an existing file; begin it if that is empty, or on `restart`.

    begin  whether it begins now, or with the first record: before, it is nobody's, and whoever comes next empties it

    Raises RequestError, and changes nothing, if the file is the journal of another run.
    """
    lines, valid_bytes = ([], 0) if restart else _read(path)
    if lines:
        _check_same(path.parent, RunKey(**lines[0]), key)
    os.truncate(path, valid_bytes)
    if begin:
        _begin(path, key)
    return _journal(path, lines, key)


def _begin(path: Path, key: RunKey) -> None:
    if not path.stat().st_size:
        _append(path, asdict(key))


def read_journal(path: Path, key: RunKey) -> Journal:
    """What another process of the run `key` has noted so far in its journal, which is left as it is.

    Raises RequestError if the file is the journal of another run, FileNotFoundError if there is none.
    """
    lines, _ = _read(path)
    if lines:
        _check_same(path.parent, RunKey(**lines[0]), key)
    return _journal(path, lines, key)


def _journal(path: Path, lines: Sequence[Mapping[str, Any]], key: RunKey) -> Journal:
    done = defaultdict(set)
    for line in lines[1:]:
        done[line["shard"]].update(line["tensors"])
    non_finite = frozenset(name for line in lines[1:] for name in line["not_finite"])
    return Journal(path, {shard: frozenset(tensors) for shard, tensors in done.items()}, non_finite, key)


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """All lines before the first damaged one, and how many bytes they take."""
    lines: list[dict[str, Any]] = []
    valid_bytes = 0
    for raw in path.read_bytes().splitlines(keepends=True):
        try:
            line = json.loads(raw)
        except ValueError:
            break
        if not raw.endswith(b"\n") or not _is_valid(line, _RECORD_FIELDS if lines else _KEY_FIELDS):
            break
        lines.append(line)
        valid_bytes += len(raw)
    return lines, valid_bytes


def _is_valid(line: Any, fields: Mapping[str, type]) -> bool:
    return (
        isinstance(line, dict)
        and line.keys() == fields.keys()
        and all(isinstance(line[field], kind) for field, kind in fields.items())
        and all(isinstance(name, str) for field, kind in fields.items() if kind is list for name in line[field])
    )


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _check_same(partial: Path, begun: RunKey, key: RunKey) -> None:
    if begun.plan != key.plan:
        raise RequestError(
            f"{partial}: contains an unfinished clone of another request.\n"
            f"  unfinished: {begun.command}\n  asked for:  {key.command}",
            "Run the unfinished command again, add --restart to discard it, or choose another --out.",
        )
    if begun.source != key.source:
        changed = [name for name, found in key.source.items() if begun.source.get(name) != found]
        raise RequestError(
            f"{partial}: contains an unfinished clone of a source that has changed since:"
            f" {(changed or [*begun.source])[0]}.",
            _CHOICES,
        )
    if begun.tool != key.tool:
        raise RequestError(f"{partial}: contains an unfinished clone by {begun.tool}, this is {key.tool}.", _CHOICES)
