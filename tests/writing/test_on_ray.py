"""The workers of a Ray cluster write one clone together: the bytes of a single process, whichever worker is lost.

What a worker does is a function of values, and is tested without Ray. One test starts a cluster on this machine; those
of several nodes, which take minutes, are for `-m stress`.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from hyperclone_cli.checkpoint.object_store import StoreUrl
from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.writing.budget import Budget
from hyperclone_cli.writing.on_ray import Order, write_as_ordered
from hyperclone_cli.writing.options import Writing
from hyperclone_cli.writing.pipeline import expand, expand_part
from hyperclone_cli.writing.provenance import growth_of
from hyperclone_cli.writing.publish import partial_of
from hyperclone_cli.writing.shard_task import ShardTask
from support import faults, ray_nodes
from support.command_line import hyperclone
from support.forked import Forked
from support.heard import Heard

Sources = Callable[[str], Path]
DOUBLE = Request(embed_mult=2, ffn_mult=2, max_shard_size="60KB")
BUDGET = Budget(1, 4096)
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason=ray_nodes.MISSING)


@pytest.fixture(scope="module")
def src(source: Sources) -> Path:
    return source("qwen3")


@pytest.fixture(scope="module")
def whole(src: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone that one process wrote."""
    out = tmp_path_factory.mktemp("whole") / "clone"
    expand(src, out, DOUBLE)
    return out


def order_of(src: Path, out: Path) -> tuple[Order, list[ShardTask]]:
    """What a driver sends to workers for a clone that is written to the directory `out`, which it has prepared."""
    plan = expand(src, out.with_name("planned"), DOUBLE)
    out.mkdir()
    (out / ".hyperclone-token").write_text("seen")
    order = Order(growth_of(plan, src), plan.source.fingerprint(), "seen")
    return order, [ShardTask(shard, out, BUDGET) for shard in plan.shards]


def test_a_worker_needs_nothing_but_values_and_writes_the_same_bytes(src: Path, whole: Path, tmp_path: Path) -> None:
    order, tasks = order_of(src, tmp_path / "out")
    work = pickle.loads(pickle.dumps(partial(write_as_ordered, order)))
    for task in reversed(tasks):
        parts = pickle.loads(pickle.dumps(list(work(task))))
        assert {part.shard for part in parts} == {task.shard}
        assert (task.directory / task.shard).read_bytes() == (whole / task.shard).read_bytes()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"token": "of another directory"}, "does not see the directory"),
        ({"fingerprint": {"model.safetensors": [5, 7]}}, "plans another clone"),
        ({"tool": "0.0.1"}, r"is not that of the driver \(0.0.1\)"),
    ],
)
def test_a_worker_that_sees_something_else_writes_nothing(
    changes: dict[str, Any], words: str, src: Path, tmp_path: Path
) -> None:
    order, tasks = order_of(src, tmp_path / "out")
    with pytest.raises(StorageError, match=words):
        list(write_as_ordered(replace(order, **changes), tasks[0]))
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize(
    "growth, words",
    [
        ({"source": Path("/nowhere/model")}, "/nowhere/model: no such directory"),
        ({"request": Request(embed_mult=4)}, "plans another clone"),
        ({"plan_digest": "0"}, "plans another clone"),
    ],
)
def test_a_worker_that_plans_something_else_writes_nothing(
    growth: dict[str, Any], words: str, src: Path, tmp_path: Path
) -> None:
    order, tasks = order_of(src, tmp_path / "out")
    other = replace(order, growth=replace(order.growth, **growth))
    with pytest.raises(StorageError, match=words):
        list(write_as_ordered(other, tasks[0]))
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"executor": "dask"}, "--executor dask: expected one of threads, ray"),
        ({"ray_address": "auto"}, "only --executor ray"),
        ({"executor": "ray", "rank": 0, "world_size": 2}, "and this is rank 0 of 2"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], words: str, src: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda _: True)
        patch.setattr("hyperclone_cli.writing.ray_cluster.find_spec", lambda _: True)
        with pytest.raises(RequestError, match=words):
            expand_part(src, tmp_path / "clone", DOUBLE, Writing(**options))
        with pytest.raises(RequestError, match="is in an object store"):
            expand_part(src, StoreUrl("s3://models/clone"), DOUBLE, Writing(executor="ray"))


def test_without_ray_the_command_that_installs_it_is_named(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperclone_cli.writing.ray_cluster.find_spec", lambda _: None)
    result = hyperclone("expand", "--src", src, "--out", tmp_path / "clone", "--executor", "ray", code=2)
    assert result.stderr == "Error: --executor ray needs ray.\n  Install it: pip install 'hyperclone-cli[ray]'\n"
    assert not list(tmp_path.iterdir())


@pytest.fixture
def own_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cluster but the one that the test itself has started; its files go with it."""
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_TMPDIR", temporary)
    yield
    shutil.rmtree(temporary, ignore_errors=True)


@needs_ray
@pytest.mark.usefixtures("own_ray")
@pytest.mark.filterwarnings("ignore")  # ray's own
def test_a_cluster_goes_on_where_threads_were_cut(src: Path, whole: Path, tmp_path: Path) -> None:
    class CutError(Exception):
        pass

    def cut(written: int, _: int) -> None:
        if written:
            raise CutError

    with pytest.raises(CutError):
        expand(src, tmp_path / "clone", DOUBLE, progress=Heard(cut))
    heard = Heard()
    plan = expand(src, tmp_path / "clone", DOUBLE, Writing(executor="ray"), progress=heard)
    assert sum(written for written, _ in heard.advances) == plan.nbytes
    assert faults.contents(tmp_path / "clone") == faults.contents(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ray_nodes.Nodes]:
    with ray_nodes.nodes() as started:
        yield started


WIDE = ("--max-shard-size", "8MB")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A source of some size, and the files of its clone, which stood beside it."""
    src = faults.wide_source(tmp_path_factory.mktemp("wide") / "src")
    out = src.with_name("clone")
    assert Forked(faults.command(src, out, *WIDE)).finish() == (0, ANY)
    whole = faults.contents(out)
    shutil.rmtree(out)
    return src, whole


@pytest.mark.stress
@needs_ray
@pytest.mark.parametrize("round_", range(10))
def test_a_node_that_ends_at_a_random_moment_is_made_up_for(
    round_: int, cluster: ray_nodes.Nodes, wide: tuple[Path, dict[str, bytes]]
) -> None:
    src, whole = wide
    out, generator = src.with_name("clone"), random.Random(round_)
    shards = sum(name.endswith(".safetensors") for name in whole)
    begun = generator.randrange(1, shards)
    process = Forked(faults.command(src, out, *WIDE, "--executor", "ray", "--ray-address", cluster.address))
    faults.wait_for(lambda: len(list(partial_of(out).glob("*.safetensors"))) >= begun or out.exists(), process)
    time.sleep(generator.uniform(0, 0.2))
    ended = "too late" if out.exists() else "in the middle"
    cluster.replace(round_ % 2)
    status, stderr = process.finish()
    assert status == 0, stderr
    assert faults.contents(out) == whole
    assert not partial_of(out).exists()
    shutil.rmtree(out)
    print(f"a node ended {ended}, when {begun} of {shards} shards were begun")


@pytest.mark.stress
@needs_ray
def test_a_driver_that_is_killed_goes_on(cluster: ray_nodes.Nodes, wide: tuple[Path, dict[str, bytes]]) -> None:
    src, whole = wide
    out = src.with_name("clone")
    words = faults.command(src, out, *WIDE, "--executor", "ray", "--ray-address", cluster.address)
    process = Forked(words)
    faults.wait_for(lambda: len(list(partial_of(out).glob("*.safetensors"))) > 8, process)
    process.send_signal(signal.SIGKILL)
    process.finish()
    assert not out.exists()
    status, stderr = Forked(words).finish()
    assert status == 0, stderr
    assert faults.contents(out) == whole
    shutil.rmtree(out)


@pytest.mark.stress
@needs_ray
def test_a_directory_that_workers_do_not_see_is_refused(cluster: ray_nodes.Nodes, src: Path, tmp_path: Path) -> None:
    """A filesystem that the driver alone sees: mounted in a namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    out = tmp_path / "disk" / "clone"
    out.parent.mkdir()
    words = faults.command(src, out, "--executor", "ray", "--ray-address", cluster.address)
    inside = f'mount -t tmpfs none {out.parent} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", inside, "sh", sys.executable, "-m", "hyperclone_cli", *words]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert failed.returncode == 5
    assert "this worker does not see the directory" in failed.stderr
    assert "Traceback" not in failed.stderr
