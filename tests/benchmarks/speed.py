"""hyperclone at 2×2 against the disk, and plans against reading their headers, as ratios from one run.

    python -m benchmarks.speed [--sizes 1.1] [--runs 3] [--places /tmp /dev/shm] [--only hyperclone cp] [--cold]
                               [--results DIRECTORY]

On random Llamas, in each of the places, from process start to exit, with all that is written on the disk at the end:

    hyperclone    expand --no-verify; by request also "hyperclone --threads N" and "hyperclone --executor ray", on a
                  cluster that is started for it
    cp            of the clone's weights, then sync
    dd            of the same files, one after another, with conv=fsync
    weights-only  verify --weights-only of the clone
    verify        the whole verification, in the first place alone
    in memory     by request: transformers loads, tiles and saves, then sync

What is read is in the page cache, unless `--cold`. The processes of a run take turns, and medians over the runs are
compared, so that other work on the machine falls on all of them alike. Memory is polled: anonymous pages are what a
process needs, the rest is the page cache's.

Then `plan` of a Kimi-K2-shaped mixture (67,667 tensors) and of a Llama 405B, all holes behind real headers: CPU seconds
of the command, of its imports, and of what no reader can do without: to open all files, and read and parse the headers.

Prints tables and ratios, then one line of JSON; `--results` keeps that. What bounds each is in the documentation,
docs/operations.md.
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
OURS, COPY, DD, WEIGHTS, VERIFY, IN_MEMORY = "hyperclone", "cp", "dd", "weights-only", "verify", "in memory"
RAY = f"{OURS} --executor ray"
USUAL = {OURS, COPY, DD, WEIGHTS, VERIFY}
_PARSE = """
import json, pathlib, sys, time
start = time.process_time()
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
    with path.open("rb") as file:
        json.loads(file.read(int.from_bytes(file.read(8), "little")))
print(time.process_time() - start)
"""
_IMPORTS = "import hyperclone_cli.api, hyperclone_cli.planning.planner" + "".join(
    f", hyperclone_cli.cli.{module}" for module in ("app", "growth_output")
)
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Of what is measured: the modules of an installed command are compiled, and stay so."""


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
    clone, copy = place / "clone", place / "copy"
    hyperclone = [sys.executable, "-m", "hyperclone_cli"]
    expand = [*hyperclone, "expand", "--no-verify", "--src", str(src), "--embed-mult", "2", "--ffn-mult", "2", "--out"]
    yield OURS, [*expand, str(clone)], src, clone
    yield COPY, ["sh", "-c", f"mkdir {copy} && cp {clone}/*.safetensors {copy} && sync {copy}/*"], clone, copy
    each = f"for f in {clone}/*.safetensors; do dd if=$f of={copy}/$(basename $f) bs=4M conv=fsync || exit 1; done"
    yield DD, ["sh", "-c", f"mkdir {copy} && {each}"], clone, copy
    yield WEIGHTS, [*hyperclone, "verify", "--weights-only", str(clone)], clone, copy
    yield VERIFY, [*hyperclone, "verify", str(clone)], clone, copy
    for threads in THREADS:
        other = place / "other"
        yield f"{OURS} --threads {threads}", [*expand, str(other), "--threads", str(threads)], src, other
    yield RAY, [*expand, str(place / "by-ray"), "--executor", "ray"], src, place / "by-ray"
    if 12 * directory_bytes(src) < available_bytes():
        usual = place / "usual"
        load = f"{sys.executable} {__file__} --in-memory {src} {usual} && sync {usual}/*"
        yield IN_MEMORY, ["sh", "-c", load], src, usual


def measure(command: list[str]) -> Measured:
    """Run a process, which must succeed, with those that it starts."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
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
    """Remove a directory, if it is there."""
    shutil.rmtree(path, ignore_errors=True)


def directory_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


def available_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def bench(size: float, runs: int, parent: Path, only: set[str], cold: bool) -> dict[str, Any]:
    """The figures of one size in GB in one place: medians, ratios, and every single run of the processes `only`."""
    measured: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory(dir=parent) as place:
        src = synthetic.build(Path(place) / "src", size)
        source_bytes = directory_bytes(src)
        for _ in range(runs):
            for name, command, reads, writes in processes(src, Path(place)):
                if name not in only:
                    continue
                if cold:
                    forget(reads)
                measured.setdefault(name, []).append(measure(command))
                if name == OURS:
                    clone_bytes = directory_bytes(writes)
                else:
                    remove(writes)
            remove(Path(place) / "clone")
    return {
        "size_gb": size,
        "place": str(parent),
        "source_bytes": source_bytes,
        "clone_bytes": clone_bytes,
        **summary(measured, clone_bytes),
        "runs": {name: [asdict(one) for one in all_runs] for name, all_runs in measured.items()},
    }


def summary(measured: Mapping[str, list[Measured]], clone_bytes: int) -> dict[str, Any]:
    """Medians by process, the rates of what writes the clone, and wall times as ratios."""
    medians = {
        name: {field: statistics.median(getattr(one, field) for one in runs) for field in Measured.__annotations__}
        for name, runs in measured.items()
    }
    wall = {name: figures["wall_s"] for name, figures in medians.items()}
    pairs = ((OURS, COPY), (OURS, DD), (WEIGHTS, OURS), (VERIFY, OURS), (RAY, OURS), (IN_MEMORY, OURS))
    return {
        "medians": medians,
        "gb_per_s": {name: clone_bytes / 1e9 / wall[name] for name in (OURS, COPY, DD) if name in wall},
        "ratios": {f"{one} / {other}": wall[one] / wall[other] for one, other in pairs if {one, other} <= wall.keys()},
    }


def plans(runs: int) -> dict[str, dict[str, float]]:
    """Of each source of many tensors: CPU seconds of `plan`, of its imports, of parsing the headers; peak MiB."""
    found = {}
    measure([sys.executable, "-c", _IMPORTS])  # compiles the modules
    with tempfile.TemporaryDirectory() as place:
        for make in (synthetic.kimi_shaped, synthetic.llama_405b_shaped):
            src = make(Path(place) / make.__name__)
            plan = [sys.executable, "-m", "hyperclone_cli", "plan", "--src", str(src), "--embed-mult", "2"]
            planned, imports, parsed = [], [], []
            for _ in range(runs):
                parse = [sys.executable, "-c", _PARSE, str(src)]
                parsed.append(float(subprocess.run(parse, capture_output=True, check=True).stdout))
                planned.append(measure([*plan, "--ffn-mult", "2"]))
                imports.append(measure([sys.executable, "-c", _IMPORTS]).cpu_s)
            whole, started, headers = (
                statistics.median(each) for each in ([one.cpu_s for one in planned], imports, parsed)
            )
            found[make.__name__] = {
                "plan_cpu_s": whole,
                "imports_cpu_s": started,
                "parse_cpu_s": headers,
                "over_parse": whole / headers,
                "over_parse_without_imports": (whole - started) / headers,
                "peak_mib": max(one.resident_mib for one in planned),
            }
    return found


def show(console: Console, result: dict[str, Any]) -> None:
    table = Table("process", "wall, s (median)", "all runs, s", "CPU, s", "anonymous, MiB", "resident, MiB")
    for name, figures in result["medians"].items():
        runs = " ".join(f"{one['wall_s']:.1f}" for one in result["runs"][name])
        memory = f"{figures['anonymous_mib']:,.0f}", f"{figures['resident_mib']:,.0f}"
        table.add_row(name, f"{figures['wall_s']:.2f}", runs, f"{figures['cpu_s']:.1f}", *memory)
    sizes = f"{result['source_bytes'] / 1e9:.1f} GB → {result['clone_bytes'] / 1e9:.1f} GB"
    console.print(f"{sizes} in {result['place']}", highlight=False)
    console.print(table)
    rates = ", ".join(f"{name} {rate:.2f} GB/s" for name, rate in result["gb_per_s"].items())
    ratios = ", ".join(f"{pair} {ratio:.2f}" for pair, ratio in result["ratios"].items())
    console.print(f"{rates}; {ratios}", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1.1], choices=synthetic.SHAPES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=sorted(USUAL), metavar="PROCESS", help="beside hyperclone")
    parser.add_argument("--places", type=Path, nargs="+", default=[Path(tempfile.gettempdir()), Path("/dev/shm")])
    parser.add_argument("--cold", action="store_true", help="drop what a process reads from the page cache before")
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    console, results = Console(), []
    for size in arguments.sizes:
        for number, place in enumerate(arguments.places):
            only = {OURS, *arguments.only} - ({VERIFY} if number else set())
            results.append(bench(size, arguments.runs, place, only, arguments.cold))
            show(console, results[-1])
    planned = plans(arguments.runs)
    for name, figures in planned.items():
        said = ", ".join(f"{key} {figure:,.2f}" for key, figure in figures.items())
        console.print(f"plan of {name}: {said}", highlight=False)
    found = {"expand": results, "plan": planned}
    print(json.dumps(found))
    if arguments.results:
        arguments.results.mkdir(parents=True, exist_ok=True)
        (arguments.results / "speed.json").write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in-memory"]:
        in_memory(*sys.argv[2:])
    else:
        main()
