"""Several processes write one clone together: the bytes of a single one, whichever of them is cut."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hyperclone_cli import plan as plan_of
from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.writing import beside_shards, into_directory
from hyperclone_cli.writing.journal import RunKey, open_journal
from hyperclone_cli.writing.options import Writing
from hyperclone_cli.writing.pipeline import expand, expand_part
from hyperclone_cli.writing.ranks import Rank, finish, rank_of, share_of
from hyperclone_cli.writing.run import Written
from support import faults
from support.command_line import as_json, hyperclone
from support.heard import Heard

Sources = Callable[[str], Path]
DOUBLE = Request(embed_mult=2, ffn_mult=2, max_shard_size="60KB")
KEY = RunKey("hyperclone expand", "digest", {"model.safetensors": [5, 7]}, "hyperclone 1")
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8"}
SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}


@pytest.fixture(scope="module")
def src(source: Sources) -> Path:
    return source("qwen3")


@pytest.fixture(scope="module")
def plan(src: Path) -> Plan:
    return plan_of(src, DOUBLE)


@pytest.fixture(scope="module")
def whole(src: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a clone that one process wrote."""
    out = tmp_path_factory.mktemp("whole") / "clone"
    expand(src, out, DOUBLE)
    return faults.contents(out)


def write(src: Path, out: Path, rank: int, world_size: int = 4, request: Request = DOUBLE, **more: Any) -> Written:
    """What one rank writes, in this process."""
    progress = more.pop("progress", None)
    return expand_part(src, out, request, Writing(rank=rank, world_size=world_size, **more), progress=progress)


@pytest.mark.parametrize(
    "options, environment, rank",
    [
        ({}, {**TORCHRUN, **SLURM}, None),
        ({"rank": 3, "world_size": 4}, TORCHRUN, Rank(3, 4)),
        ({"distributed": True}, SLURM, Rank(1, 2)),
        ({"distributed": True}, {**SLURM, **TORCHRUN}, Rank(5, 8)),
        ({"distributed": True}, {**SLURM, "RANK": "5"}, Rank(1, 2)),
    ],
)
def test_options_or_the_launcher_say_which_rank_this_is(
    options: dict[str, Any], environment: Mapping[str, str], rank: Rank | None
) -> None:
    assert rank_of(Writing(**options), environment) == rank


@pytest.mark.parametrize(
    "options, environment, words",
    [
        ({"rank": 3}, {}, "belong together"),
        ({"world_size": 3}, {}, "belong together"),
        ({"rank": 4, "world_size": 4}, {}, "4 and 4"),
        ({"rank": -1, "world_size": 4}, {}, "-1 and 4"),
        ({"rank": 0, "world_size": 4, "distributed": True}, TORCHRUN, "two answers"),
        ({"distributed": True}, {}, "RANK and WORLD_SIZE are not set, nor SLURM_PROCID and SLURM_NTASKS"),
        ({"distributed": True}, {"RANK": "8", "WORLD_SIZE": "8"}, "RANK and WORLD_SIZE are 8 and 8"),
        ({"distributed": True}, {"RANK": "one", "WORLD_SIZE": "8"}, "not set"),
    ],
)
def test_what_makes_no_rank_is_refused(options: dict[str, Any], environment: Mapping[str, str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        rank_of(Writing(**options), environment)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 50])
def test_every_shard_is_in_one_share_and_shares_are_about_equal(world_size: int, plan: Plan) -> None:
    shares = [share_of(plan, Rank(number, world_size)) for number in range(world_size)]
    assert sorted(shard for share in shares for shard in share.shards) == sorted(plan.shards)
    assert sum(share.nbytes for share in shares) == plan.nbytes
    largest = max(
        sum(tensor.nbytes for tensor in plan.tensors if tensor.name in names) for names in plan.shards.values()
    )
    assert max(share.nbytes for share in shares) <= min(share.nbytes for share in shares) + largest
    assert {share.digest for share in shares} == {plan.digest}


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_the_last_rank_to_finish_publishes_the_bytes_of_one_process(
    order: tuple[int, ...], src: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "clone"
    for place, number in enumerate(order):
        assert not out.exists()
        written = write(src, out, number)
        assert written.standing is not None
        assert set(written.standing.unfinished) == set(order[place + 1 :])
        assert written.published is (number == order[-1])
    assert faults.contents(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]


def test_more_ranks_than_shards_publish_too(src: Path, tmp_path: Path) -> None:
    request = Request(embed_mult=2)
    assert [write(src, tmp_path / "clone", rank, 3, request).published for rank in range(3)] == [False, False, True]
    expand(src, tmp_path / "whole", request)
    assert faults.contents(tmp_path / "clone") == faults.contents(tmp_path / "whole")


def test_four_processes_at_once_of_which_one_is_killed_and_run_again(
    src: Path, whole: dict[str, bytes], plan: Plan, tmp_path: Path
) -> None:
    out = tmp_path / "clone"

    def run(rank: int, cut: bool) -> None:
        total = 0

        def kill(written: int, _: int) -> None:
            nonlocal total
            total += written
            if cut and total > share_of(plan, Rank(rank, 4)).nbytes / 2:
                os.kill(os.getpid(), signal.SIGKILL)

        write(src, out, rank, progress=Heard(kill), threads=1)

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=run, args=(rank, rank == 2)) for rank in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, -signal.SIGKILL, 0]
    assert not out.exists()
    again = write(src, out, 2)
    assert again.published
    assert any("An earlier run had written" in note for note in again.plan.notes)
    assert faults.contents(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]


def test_of_ranks_that_finish_at_once_one_publishes(plan: Plan, tmp_path: Path) -> None:
    def end(rank: Rank) -> int | None:
        path = tmp_path / f".hyperclone-partial-rank-{rank.number}-of-4"
        path.touch()
        journal = open_journal(path, KEY)
        for shard, names in share_of(plan, rank).shards.items():
            journal.record(shard, names)
        return finish(journal, plan, KEY, rank).publisher

    for _ in range(20):
        with ThreadPoolExecutor(4) as threads:
            found = set(threads.map(end, [Rank(number, 4) for number in range(4)]))
        assert len(found - {None}) == 1
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()


@pytest.mark.parametrize(
    "number, world_size, request_, words",
    [
        (1, 4, Request(embed_mult=2), "another request"),
        (0, 4, Request(embed_mult=2), "another request"),
        (1, 2, DOUBLE, "that 4 ranks write; this is rank 1 of 2"),
    ],
)
def test_a_rank_with_another_plan_does_not_join_and_leaves_the_others_alone(
    number: int, world_size: int, request_: Request, words: str, src: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, partial = tmp_path / "clone", tmp_path / "clone.partial"
    write(src, out, 0)
    before = faults.contents(partial)
    with pytest.raises(RequestError, match=words) as refusal:
        write(src, out, number, world_size, request_)
    assert f"remove {partial}" in refusal.value.hint
    assert faults.contents(partial) == before
    for rank in (1, 2, 3):
        write(src, out, rank)
    assert faults.contents(out) == whole


def test_one_process_does_not_take_over_from_ranks_unless_it_restarts(src: Path, whole: Any, tmp_path: Path) -> None:
    write(src, tmp_path / "clone", 0)
    with pytest.raises(RequestError, match="several ranks"):
        expand(src, tmp_path / "clone", DOUBLE)
    expand(src, tmp_path / "clone", DOUBLE, Writing(restart=True))
    assert faults.contents(tmp_path / "clone") == whole


def test_ranks_do_not_take_over_from_one_process(src: Path, tmp_path: Path) -> None:
    partial = tmp_path / "clone.partial"
    partial.mkdir()
    (partial / faults.JOURNAL).write_text("begun")
    with pytest.raises(RequestError, match="one process writes"):
        write(src, tmp_path / "clone", 0)
    assert faults.contents(partial) == {faults.JOURNAL: b"begun"}


def test_a_rank_discards_nothing(src: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="rank 0 of 4 cannot discard"):
        write(src, tmp_path / "clone", 0, restart=True)


def test_the_same_rank_twice_and_one_process_beside_it_are_refused(src: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def meddle(*_: int) -> None:
        if refused:
            return
        with pytest.raises(StorageError) as again:
            write(src, tmp_path / "clone", 0)
        with pytest.raises(StorageError) as alone:
            expand(src, tmp_path / "clone", DOUBLE)
        refused.extend([again.value.message, alone.value.message])

    write(src, tmp_path / "clone", 0, progress=Heard(meddle))
    assert "another process of rank 0 of 4 is writing it" in refused[0]
    assert "another run is writing it" in refused[1]


@pytest.mark.parametrize(
    "module, where",
    [(beside_shards, "_write_files"), (beside_shards, "check_written"), (into_directory, "take_place")],
)
def test_a_rank_that_is_cut_while_it_publishes_goes_on_and_no_other_does(
    module: ModuleType, where: str, src: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutError(Exception):
        pass

    def cut(*_: object) -> None:
        raise CutError

    for rank in (0, 1, 2):
        write(src, tmp_path / "clone", rank)
    with monkeypatch.context() as patch:
        patch.setattr(module, where, cut)
        with pytest.raises(CutError):
            write(src, tmp_path / "clone", 3)
    other = write(src, tmp_path / "clone", 1)
    assert other.standing is not None
    assert (other.published, other.standing.publisher) == (False, 3)
    assert write(src, tmp_path / "clone", 3).published
    assert faults.contents(tmp_path / "clone") == whole


def test_a_rank_that_is_run_once_more_after_all_is_content(src: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    for rank in (0, 1):
        write(src, tmp_path / "clone", rank, 2)
    (tmp_path / "clone" / f"{faults.JOURNAL}-rank-0-of-2.done").touch()  # as left by a kill after the last rename
    (tmp_path / "clone" / faults.JOURNAL).touch()
    again = write(src, tmp_path / "clone", 0, 2)
    assert not again.published
    assert faults.contents(tmp_path / "clone") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]
    with pytest.raises(RequestError, match="already exists"):
        write(src, tmp_path / "clone", 0, 2, Request(embed_mult=2))


def test_ranks_replace_a_clone_when_the_last_has_finished(src: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    expand(src, tmp_path / "clone", Request(embed_mult=2))
    before = faults.contents(tmp_path / "clone")
    write(src, tmp_path / "clone", 0, 2, overwrite=True)
    assert faults.contents(tmp_path / "clone") == before
    write(src, tmp_path / "clone", 1, 2, overwrite=True)
    assert faults.contents(tmp_path / "clone") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]


def test_a_damaged_journal_of_a_finished_rank_is_written_again(
    src: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    write(src, tmp_path / "clone", 0, 2)
    journal = tmp_path / "clone.partial" / f"{faults.JOURNAL}-rank-0-of-2.done"
    os.truncate(journal, journal.stat().st_size - random.Random(0).randrange(2, 40))
    last = write(src, tmp_path / "clone", 1, 2).standing
    assert last is not None
    assert last.unfinished == (0,)
    assert write(src, tmp_path / "clone", 0, 2).published
    assert faults.contents(tmp_path / "clone") == whole


def test_a_filesystem_without_links_is_refused_before_anything_is_written(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(StorageError, match="makes no links"):
        write(src, tmp_path / "clone", 0)
    assert not list((tmp_path / "clone.partial").glob("*.safetensors"))


def test_the_command_says_who_is_still_to_finish_and_verifies_once(src: Path, tmp_path: Path) -> None:
    words = ["expand", "--src", src, "--out", tmp_path / "clone", "--embed-mult", 2, "--max-shard-size", "60KB"]
    words += ["--verify-tokens", 8]
    first = hyperclone(*words, "--rank", 2, "--world-size", 3)
    assert "rank 2 of 3 wrote" in first.stdout
    assert "not finished: rank 0, rank 1" in first.stdout
    second = as_json(hyperclone(*words, "--distributed", "--json", env={**os.environ, "RANK": "0", "WORLD_SIZE": "3"}))
    assert (second["rank"], second["unfinished_ranks"]) == (0, [1])
    last = hyperclone(*words, "--rank", 1, "--world-size", 3)
    assert last.stdout.splitlines()[-1].startswith("passed:")
    again = hyperclone(*words, "--rank", 1, "--world-size", 3)
    assert again.stdout == f"{tmp_path / 'clone'}: rank 1 of 3 wrote nothing; the clone is published\n"


def test_plan_shows_what_each_rank_would_write(src: Path, plan: Plan) -> None:
    words = ["plan", "--src", src, "--embed-mult", 2, "--ffn-mult", 2, "--max-shard-size", "60KB", "--world-size", 3]
    shown = as_json(hyperclone(*words, "--json"))
    assert sorted(shard for rank in shown["ranks"] for shard in rank["shards"]) == sorted(plan.shards)
    assert [rank["bytes"] for rank in shown["ranks"]] == [share_of(plan, Rank(rank, 3)).nbytes for rank in range(3)]
    assert "each of 3 ranks" in hyperclone(*words).stdout
    assert "ranks" not in as_json(hyperclone(*words[:-2], "--json"))
