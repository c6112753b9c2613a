"""Verification in bounded memory: peaks and times of `expand` and `verify` on random Llamas, in a control group.

    python -m benchmarks.memory [--place /tmp] [--only limited free bin verify large fp8 optimizer] [--results FILE]

    limited   1.1 GB at 2×2, `expand` with its default verification under a limit of 3 GB
    free      the same without a limit
    bin       the same from a `.bin` file
    verify    `verify --max-memory 2GB` for sources of 0.3, 1 and 4 GB, and with all the memory there is
    fp8       FP8 sources of 0.2, 0.6 and 2.2 GB, written unquantised at their own size, without a verification
    large     4 GB at 2×2 (15 GB), `expand` with its default verification and no limit
    optimizer 0.3 and 1 GB with four times as much of moments, `--ffn-mult 2 --optimizer` without a verification, from
              optimizer.pt and from distributed checkpoints

The limit is that of a memory control group (version 1 or 2), which this user must be able to make. What is printed is
the peak of anonymous pages (RssAnon, polled), which cannot be given up, and how often the group reached its limit:
the page cache, through which weights are read, fills what is left. "Read" is what the process read by system calls
(rchar), code included; optimizer.pt is mapped, and not in it. Figures of two verifications are compared as they
are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import synthetic
from support.moments import add_optimizer

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
LIMIT = 3 * 10**9
FIGURES = ("relative_error", "floor", "max_abs_difference", "kl_divergence", "perplexity_source", "perplexity_clone")


@dataclass(frozen=True)
class Measured:
    """One process: its exit status, wall seconds, peak of anonymous memory, bytes read, and what it printed as JSON."""

    name: str
    status: int
    wall_s: float
    anonymous_mib: float
    read_mb: float
    reached_limit: int
    figures: dict[str, str]
    runs: list[dict[str, Any]]
    said: str


@contextmanager
def group(limit: int | None) -> Iterator[Path | None]:
    """A new memory control group with this limit of bytes; none without a limit."""
    if limit is None:
        yield None
        return
    version_1 = (V1 / "memory.limit_in_bytes").exists()
    made = (V1 if version_1 else V2) / f"hyperclone-{os.getpid()}"
    made.mkdir()
    try:
        (made / ("memory.limit_in_bytes" if version_1 else "memory.max")).write_text(str(limit))
        yield made
    finally:
        made.rmdir()


def measure(name: str, words: list[str], limit: int | None = None) -> Measured:
    """Run `hyperclone` with these arguments, in a control group of its own."""
    with group(limit) as made, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:

        def enter() -> None:
            if made:
                (made / "cgroup.procs").write_text(str(os.getpid()))

        began, peak = time.monotonic(), 0
        process = subprocess.Popen(
            [sys.executable, "-m", "hyperclone_cli", *words, "--json"], stdout=out, stderr=err, preexec_fn=enter
        )
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(0.02)
        wall = time.monotonic() - began
        read = _read(process.pid)
        process.wait()
        failures = made and (made / "memory.failcnt")
        reached = int(failures.read_text()) if failures and failures.exists() else 0
        out.seek(0)
        err.seek(0)
        text, said = out.read().decode(), err.read().decode()
    found = json.loads(text) if text.strip() else {}
    report = found.get("verification", found) or {}
    figures = {key: f"{report['logits'][key]:.3g}" for key in FIGURES} if report.get("logits") else {}
    figures["passed"] = str(report.get("passed"))
    announced = next((line for line in said.splitlines() if line.startswith("The clone will be")), said[-300:])
    return Measured(
        name, process.returncode, wall, peak / 2**20, read / 1e6, reached, figures, report.get("runs", []), announced
    )


def _anonymous(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def _read(process: int) -> int:
    """Bytes that a process, which has ended and is not waited for yet, has read by system calls."""
    counts = dict(line.split(": ") for line in Path(f"/proc/{process}/io").read_text().splitlines())
    return int(counts["rchar"])


def as_bin(source: Path, path: Path) -> Path:
    """The same checkpoint with its weights in a `.bin` file."""
    import torch
    from safetensors.torch import load_file

    path.mkdir()
    shutil.copy(source / "config.json", path)
    torch.save(load_file(source / "model.safetensors"), path / "pytorch_model.bin")
    return path


def expand(name: str, source: Path, limit: int | None = None) -> Measured:
    """Expand at 2×2, verified, to a directory that is removed again."""
    clone = source.with_name("clone")
    try:
        words = ["expand", "--src", str(source), "--out", str(clone), "--embed-mult", "2", "--ffn-mult", "2"]
        return measure(name, words, limit)
    finally:
        shutil.rmtree(clone, ignore_errors=True)


def verifications(place: Path) -> Iterator[Measured]:
    """`verify` of clones at 2×2, within 2 GB for each model and without a bound."""
    for size in (0.3, 1.0, 4.0):
        source, clone = synthetic.build(place / "source", size), place / "clone"
        words = ["expand", "--src", str(source), "--out", str(clone), "--embed-mult", "2", "--ffn-mult", "2"]
        subprocess.run([sys.executable, "-m", "hyperclone_cli", *words, "--no-verify"], check=True, capture_output=True)
        yield measure(f"verify {size:g} GB, --max-memory 2GB", ["verify", str(clone), "--max-memory", "2GB"])
        if size < 4:
            yield measure(f"verify {size:g} GB", ["verify", str(clone)])
        shutil.rmtree(source)
        shutil.rmtree(clone)


def measurements(place: Path, only: list[str]) -> Iterator[Measured]:
    """Each measurement as it is made."""
    if {"limited", "free", "bin"} & set(only):
        source = synthetic.build(place / "source", 1.1)
        if "limited" in only:
            yield expand("expand 1.1 GB, limit 3 GB", source, LIMIT)
        if "free" in only:
            yield expand("expand 1.1 GB", source)
        if "bin" in only:
            stored = as_bin(source, place / "bin")
            yield expand("expand 1.1 GB .bin, limit 3 GB", stored, LIMIT)
            shutil.rmtree(stored)
        shutil.rmtree(source)
    if "verify" in only:
        yield from verifications(place)
    if "fp8" in only:
        for size in (0.3, 1.0, 4.0):
            source, clone = synthetic.build(place / "source", size, fp8=True), place / "clone"
            name = f"expand {(source / 'model.safetensors').stat().st_size / 1e9:.1f} GB FP8"
            yield measure(name, ["expand", "--src", str(source), "--out", str(clone), "--no-verify"])
            shutil.rmtree(source)
            shutil.rmtree(clone)
    if "optimizer" in only:
        for size in (0.3, 1.0):
            for in_parts in (False, True):
                source, clone = synthetic.build(place / "source", size), place / "clone"
                add_optimizer(source, in_parts)
                name = f"expand {size:g} GB with its optimizer {'in parts' if in_parts else 'whole'}"
                words = ["expand", "--src", str(source), "--out", str(clone), "--ffn-mult", "2", "--no-verify"]
                yield measure(name, [*words, "--optimizer"])
                shutil.rmtree(source)
                shutil.rmtree(clone)
    if "large" in only:
        yield expand("expand 4 GB", synthetic.build(place / "source", 4.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--place", type=Path, default=Path("/tmp"))
    parser.add_argument("--only", nargs="+", default=["limited", "free", "bin", "verify", "fp8", "optimizer", "large"])
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    console = Console(stderr=True)
    made = []
    with tempfile.TemporaryDirectory(dir=options.place) as directory:
        for one in measurements(Path(directory), options.only):
            made.append(one)
            if options.results:
                options.results.write_text(json.dumps([asdict(one) for one in made]) + "\n")
            console.print(f"{one.name}: {one.wall_s:.0f} s, {one.anonymous_mib:.0f} MiB, exit {one.status}. {one.said}")
    table = Table()
    for column in ("", "exit", "s", "anonymous MiB", "read MB", "limit reached", "runs", *FIGURES, "passed"):
        table.add_column(column)
    for one in made:
        runs = "\n".join(f"{run['model']} {run['mode']} {run['passes']} {run['bytes_read']:,}" for run in one.runs)
        cells = [one.figures.get(key, "") for key in (*FIGURES, "passed")]
        row = [
            one.name,
            one.status,
            f"{one.wall_s:.0f}",
            f"{one.anonymous_mib:.0f}",
            f"{one.read_mb:.0f}",
            one.reached_limit,
            runs,
            *cells,
        ]
        table.add_row(*map(str, row))
    Console(width=240).print(table)
    print(json.dumps([asdict(one) for one in made]))


if __name__ == "__main__":
    main()
