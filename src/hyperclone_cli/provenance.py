"""hyperclone.json: what made a clone, so that it can be checked and made again.

It holds no clock time, no host and no absolute path: the same request gives the same bytes, and the
file can be published.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hyperclone_cli import __version__
from hyperclone_cli.config import read_json
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.mixing import Mixing
from hyperclone_cli.planner import Plan
from hyperclone_cli.request import Request

PROVENANCE_NAME = "hyperclone.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Provenance:
    """What a clone recorded: where its source is, what was asked for, and the digest of its plan."""

    source: Path
    request: Request
    plan_digest: str


def provenance(plan: Plan, out: Path) -> dict[str, Any]:
    """The record of a clone that will stand at `out`, but for its files; its source is named relative to that."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": f"hyperclone {__version__}",
        "source": os.path.relpath(plan.source.path.resolve(), out.resolve()),
        "request": asdict(plan.request),
        "plan_digest": plan.digest,
    }


def read_provenance(clone: Path) -> Provenance | None:
    """The record of the clone at `clone`, or None if it has none. Raises CheckpointError for a damaged one."""
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
        source = Path(os.path.normpath(clone.resolve() / record["source"]))
        mixing = record["request"]["mixing"]
        mixing = Mixing(**{**mixing, "uneven_ratio": tuple(mixing["uneven_ratio"])})
        return Provenance(source, Request(**{**record["request"], "mixing": mixing}), record["plan_digest"])
    except (KeyError, TypeError, ValueError, RequestError) as error:
        raise CheckpointError(f"{path}: damaged ({error}).", "Expand the source again.") from None
