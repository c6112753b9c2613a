"""hyperclone.json: how a clone was made, so that it can be verified and made again.

It contains no clock time, no host and no absolute path, so that the same request gives the same bytes and the file
can be published.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from hyperclone_cli import __version__
from hyperclone_cli.checkpoint.json_config import read_json
from hyperclone_cli.checkpoint.object_store import StoreUrl
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.checkpoint.source import Origin, Place, Source
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families.wrapper import Wrapping
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.writing.clone_files import PROVENANCE_NAME

SCHEMA_VERSION = 1

_MOST_GROWTHS = 100
"""That are taken over from a source's record, which is not trusted."""


@dataclass(frozen=True)
class Expansion:
    """One growth: of which source, by which request, and the digest of its plan.

    ignored, zeros  what `Source.as_loaded` was given
    source_sha256   of the source's weights as they were read, see `lineage.weights_digest`, if it was a clone; else ""
    """

    source: Place
    request: Request
    plan_digest: str
    ignored: tuple[str, ...] = ()
    zeros: Mapping[str, int] = field(default_factory=dict)
    source_sha256: str = ""


@dataclass(frozen=True)
class Provenance(Expansion):
    """The record of a clone: its own growth, those that made its source, and the files that were written.

    lineage  the growths that made its source, if that was a clone itself, the last one first
    sha256   file → SHA-256; empty if `expand` was not asked for it
    """

    lineage: tuple[Expansion, ...] = ()
    files: tuple[str, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def chain(self) -> tuple[Expansion, ...]:
        """All growths, the last one first: its own, then those of `lineage`."""
        return self, *self.lineage


def provenance(plan: Plan, out: Path | None, source_sha256: str = "") -> dict[str, Any]:
    """The record of a clone that will be at `out`, except its files; None: in an object store.

    Sources are paths relative to `out`, names and commits on the Hub, or URLs. From an object store no path leads to a
    disk: there a source is named as if it lay beside the clone.
    """
    source, stored = plan.source, out is None
    out = out or Path("/clone")
    place = source.place
    if isinstance(place, Path):
        place = out.with_name(place.name) if stored else _resolved(place)
    own = growth_of(plan, place, source_sha256)
    earlier = earlier_growths(source)
    if stored or not isinstance(place, Path):  # paths of whoever made it mean nothing here
        earlier = tuple(
            replace(one, source=out.resolve() / one.source.name) if isinstance(one.source, Path) else one
            for one in earlier
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": f"hyperclone {__version__}",
        **_recorded(own, out),
        **({} if plan.request.keeps_function else {"function_preserving": False}),
        **({"wrapper": _wrapper(plan.source_family.wrapping, plan.request)} if plan.source_family.wrapping else {}),
        **({"mixture": _mixture(plan)} if plan.proposal.upcycling else {}),
        **({"lineage": [_recorded(one, out) for one in earlier]} if earlier else {}),
    }


def growth_of(plan: Plan, place: Place, source_sha256: str = "") -> Expansion:
    """All by which a plan can be made again, of the source at `place`."""
    source = plan.source
    zeros = {tensor.name: tensor.shape[0] for tensor in source.tensors.values() if tensor.zeros}
    return Expansion(place, plan.request, plan.digest, source.ignored, zeros, source_sha256)


def _mixture(plan: Plan) -> dict[str, str]:
    """What a dense source is, and the mixture that the clone is."""
    return {"dense": plan.source_family.model_type, "mixture": plan.family.model_type}


def earlier_growths(source: Source) -> tuple[Expansion, ...]:
    """The growths that made a source, if it is a clone with a record that can be read, the last one first."""
    try:
        record = read_provenance(source.path) if source.path.is_dir() else None
    except CheckpointError:  # of whoever made the source, whose weights are none the worse
        return ()
    return record.chain[:_MOST_GROWTHS] if record else ()


def _recorded(growth: Expansion, out: Path) -> dict[str, Any]:
    """A growth as JSON in the record of a clone at `out`."""
    source = growth.source
    return {
        "source": os.path.relpath(source, out.resolve()) if isinstance(source, Path) else asdict(source),
        "request": growth.request.recorded(),
        "plan_digest": growth.plan_digest,
        **({"source_sha256": growth.source_sha256} if growth.source_sha256 else {}),
        **({"ignored": list(growth.ignored)} if growth.ignored else {}),
        **({"zeros": dict(growth.zeros)} if growth.zeros else {}),
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
        own, lineage = _growth(record, clone), record.get("lineage", [])
        if not isinstance(lineage, list) or not all(isinstance(one, dict) for one in lineage):
            raise TypeError(f"lineage should be a list of growths, found {lineage!r}")
        files, sha256 = record["files"], record.get("sha256", {})
        if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
            raise TypeError(f"files should be a list of names, found {files!r}")
        if not isinstance(sha256, dict) or not all(isinstance(digest, str) for digest in sha256.values()):
            raise TypeError(f"sha256 should be digests by name, found {sha256!r}")
        outside = [name for name in (*files, *sha256) if _is_outside(name)]
        if outside:
            raise ValueError(f"file {outside[0]!r} is not inside the clone")
        earlier = tuple(_growth(one, clone) for one in lineage)
        return Provenance(**vars(own), lineage=earlier, files=tuple(files), sha256=sha256)
    except (KeyError, TypeError, ValueError, RequestError) as error:
        raise CheckpointError(f"{path}: damaged ({error}).", "Expand the source again.") from None


def _growth(record: Mapping[str, Any], clone: Path) -> Expansion:
    """A growth from the record of the clone at `clone`. Raises KeyError, TypeError, ValueError or RequestError."""
    named = record["source"]
    if isinstance(named, dict):
        source: Place = StoreUrl(**named) if "url" in named else Origin(**named)
    else:
        source = Path(os.path.normpath(clone.resolve() / named))
    mixing = record["request"]["mixing"]
    mixing = Mixing(**{**mixing, "uneven_ratio": tuple(mixing["uneven_ratio"])})
    request = Request(**{**record["request"], "mixing": mixing})
    ignored, zeros = record.get("ignored", []), record.get("zeros", {})
    if not isinstance(ignored, list) or not all(isinstance(name, str) for name in ignored):
        raise TypeError(f"ignored should be a list of names, found {ignored!r}")
    if not isinstance(zeros, dict) or not all(type(length) is int for length in zeros.values()):
        raise TypeError(f"zeros should be lengths by name, found {zeros!r}")
    digests = record["plan_digest"], record.get("source_sha256", "")
    if not all(isinstance(digest, str) for digest in digests):
        raise TypeError(f"plan_digest and source_sha256 should be digests, found {digests!r}")
    return Expansion(source, request, digests[0], tuple(ignored), zeros, digests[1])


def _is_outside(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


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
