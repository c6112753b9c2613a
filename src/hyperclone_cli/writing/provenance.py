"""hyperclone.json: how a clone was made, so that it can be verified and made again.

It contains no clock time, no host and no absolute path, so that the same request gives the same bytes and the file
can be published.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from hyperclone_cli import __version__
from hyperclone_cli.checkpoint.json_config import read_json
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.checkpoint.source import Origin, Source
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families.wrapper import Wrapping
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.hub.download import Access, locate
from hyperclone_cli.planning.planner import Plan, make_plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.writing.clone_files import PROVENANCE_NAME

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Provenance:
    """The record of a clone: its source, the request, the digest of its plan, the files that were written.

    sha256  file → SHA-256; empty if `expand` was not asked for it
    ignored, zeros  what `Source.as_loaded` was given
    """

    source: Path | Origin
    request: Request
    plan_digest: str
    files: tuple[str, ...]
    sha256: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    zeros: Mapping[str, int] = field(default_factory=dict)


def provenance(plan: Plan, out: Path) -> dict[str, Any]:
    """The record of a clone that will be at `out`, except its files.

    The source is a path relative to `out`, or a name and commit on the Hub.
    """
    origin = plan.source.origin
    zeros = {tensor.name: tensor.shape[0] for tensor in plan.source.tensors.values() if tensor.zeros}
    ignored = plan.source.ignored
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": f"hyperclone {__version__}",
        "source": asdict(origin) if origin else os.path.relpath(_resolved(plan.source.path), out.resolve()),
        "request": plan.request.recorded(),
        **({} if plan.request.keeps_function else {"function_preserving": False}),
        "plan_digest": plan.digest,
        **({"wrapper": _wrapper(plan.source_family.wrapping, plan.request)} if plan.source_family.wrapping else {}),
        **({"ignored": list(ignored)} if ignored else {}),
        **({"zeros": zeros} if zeros else {}),
    }


def _wrapper(wrapping: Wrapping, request: Request) -> dict[str, Any]:
    """What a wrapper is around, and the towers that were left as they are, or left out."""
    found = {"model_type": wrapping.wrapper.model_type, "text_model": wrapping.text.model_type}
    return {**found, "left out" if request.text_only else "kept": list(wrapping.towers)}


def _resolved(path: Path) -> Path:
    """`path` without symbolic links, but with its last name: the Hub's cache links files to names without suffix."""
    return path.resolve() if path.is_dir() else path.parent.resolve() / path.name


def read_provenance(clone: Path) -> Provenance | None:
    """The record of the clone at `clone`, or None if it has none. Raises CheckpointError if the record is damaged."""
    path = clone / PROVENANCE_NAME
    if not path.exists():
        return None
    record = read_json(path)
    if record.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path}: expected schema_version {SCHEMA_VERSION}, found {record.get('schema_version')!r}.",
            "Use the version of hyperclone that wrote it.",
        )
    try:
        named = record["source"]
        source = Origin(**named) if isinstance(named, dict) else Path(os.path.normpath(clone.resolve() / named))
        mixing = record["request"]["mixing"]
        mixing = Mixing(**{**mixing, "uneven_ratio": tuple(mixing["uneven_ratio"])})
        request = Request(**{**record["request"], "mixing": mixing})
        files, sha256 = record["files"], record.get("sha256", {})
        if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
            raise TypeError(f"files should be a list of names, found {files!r}")
        if not isinstance(sha256, dict) or not all(isinstance(digest, str) for digest in sha256.values()):
            raise TypeError(f"sha256 should be digests by name, found {sha256!r}")
        ignored, zeros = record.get("ignored", []), record.get("zeros", {})
        if not isinstance(ignored, list) or not all(isinstance(name, str) for name in ignored):
            raise TypeError(f"ignored should be a list of names, found {ignored!r}")
        if not isinstance(zeros, dict) or not all(type(length) is int for length in zeros.values()):
            raise TypeError(f"zeros should be lengths by name, found {zeros!r}")
        outside = [name for name in (*files, *sha256) if _is_outside(name)]
        if outside:
            raise ValueError(f"file {outside[0]!r} is not inside the clone")
        return Provenance(source, request, record["plan_digest"], tuple(files), sha256, tuple(ignored), zeros)
    except (KeyError, TypeError, ValueError, RequestError) as error:
        raise CheckpointError(f"{path}: damaged ({error}).", "Expand the source again.") from None


def _is_outside(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def recorded_source(record: Provenance, access: Access) -> Path | Origin:
    """The place of the source of a clone.

    Raises CheckpointError if that is a path which does not exist, RequestError if `access` names a revision.
    """
    if access.revision is not None:
        raise RequestError(
            f"--revision {access.revision}: the clone's source is recorded with its revision.",
            "Omit --revision, or name the source with --src too.",
        )
    if isinstance(record.source, Path) and not record.source.exists():
        raise CheckpointError(f"{record.source}: the clone's recorded source does not exist.", "Name it with --src.")
    return record.source


Opener = Callable[[Path | Origin, Access, Progress, str | None], Source]
"""Opens the checkpoint at a place; if it is quantised, dequantised to a dtype."""


def plan_again(record: Provenance, src: str | Path | None, access: Access, progress: Progress, opened: Opener) -> Plan:
    """The plan of a clone, made again from its recorded source, or from `src`.

    Its digest is the recorded one unless the source has changed. Raises RequestError, CheckpointError or StorageError.
    """
    place = recorded_source(record, access) if src is None else locate(src, access)
    source = opened(place, access, progress, record.request.dtype)
    return make_plan(source.as_loaded(record.ignored, record.zeros), record.request)


def check_clone(clone: Path) -> None:
    """Raise CheckpointError unless `clone` is a complete clone with all files of its record.

    Raises RequestError if there is no such directory.
    """
    if not clone.is_dir():
        raise RequestError(f"{clone}: no such directory.", "Name the directory that `hyperclone expand` wrote.")
    record = read_provenance(clone)
    if record is None:
        raise CheckpointError(
            f"{clone}: no {PROVENANCE_NAME}, so this is not a finished clone.",
            "Name the directory that `hyperclone expand` wrote; use `hf upload` for anything else.",
        )
    absent = [name for name in record.files if not (clone / name).is_file()]
    if absent:
        raise CheckpointError(f"{clone / absent[0]}: missing; the clone was written with it.", "Expand again.")
    open_source(clone)
