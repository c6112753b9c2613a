"""hyperclone expand at 2×2 against the disk, and against doing the same in memory, on random Llamas of growing size.

    python -m benchmarks.speed [--sizes 0.3 1 4] [--runs 5] [--only cp dd] [--place /tmp] [--results DIRECTORY]

Every process starts with its input out of the page cache, and ends with its output on the disk:

    hyperclone   expand --no-verify, from process start to exit; also with 1, 2 and 4 threads
    cp           of the clone's weights, then sync
    dd           of the clone's weights, with conv=fsync
    in memory    transformers: load, tile, save_pretrained, then sync; where both models fit in memory twice

The processes of a run take turns, and medians over the runs are compared, so that other work on the machine falls
on all of them alike. Memory is polled: anonymous pages are what a process needs, the rest is the page cache's.
Prints a table, then one line of JSON; `--results` keeps that and a plot of time and memory against size.

Where the time goes: CPU seconds of SmolLM2-135M at 2×2, 963 MB written with two threads, on two shared cores.

    2.0 to 2.5   the kernel, copying what is written into its page cache: what `cp` pays too, 2.2 for as many bytes
    1.7          importing torch
    0.5          all other imports, config, headers and plan
    0.2          arithmetic
    0.1 to 0.4   reading the source
    0.2          model card, side files, provenance
    0.05         fsync, which waits rather than works

The first line is the machine's: on this virtual one a plain loop of `pwrite` took 0.1 to 2.9 s for one GB, by whether
the host had the guest's free pages in memory already. Only medians of many runs in turn mean anything there.

So there are two things to save on, and both are done: the row blocks of a tensor are grown once and written wherever
they repeat, which leaves reading and arithmetic at a fifth of what writing takes; and nothing is imported before a
path needs it, which leaves a fixed cost of 2.2 s, of which torch is three quarters. From a few GB up, that no longer
shows. More than two threads gain little then: filesystems such as ext4 let one thread at a time write to a file. They
pay with `--noise-snr-db`, whose random numbers take more than twice as long as all the rest (12.8 s in all).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import synthetic

THREADS = (1, 2, 4)
OURS, COPY, DD, IN_MEMORY = "hyperclone", "cp", "dd", "in memory"


@dataclass(frozen=True)
class Measured:
    """One process: wall seconds, CPU seconds, and peaks of anonymous and of all resident memory in MiB."""

    wall_s: float
    cpu_s: float
    anonymous_mib: float
    resident_mib: float


def in_memory(src: str, out: str) -> None:
    """The usual way, all tensors of both models in memory: exact for an untied Llama at 2×2."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(src)
    for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        setattr(config, key, 2 * getattr(config, key))
    source = AutoModelForCausalLM.from_pretrained(src)
    with torch.device("meta"):
        clone = AutoModelForCausalLM.from_config(config, dtype=source.dtype)
    clone.to_empty(device="cpu")
    weights = clone.state_dict()
    with torch.no_grad():
        for name, tensor in source.state_dict().items():
            if tensor.dim() == 1:
                weights[name].copy_(tensor.repeat(2))
            elif "embed_tokens" in name:
                weights[name].copy_(tensor.repeat(1, 2))
            else:
                weights[name].copy_(tensor.repeat(weights[name].shape[0] // tensor.shape[0], 2) / 2)
    clone.save_pretrained(out)


def processes(src: Path, place: Path) -> Iterator[tuple[str, list[str], Path, Path]]:
    """(name, command, what it reads, what it writes), in turn; the first makes the clone that the next ones copy."""
    clone = place / "clone"
    weights = clone / "model.safetensors"
    expand = [sys.executable, "-m", "hyperclone_cli", "expand", "--no-verify", "--src", str(src)]
    expand += ["--embed-mult", "2", "--ffn-mult", "2", "--out"]
    yield OURS, [*expand, str(clone)], src, clone
    copy = place / "copy"
    yield COPY, ["sh", "-c", f"cp {weights} {copy} && sync {copy}"], clone, copy
    yield DD, ["dd", f"if={weights}", f"of={copy}", "bs=4M", "conv=fsync"], clone, copy
    for threads in THREADS:
        other = place / "other"
        yield f"{OURS} --threads {threads}", [*expand, str(other), "--threads", str(threads)], src, other
    if 12 * directory_bytes(src) < available_bytes():
        usual = place / "usual"
        load = f"{sys.executable} {__file__} --in-memory {src} {usual} && sync {usual}/*"
        yield IN_MEMORY, ["sh", "-c", load], src, usual


def measure(command: list[str]) -> Measured:
    """Run a process, which must succeed, with those that it starts."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    anonymous = 0.0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        anonymous = max(anonymous, sum(map(anonymous_mib, family(process.pid))))
        time.sleep(0.01)
    wall_s = time.perf_counter() - start
    if status:
        assert process.stderr is not None
        raise SystemExit(f"{' '.join(command)} failed: {process.stderr.read().decode()}")
    return Measured(wall_s, usage.ru_utime + usage.ru_stime, anonymous, usage.ru_maxrss / 1024)


def family(pid: int) -> list[int]:
    """A process and its children."""
    with suppress(OSError):
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    return []


def anonymous_mib(pid: int) -> float:
    """What a process has in anonymous pages now; 0 if it is gone."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024
    return 0.0


def forget(path: Path) -> None:
    """Have the system drop a file, or all files of a directory, from the page cache."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a directory, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def directory_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def available_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def bench(size: float, runs: int, parent: Path, only: set[str]) -> dict[str, Any]:
    """The figures of one size in GB: medians, ratios, and every single run of the processes named in `only`."""
    measured: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory(dir=parent) as place:
        src = synthetic.build(Path(place) / "src", size)
        source_bytes = directory_bytes(src)
        for _ in range(runs):
            for name, command, reads, writes in processes(src, Path(place)):
                if only and name not in only:
                    continue
                forget(reads)
                measured.setdefault(name, []).append(measure(command))
                if name == OURS:
                    clone_bytes = directory_bytes(writes)
                else:
                    remove(writes)
            remove(Path(place) / "clone")
    return {
        "size_gb": size,
        "source_bytes": source_bytes,
        "clone_bytes": clone_bytes,
        **summary(measured, clone_bytes),
        "runs": {name: [asdict(one) for one in all_runs] for name, all_runs in measured.items()},
    }


def summary(measured: Mapping[str, list[Measured]], clone_bytes: int) -> dict[str, Any]:
    """Medians by process, and the ratios that matter."""
    fields = Measured.__annotations__
    medians = {
        name: {field: statistics.median(getattr(one, field) for one in runs) for field in fields}
        for name, runs in measured.items()
    }
    wall = {name: figures["wall_s"] for name, figures in medians.items()}
    return {
        "medians": medians,
        "clone_bytes_per_s": clone_bytes / wall[OURS],
        "over_cp": wall[OURS] / wall[COPY] if COPY in wall else None,
        "over_dd": wall[OURS] / wall[DD] if DD in wall else None,
        "in_memory_over_ours": wall[IN_MEMORY] / wall[OURS] if IN_MEMORY in wall else None,
    }


def show(console: Console, result: dict[str, Any]) -> None:
    table = Table("process", "wall, s (median)", "all runs, s", "CPU, s", "anonymous, MiB", "resident, MiB")
    for name, figures in result["medians"].items():
        runs = " ".join(f"{one['wall_s']:.1f}" for one in result["runs"][name])
        memory = f"{figures['anonymous_mib']:,.0f}", f"{figures['resident_mib']:,.0f}"
        table.add_row(name, f"{figures['wall_s']:.2f}", runs, f"{figures['cpu_s']:.1f}", *memory)
    console.print(f"{result['source_bytes'] / 1e9:.1f} GB → {result['clone_bytes'] / 1e9:.1f} GB", highlight=False)
    console.print(table)
    for name in ("clone_bytes_per_s", "over_cp", "over_dd", "in_memory_over_ours"):
        if result[name] is not None:
            console.print(f"{name}: {result[name]:,.2f}", highlight=False)


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Time and anonymous memory against the size of the clone, one line per process."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, field, label in zip(
        figure.subplots(1, 2), ("wall_s", "anonymous_mib"), ("wall time, s", "peak anonymous memory, MiB"), strict=True
    ):
        for name in (OURS, COPY, DD, IN_MEMORY):
            points = [
                (result["clone_bytes"] / 1e9, result["medians"][name][field])
                for result in results
                if name in result["medians"]
            ]
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set(xlabel="clone, GB", ylabel=label, xscale="log", yscale="log")
        axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=list(synthetic.SHAPES), choices=synthetic.SHAPES)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], metavar="PROCESS", help="beside hyperclone; all unless given")
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    only = {OURS, *arguments.only} if arguments.only else set()
    console = Console()
    results = []
    for size in arguments.sizes:
        results.append(bench(size, arguments.runs, arguments.place, only))
        show(console, results[-1])
    print(json.dumps(results))
    if arguments.results:
        arguments.results.mkdir(parents=True, exist_ok=True)
        (arguments.results / "speed.json").write_text(json.dumps(results, indent=2))
        draw(results, arguments.results / "speed.png")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in-memory"]:
        in_memory(*sys.argv[2:])
    else:
        main()
