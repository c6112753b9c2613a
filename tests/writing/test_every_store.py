"""From and to S3, Google Cloud Storage and Azure: the bytes of a clone on a disk, whenever a run is killed.

Servers on this machine stand for the stores. For `-m stress`.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import synthetic
from hyperclone_cli import expand
from hyperclone_cli.checkpoint.object_store import Objects, StoreUrl
from support import faults, object_stores, s3
from support.command_line import hyperclone
from support.forked import Forked

Sources = Callable[[str], Path]
pytestmark = pytest.mark.stress
MODEL = {"config.json", "model.safetensors.index.json", "model.safetensors"}
"""What a loader looks for."""


@pytest.fixture(scope="module", params=["s3", "gs", "az"])
def server(request: pytest.FixtureRequest) -> Iterator[object_stores.Server]:
    with object_stores.server(request.param) as running:
        yield running


@pytest.fixture(autouse=True)
def _environment(server: object_stores.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


def files(found: dict[str, bytes]) -> dict[str, bytes]:
    """Name → bytes, but for where the source lies, as seen from the clone."""
    record = json.loads(found["hyperclone.json"]) | {"source": ""}
    return found | {"hyperclone.json": json.dumps(record).encode()}


def growth(src: object, out: object, shard: str) -> list[object]:
    return ["expand", "--no-verify", "--src", src, "--out", out, "--ffn-mult", 2, "--max-shard-size", shard]


def test_there_and_back(server: object_stores.Server, source: Sources, tmp_path: Path) -> None:
    src, stored = source("qwen3"), server.url("there/qwen3")
    s3.put(src, stored)
    for origin, out in (
        (src, tmp_path / "whole"),
        (src, server.url("there/from-disk")),
        (stored, server.url("there/from-store")),
        (stored, tmp_path / "to-disk"),
    ):
        hyperclone(*growth(origin, out, "60KB"))
    whole = files(faults.contents(tmp_path / "whole"))
    assert files(s3.contents(server.url("there/from-disk"))) == whole
    assert files(s3.contents(server.url("there/from-store"))) == whole
    assert files(faults.contents(tmp_path / "to-disk")) == whole
    verified = hyperclone("verify", tmp_path / "to-disk", "--weights-only")
    assert stored in verified.stdout


@pytest.mark.parametrize("bucket", ["no-such-bucket", object_stores.BUCKET])
def test_what_fails_shows_no_key(bucket: str, server: object_stores.Server) -> None:
    url = f"{server.scheme}://{bucket}/nothing"
    for words in (["plan", "--src", url], growth(url, server.url("out"), "1MB")):
        failed = hyperclone(*words, code=3 if bucket == object_stores.BUCKET else 5)
        assert url in failed.stderr
        assert server.secret not in failed.stderr + failed.stdout


def bytes_over_the_loopback() -> int:
    """All that processes of this machine have sent each other since it started."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split()[1])


@pytest.mark.parametrize(
    "server, size, rounds",
    [("s3", 0.03, 3), ("gs", 0.03, 3), ("az", 0.03, 3), ("s3", 0.3, 10)],
    indirect=["server"],
)
def test_runs_killed_at_random_moments(
    size: float, rounds: int, server: object_stores.Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the store to the store. What is printed are the figures of the run that is not cut."""
    src = synthetic.build(tmp_path / "src", 0.3) if size == 0.3 else faults.wide_source(tmp_path / "src")
    shard, stored = ("100MB", "8MB")[size < 0.1], server.url(f"{size}/src")
    for path in src.iterdir():
        Objects(StoreUrl(stored)).upload(path, path.name)
    expand(src, tmp_path / "whole", ffn_mult=2, max_shard_size=shard)
    whole = files(faults.contents(tmp_path / "whole"))

    def run(number: int, end_s: float = 3600) -> tuple[int, str, float, int]:
        """Run it to an --out of this number, or for so long: (exit status, stderr, seconds, peak of memory)."""
        process = Forked(growth(stored, server.url(f"{size}/{number}"), shard), environment=server.environment)
        begun, peak = time.monotonic(), 0
        while process.poll() is None and time.monotonic() < begun + end_s:
            peak = max(peak, process.anonymous_bytes())
            time.sleep(0.02)
        seconds = time.monotonic() - begun
        process.send_signal(signal.SIGKILL)
        return *process.finish(), seconds, peak

    before, sent = len(server.log.read_text().splitlines()), bytes_over_the_loopback()
    status, stderr, uncut_s, peak = run(0)
    sent = bytes_over_the_loopback() - sent
    assert status == 0, stderr
    made = server.log.read_text().splitlines()[before:]
    ranges = sum('"GET' in line and "safetensors" in line for line in made)
    parts = sum('"PUT' in line and ("partNumber=" in line or "comp=block&" in line) for line in made)
    with capsys.disabled():
        print(f"\n{server.scheme}, {size} GB: {uncut_s:.0f} s, anonymous {peak >> 20} MiB,", end=" ")
        print(f"{len(made)} requests, {ranges} ranges and headers of weights, {parts} parts,", end=" ")
        print(f"{sent / 1e9:.2f} GB in both directions", flush=True)
    generator, ended = random.Random(0), 0
    for number in range(1, rounds + 1):
        killed, *_ = run(number, generator.uniform(0, uncut_s))
        left = {*Objects(StoreUrl(server.url(f"{size}/{number}"))).list()}
        assert killed == 0 or not left & MODEL
        ended += killed == 0
        if killed != 0:
            status, stderr, *_ = run(number)
            assert status == 0, stderr
        out = Objects(StoreUrl(server.url(f"{size}/{number}")))
        assert files(s3.contents(str(out.place))) == whole
        out.delete(out.list())
    assert ended < rounds
    with capsys.disabled():
        print(f"{rounds} runs were cut, {ended} had ended", flush=True)
