"""The faults that take minutes: python stress.py [--rounds 50] [--seed 0] [--only KIND …] [--size GB] [--place DIR].

Each round cuts an expansion at a random moment, runs the same command again, and compares every byte with a clone
that was never cut. The cuts: SIGKILL, SIGINT, a limit on the size of files, and a disk that something else fills
meanwhile. The last needs a filesystem of its own, which only root may mount, and is left out for others.
Then the optimizer grows too, as optimizer.pt and as distributed checkpoints, and SIGKILL comes while it is written:
that of a model of some megabytes at 4×4, or with --size of one of 0.3, 1 or 4 GB, in bfloat16, with `--ffn-mult 2`.
Then four ranks write a clone together, and one of them, in every fifth round all, is killed and run again.
Prints a line for each; the first difference ends it.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import synthetic
from hyperclone_cli.writing.publish import partial_of
from support import faults
from support.forked import Forked
from support.moments import add_optimizer

KINDS = ("SIGKILL", "SIGINT", "optimizer.pt", "optimizer-parts", "limit", "ranks", "disk")
SHARD_BYTES = 5_000_000
OPTIONS = ("--max-shard-size", SHARD_BYTES, "--threads", 3)
"""Three shards are open at once, on any machine."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--size", type=float, choices=sorted(synthetic.SHAPES))
    parser.add_argument("--place", type=Path, help="where all is written, instead of the usual place for such files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.place) as work:
        src, disk = faults.wide_source(Path(work) / "src", hidden_size=128), Path(work) / "disk"
        disk.mkdir()
        out = disk / "clone"
        process = Forked(faults.command(src, out, *OPTIONS))
        faults.wait_for(begun(out), process)
        start = time.perf_counter()
        faults.wait_for(out.exists, process)
        uncut_s = time.perf_counter() - start  # from its first shard to its place: before and after is no test
        assert process.finish()[0] == 0
        whole, total_bytes = digests(out), bytes_of(out)
        shutil.rmtree(out)
        print(f"uncut: {total_bytes:,} bytes in {len(whole)} files, {uncut_s:.1f} s", flush=True)

        moments = faults.moments(arguments.rounds, 1.0, arguments.seed)
        fewer = moments[: max(1, len(moments) // 5)]
        kinds: dict[str, Iterator[str]] = {
            "SIGKILL": (send_signal(src, out, signal.SIGKILL, moment * uncut_s, whole) for moment in moments),
            "SIGINT": (send_signal(src, out, signal.SIGINT, moment * uncut_s, whole) for moment in moments),
            "optimizer.pt": kill_optimizer(Path(work), False, fewer, arguments.size),
            "optimizer-parts": kill_optimizer(Path(work), True, fewer, arguments.size),
            "limit": (limit(src, out, int(moment * SHARD_BYTES), whole) for moment in moments),
            "ranks": (kill_ranks(src, out, one * uncut_s, whole, number) for number, one in enumerate(fewer)),
        }
        for kind, ends in kinds.items():
            if kind in arguments.only:
                show(kind, ends)
        if "disk" in arguments.only and faults.can_mount():
            with small_disk(disk, total_bytes):
                show("disk", (fill(src, out, moment * uncut_s, whole) for moment in moments))


def begun(out: Path) -> Callable[[], bool]:
    """Whether there is a shard yet, of a clone that is to stand at `out`."""
    return lambda: any(partial_of(out).glob("*.safetensors")) or out.exists()


def show(kind: str, ends: Iterable[str]) -> None:
    """Go through the rounds, and print how the runs that were cut ended."""
    counts = Counter(ends)
    listed = ", ".join(f"{count} {end}" for end, count in sorted(counts.items()))
    print(f"{kind}: {counts.total()} clones identical after a rerun; the cut runs: {listed}", flush=True)


def send_signal(src: Path, out: Path, sent: signal.Signals, pause_s: float, whole: dict[str, str]) -> str:
    """One round of a signal; again, and earlier, if it came when all was done."""
    status, stderr = faults.cut(faults.command(src, out, *OPTIONS), sent, begun(out), pause_s)
    assert "Traceback" not in stderr, stderr
    ends = {0, 130 if sent == signal.SIGINT else -sent}
    if out.exists():  # all is done, and Python itself is on its way out
        ends.add(-sent)
    assert status in ends, (status, stderr)
    end = compare(faults.command(src, out, *OPTIONS), out, whole, status)
    return send_signal(src, out, sent, pause_s / 2, whole) if end.endswith("published") else end


def kill_optimizer(work: Path, in_parts: bool, moments: Iterable[float], size: float | None) -> Iterator[str]:
    """Rounds of SIGKILL while the optimizer of a clone is written; `size` is that of the source in GB."""
    path, out = work / f"run-{in_parts}", work / f"grown-{in_parts}"
    src = add_optimizer(synthetic.build(path, size) if size else faults.wide_source(path, hidden_size=128), in_parts)
    words = faults.command(src, out, "--optimizer")
    if size:
        words = ["expand", "--no-verify", "--src", str(src), "--out", str(out), "--ffn-mult", "2", "--optimizer"]

    def grows() -> bool:
        return any(partial_of(out).glob("**/*.distcp" if in_parts else "optimizer.pt"))

    process = Forked(words)
    faults.wait_for(grows, process)
    start = time.perf_counter()
    faults.wait_for(out.exists, process)
    uncut_s = time.perf_counter() - start
    assert process.finish()[0] == 0
    print(f"uncut, with an optimizer: {bytes_of(out):,} bytes, {uncut_s:.1f} s for the optimizer", flush=True)
    whole = digests(out)
    shutil.rmtree(out)
    for moment in moments:
        status, stderr = faults.cut(words, signal.SIGKILL, grows, moment * uncut_s)
        assert "Traceback" not in stderr, stderr
        yield compare(words, out, whole, status)
    shutil.rmtree(src)


def limit(src: Path, out: Path, limit_bytes: int, whole: dict[str, str]) -> str:
    """One round of files that can grow no further."""
    status, stderr = Forked(faults.command(src, out, *OPTIONS), limit_bytes).finish()
    assert status in (0, 5), stderr
    assert stderr.count("Error:") == (status == 5), stderr
    return compare(faults.command(src, out, *OPTIONS), out, whole, status)


RANKS = 4


def kill_ranks(src: Path, out: Path, pause_s: float, whole: dict[str, str], number: int) -> str:
    """One round of ranks that write at once, of which one or all are killed, each run again alone."""
    commands = [
        faults.command(src, out, *OPTIONS, "--rank", rank, "--world-size", RANKS, "--threads", 1)
        for rank in range(RANKS)
    ]
    processes = [Forked(words) for words in commands]
    faults.wait_for(begun(out), processes[0])
    time.sleep(pause_s)
    killed = range(RANKS) if number % 5 == 4 else [number % RANKS]
    for rank in killed:
        processes[rank].send_signal(signal.SIGKILL)
    ends = [process.finish() for process in processes]
    assert all(status in (0, -signal.SIGKILL) for status, _ in ends), ends
    ended = "published" if out.exists() else "in the middle"
    again = [Forked(commands[rank]).finish() for rank in killed if ends[rank][0]]
    assert all(status == 0 for status, _ in again), again
    assert digests(out) == whole
    assert not partial_of(out).exists()
    shutil.rmtree(out)
    return f"{len(again)} of {RANKS} killed {ended}"


def fill(src: Path, out: Path, pause_s: float, whole: dict[str, str]) -> str:
    """One round of a disk on which something else takes all the room that is left, after a while."""
    process = Forked(faults.command(src, out, *OPTIONS))
    faults.wait_for(begun(out), process)
    time.sleep(pause_s)
    filler = out.with_name("filler")
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    status, stderr = process.finish()
    filler.unlink()
    assert status in (0, 5), stderr
    assert stderr.count("Error:") == (status == 5), stderr
    return compare(faults.command(src, out, *OPTIONS), out, whole, status)


def digests(directory: Path) -> dict[str, str]:
    """Name → SHA-256 of every file below a directory."""
    found = {}
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(directory))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def bytes_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def compare(words: list[str], out: Path, whole: dict[str, str], status: int) -> str:
    """Run the command again if it was cut, hold the clone against `whole`, and remove it; says how it was cut."""
    written = any(partial_of(out).glob("*.safetensors"))
    stage = "published" if out.exists() else "in the middle" if written else "at the start"
    if status:
        again, stderr = Forked(words).finish()
        assert again == (2 if stage == "published" else 0), stderr  # a whole clone is not replaced
    found = digests(out)
    assert found.keys() == whole.keys(), (status, stage, found.keys() ^ whole.keys())
    assert found == whole, (status, stage, [name for name in whole if found[name] != whole[name]])
    shutil.rmtree(out)
    return f"with status {status} {stage}"


@contextmanager
def small_disk(place: Path, clone_bytes: int) -> Iterator[None]:
    """A filesystem at `place` with room for one clone and what `expand` wants to see free beside it."""
    size = clone_bytes + (80 << 20)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


if __name__ == "__main__":
    main()
