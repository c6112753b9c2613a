"""The files of a clone read by the workers of a Ray cluster: the figures of a single process.

What a worker does is a function of values, and is tested without Ray. The tests on a cluster are for `-m stress`.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from hyperclone_cli import expand
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.errors import StorageError
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.verifier import verify
from hyperclone_cli.verifier.on_ray import Comparison, compare_as_told, compare_on_ray, hash_on_ray
from hyperclone_cli.verifier.verification_record import file_digests, hashed_files
from hyperclone_cli.verifier.weights import compare_weights
from hyperclone_cli.writing.options import Executing
from hyperclone_cli.writing.ray_cluster import Result, Task, Work
from support import faults, ray_nodes
from support.heard import Heard

Sources = Callable[[str], Path]


def do(work: Work[Task, Result], tasks: Iterable[Task], cpus: int, nbytes: int) -> Iterator[tuple[Task, Result]]:
    """As a cluster does them, whose tasks end in some other order, and whose workers have nothing but what is sent."""
    assert cpus == 1
    assert nbytes < 1 << 30
    for task in reversed(list(tasks)):
        sent = pickle.loads(pickle.dumps((work, task)))
        yield from ((task, pickle.loads(pickle.dumps(result))) for result in sent[0](sent[1]))


@pytest.fixture(scope="module")
def clone(source: Sources, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    out = tmp_path_factory.mktemp("clones") / "clone"
    return expand(source("qwen3"), out, embed_mult=2, ffn_mult=2, max_shard_size="60KB")


@pytest.fixture(scope="module")
def damaged(clone: Plan, source: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clone with a wrong number in one file and without a tensor in another."""
    out = tmp_path_factory.mktemp("clones") / "damaged"
    expand(source("qwen3"), out, embed_mult=2, ffn_mult=2, max_shard_size="60KB")
    shards = sorted(shard for shard, names in clone.shards.items() if len(names) > 1)
    first = load_file(out / shards[0])
    next(iter(first.values())).view(-1)[3] += 1
    save_file(first, out / shards[0], metadata={"format": "pt"})
    return out


def test_figures_of_all_files_together_are_those_of_the_whole(clone: Plan, damaged: Path) -> None:
    heard: list[tuple[int, int]] = []
    checkpoint = open_source(damaged)
    found = compare_on_ray(clone, checkpoint, do, lambda *numbers: heard.append(numbers))
    assert found == compare_weights(clone, checkpoint, lambda *_: None)
    assert len(found.bad) == 1
    assert sum(done for done, _ in heard) == heard[0][1] == found.elements


def test_digests_are_those_of_one_process(damaged: Path) -> None:
    assert hash_on_ray(damaged, hashed_files(damaged), do) == file_digests(damaged)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"clone": Path("/nowhere/clone")}, "/nowhere/clone"),
        ({"source": "/nowhere/model"}, "no such directory"),
        ({"plan_digest": "0"}, "another clone, or another source"),
        ({"files": ({}, {})}, "another clone, or another source"),
    ],
)
def test_a_worker_that_sees_something_else_compares_nothing(
    changes: dict[str, Any], words: str, clone: Plan, damaged: Path
) -> None:
    told: list[Comparison] = []

    def listen(work: Any, *_: object) -> Iterator[Any]:
        told.extend(work.args)
        yield from ()

    compare_on_ray(clone, open_source(damaged), listen, lambda *_: None)  # type: ignore[arg-type]
    assert list(compare_as_told(told[0], ()))
    with pytest.raises(StorageError, match=words):
        list(compare_as_told(replace(told[0], **changes), ()))


@pytest.fixture(scope="module")
def cluster() -> Iterator[ray_nodes.Nodes]:
    with ray_nodes.nodes() as started:
        yield started


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two clones of 0.2 GB in 30 files, which recorded their SHA-256: as it was written, and with one bit changed."""
    src = faults.wide_source(tmp_path_factory.mktemp("wide") / "src")
    clones = {state: src.with_name(state) for state in ("whole", "damaged")}
    for out in clones.values():
        expand(src, out, embed_mult=4, ffn_mult=4, max_shard_size="8MB", checksum=True)
    with sorted(clones["damaged"].glob("*.safetensors"))[7].open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))  # an exponent
    return clones


@pytest.mark.stress
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason=ray_nodes.MISSING)
@pytest.mark.filterwarnings("ignore")  # ray's own
@pytest.mark.parametrize("state, ended", [("whole", None), ("whole", 0.3), ("damaged", 0.6)])
def test_a_cluster_says_what_threads_say(
    state: str, ended: float | None, wide: dict[str, Path], cluster: ray_nodes.Nodes
) -> None:
    """Also if a node ends when so much is compared."""
    clone, compared = wide[state], 0

    def watch(weights: int, total: int) -> None:
        nonlocal compared
        before, compared = compared, compared + weights
        if ended is not None and before <= ended * total < compared:
            cluster.replace(0)

    on_ray = Executing("ray", cluster.address)
    found = verify(clone, weights_only=True, checksum=True, executing=on_ray, progress=Heard(watch))
    by_threads = verify(clone, weights_only=True, checksum=True)
    assert replace(found, background=None) == replace(by_threads, background=None)
    assert found.passed is (state == "whole")
    assert found.weights
    assert compared == found.weights.elements
    if state == "damaged":
        shard = sorted(clone.glob("*.safetensors"))[7].name
        assert any(shard in failure for failure in found.failures)
        assert any("weights are off" in failure for failure in found.failures)
