"""What an unfinished clone already has on disk, so that the next run need not write it again.

A file of lines, each one JSON object: first what is being made, then tensors that are safely on disk, and those of
the source that were found to hold NaN or Inf. Whoever is killed while appending leaves half a line, which counts as
none: its tensors are written again.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hyperclone_cli.errors import RequestError

_BEGINNING: Mapping[str, type] = {"command": str, "plan": str, "source": dict, "tool": str}
_RECORD: Mapping[str, type] = {"shard": str, "tensors": list, "not_finite": list}
_CHOICES = "Add --restart to discard it, or choose another --out."


@dataclass(frozen=True)
class Making:
    """What is being made. The plan and the source decide every byte of it, for one version of the tool.

    command  how it is asked for, for a person to read
    plan     the plan's digest
    source   file of weights → [bytes, time of its last change in nanoseconds]
    tool     name and version
    """

    command: str
    plan: str
    source: Mapping[str, list[int]]
    tool: str


@dataclass(frozen=True)
class Journal:
    """The file at `path`, and what it held when it was opened.

    done        shard → tensors that are safely on disk
    non_finite  the source's tensors that were found to hold NaN or Inf
    """

    path: Path
    done: Mapping[str, frozenset[str]]
    non_finite: frozenset[str]

    @property
    def directory(self) -> Path:
        """Where the unfinished clone is."""
        return self.path.parent

    def record(self, shard: str, tensors: Iterable[str], non_finite: Iterable[str] = ()) -> None:
        """Add tensors whose bytes are on disk already. Raises OSError if the disk fails."""
        _append(self.path, {"shard": shard, "tensors": list(tensors), "not_finite": sorted(non_finite)})


def open_journal(path: Path, making: Making, restart: bool = False) -> Journal:
    """The journal of `making` at `path`, an existing file; begun there if that is empty, or on `restart`.

    Raises RequestError, and changes nothing, if something else is being made there.
    """
    lines, whole_bytes = ([], 0) if restart else _read(path)
    if lines:
        _check_same(path.parent, Making(**lines[0]), making)
    os.truncate(path, whole_bytes)
    if not lines:
        _append(path, asdict(making))
    done = defaultdict(set)
    for line in lines[1:]:
        done[line["shard"]].update(line["tensors"])
    non_finite = frozenset(name for line in lines[1:] for name in line["not_finite"])
    return Journal(path, {shard: frozenset(tensors) for shard, tensors in done.items()}, non_finite)


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """(the lines that can be trusted, how many bytes they take): all before the first that is damaged."""
    lines: list[dict[str, Any]] = []
    whole_bytes = 0
    for raw in path.read_bytes().splitlines(keepends=True):
        try:
            line = json.loads(raw)
        except ValueError:
            break
        if not raw.endswith(b"\n") or not _is_whole(line, _RECORD if lines else _BEGINNING):
            break
        lines.append(line)
        whole_bytes += len(raw)
    return lines, whole_bytes


def _is_whole(line: Any, kinds: Mapping[str, type]) -> bool:
    return (
        isinstance(line, dict)
        and line.keys() == kinds.keys()
        and all(isinstance(line[key], kind) for key, kind in kinds.items())
        and all(isinstance(name, str) for key, kind in kinds.items() if kind is list for name in line[key])
    )


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _check_same(partial: Path, begun: Making, making: Making) -> None:
    if begun.plan != making.plan:
        raise RequestError(
            f"{partial}: an unfinished clone of another request.\n"
            f"  unfinished: {begun.command}\n  asked for:  {making.command}",
            "Run the unfinished command again, add --restart to discard it, or choose another --out.",
        )
    if begun.source != making.source:
        changed = [name for name, found in making.source.items() if begun.source.get(name) != found]
        raise RequestError(
            f"{partial}: an unfinished clone of a source that has changed since: {(changed or [*begun.source])[0]}.",
            _CHOICES,
        )
    if begun.tool != making.tool:
        raise RequestError(f"{partial}: an unfinished clone by {begun.tool}, this is {making.tool}.", _CHOICES)
