"""Do two revisions write the same clones? The SHA-256 of every file of many small ones, but for the card.

    python tests/clone_digests.py sources DIRECTORY         write a small random model of every variant there
    python tests/clone_digests.py record DIRECTORY RECORD   grow each under every request below; RECORD is JSON
    python tests/clone_digests.py compare RECORD RECORD     a line for each clone that differs, and exit status 1

To record what another revision writes, run this file with PYTHONPATH=<its src>: `record` uses nothing of the package
but `expand` and its errors. Records can be compared if they are of the same DIRECTORY, for a clone's record of its
source is a path. All variants take a few minutes on two cores; to try a sample, remove some of the sources.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

REQUESTS: dict[str, dict[str, Any]] = {
    "twice": {"embed_mult": 2, "ffn_mult": 2},
    "symmetric": {"embed_mult": 3, "ffn_mult": 3, "strategy": "symmetric"},
    "diagonal": {"embed_mult": 2, "ffn_mult": 3, "strategy": "diagonal"},
    "uneven, noisy": {"embed_mult": 2, "ffn_mult": 2, "strategy": "uneven", "noise_snr_db": 10, "seed": 7},
    "fractional": {"embed_mult": 1.5, "ffn_mult": 1.5, "noise_snr_db": 20},
    "key/value heads kept": {"embed_mult": 2, "ffn_mult": 2, "kv_heads_mult": 1},
    "larger heads": {"embed_mult": 2, "ffn_mult": 2, "head_dim_mult": 2},
    "untied": {"embed_mult": 2, "ffn_mult": 2, "tie_embeddings": "untie"},
    "16 bits": {"embed_mult": 3, "ffn_mult": 3, "dtype": "bfloat16", "noise_snr_db": 10},
    "sharded": {"embed_mult": 2, "ffn_mult": 2, "max_shard_size": "100KB", "checksum": True},
    "feed-forward alone": {"ffn_mult": 2.5},
    "a number of parameters": {"target_params": 400_000},
}

Outcome = dict[str, str] | str
"""File → SHA-256, or the kind of error that refuses the request."""

Record = dict[str, dict[str, Outcome]]
"""Variant → request → outcome."""


def write_sources(directory: Path) -> None:
    """Write one model of every variant of the tests."""
    from support import models

    for name in models.VARIANTS:
        models.build(name, directory / name)


def record(directory: Path) -> Record:
    """Grow every source in `directory` under every request."""
    sources = sorted(directory.iterdir())
    with ProcessPoolExecutor(2) as pool:
        return dict(zip([source.name for source in sources], pool.map(outcomes, sources), strict=True))


def outcomes(source: Path) -> dict[str, Outcome]:
    """Grow one source under every request."""
    import torch

    from hyperclone_cli import expand
    from hyperclone_cli.errors import HypercloneError

    torch.set_num_threads(1)
    found: dict[str, Outcome] = {}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=source.parent.parent) as work:
        warnings.simplefilter("ignore")
        for number, (name, options) in enumerate(REQUESTS.items()):
            out = Path(work) / str(number)
            try:
                expand(source, out, threads=1, **options)
            except HypercloneError as error:
                found[name] = type(error).__name__
            else:
                found[name] = digests(out)
    return found


def digests(clone: Path) -> dict[str, str]:
    """The SHA-256 of every file of a clone, but for the card, which is prose."""
    files = sorted(path for path in clone.rglob("*") if path.is_file() and path.name != "README.md")
    return {str(path.relative_to(clone)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def differences(one: Record, other: Record) -> list[str]:
    """A line for each request whose outcomes differ, or that only one record has."""
    lines = []
    for variant in one.keys() | other.keys():
        requests = [found.get(variant, {}) for found in (one, other)]
        for request in requests[0].keys() | requests[1].keys():
            a, b = (found.get(request, "not tried") for found in requests)
            if a != b:
                lines.append(f"{variant}: {request}: {difference(a, b)}")
    return sorted(lines)


def difference(a: Outcome, b: Outcome) -> str:
    """The files that differ between two clones, or what became of each where one is none."""
    if isinstance(a, str) or isinstance(b, str):
        return " → ".join(outcome if isinstance(outcome, str) else "grown" for outcome in (a, b))
    return ", ".join(sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name)))


def main(command: str, *paths: Path) -> int:
    if command == "sources":
        write_sources(paths[0] / "sources")
        return 0
    if command == "record":
        found = record(paths[0] / "sources")
        paths[1].write_text(json.dumps(found, indent=1, sort_keys=True))
        clones = [outcome for requests in found.values() for outcome in requests.values() if isinstance(outcome, dict)]
        print(f"{len(found)} models, {len(clones)} clones, {sum(map(len, clones))} files")
        return 0
    one, other = (json.loads(path.read_text()) for path in paths)
    different = differences(one, other)
    total = sum(map(len, other.values()))
    print("\n".join(different) or "no difference")
    print(f"{total - len(different)} of {total} requests give the same files")
    return int(bool(different))


if __name__ == "__main__":
    if (len(sys.argv), *sys.argv[1:2]) not in ((3, "sources"), (4, "record"), (4, "compare")):
        raise SystemExit(__doc__)
    sys.exit(main(sys.argv[1], *map(Path, sys.argv[2:])))
