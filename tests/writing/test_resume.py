"""An expansion that was cut goes on where it stopped, and ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import get_ident
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli import expand
from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing import budget, shard_task
from hyperclone_cli.writing.journal import RunKey, open_journal
from support import faults, models
from support.command_line import hyperclone
from support.forked import Forked
from support.heard import Heard

Sources = Callable[[str], Path]
DOUBLE = Request(embed_mult=2, ffn_mult=2, max_shard_size="60KB")
KEY = RunKey("hyperclone expand", "digest", {"model.safetensors": [5, 7]}, "hyperclone 1")


class CutError(Exception):
    """What stands for a power cut."""


def cut_at(src: Path, out: Path, fraction: float, request: Request = DOUBLE) -> None:
    """Begin the clone and stop when so much of it is written."""
    total = 0

    def cut(written: int, whole: int) -> None:
        nonlocal total
        total += written
        if total > fraction * whole:
            raise CutError

    with pytest.raises(CutError):
        expand(src, out, request, progress=Heard(cut), threads=1)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.touch()
    return path


def test_a_journal_remembers_the_tensors_of_each_shard(journal: Path) -> None:
    begun = open_journal(journal, KEY)
    begun.record("one", ["a", "b"])
    begun.record("other", ["c"])
    begun.record("one", ["d"])
    assert open_journal(journal, KEY).done == {"one": {"a", "b", "d"}, "other": {"c"}}
    assert open_journal(journal, KEY, restart=True).done == {}


def test_a_journal_may_begin_with_its_first_record(journal: Path) -> None:
    begun = open_journal(journal, KEY, begin=False)
    assert journal.read_bytes() == b""
    begun.record("one", ["a"])
    assert open_journal(journal, KEY).done == {"one": {"a"}}


@pytest.mark.parametrize(
    "damage",
    [
        *(b'{"shard": "one", "ten', b"\0" * 300, b"7\n", b"[]\n", b'{"shard": "x"}\n', b"\n"),
        *(b'{"shard": [], "tensors": [], "not_finite": []}\n', b'{"shard": "x", "tensors": 3, "not_finite": []}\n'),
        b'{"shard": "x", "tensors": [], "not_finite": [[]]}\n',
    ],
)
def test_what_is_damaged_in_a_journal_counts_for_nothing(damage: bytes, journal: Path) -> None:
    open_journal(journal, KEY).record("one", ["a"])
    with journal.open("ab") as file:
        file.write(damage)
    again = open_journal(journal, KEY)
    assert again.done == {"one": {"a"}}
    again.record("one", ["b"])
    assert open_journal(journal, KEY).done == {"one": {"a", "b"}}


@pytest.mark.parametrize(
    "damage",
    [
        *(b"", b"\0" * 300, b"{}\n", b'{"command": "hyp'),
        b'{"command": "hyperclone", "plan": "digest", "source": null, "tool": "hyperclone 1"}\n',
    ],
)
def test_a_journal_without_a_beginning_is_begun_anew(damage: bytes, journal: Path) -> None:
    journal.write_bytes(damage + b'{"shard": "one", "tensors": ["a"]}\n' * bool(damage))
    assert open_journal(journal, KEY).done == {}
    assert json.loads(journal.read_text())["plan"] == "digest"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"plan": "other", "command": "hyperclone expand --ffn-mult 3"}, "asked for:  hyperclone expand --ffn-mult 3"),
        ({"source": {"model.safetensors": [5, 8]}}, r"changed since: model\.safetensors"),
        ({"source": {}}, r"changed since: model\.safetensors"),
        ({"tool": "hyperclone 2"}, "by hyperclone 1, this is hyperclone 2"),
    ],
)
def test_a_journal_of_something_else_is_refused_and_kept(changes: dict[str, Any], words: str, journal: Path) -> None:
    open_journal(journal, KEY).record("one", ["a"])
    before = journal.read_bytes()
    with pytest.raises(RequestError, match=words) as refusal:
        open_journal(journal, replace(KEY, **changes))
    assert "--restart" in refusal.value.hint
    assert journal.read_bytes() == before


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.6, 0.95])
def test_a_cut_run_is_finished_with_the_same_bytes(fraction: float, source: Sources, tmp_path: Path) -> None:
    expand(source("qwen3"), tmp_path / "whole", DOUBLE)
    cut_at(source("qwen3"), tmp_path / "clone", fraction)
    expand(source("qwen3"), tmp_path / "clone", DOUBLE, threads=2)
    assert faults.contents(tmp_path / "clone") == faults.contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone", "whole"]


def test_a_deeper_clone_has_the_same_bytes_cut_or_not_in_shards_and_by_any_number_of_threads(
    source: Sources, tmp_path: Path
) -> None:
    deeper = replace(DOUBLE, depth_mult=1.5, mixing=Mixing("uneven", noise_snr_db=10))
    plan = expand(source("gemma2"), tmp_path / "whole", deeper, threads=1)
    assert len(plan.shards) > 2
    cut_at(source("gemma2"), tmp_path / "clone", 0.6, deeper)
    expand(source("gemma2"), tmp_path / "clone", deeper, threads=3)
    assert faults.contents(tmp_path / "clone") == faults.contents(tmp_path / "whole")
    assert verify(tmp_path / "clone").passed


def test_only_what_is_missing_is_written(source: Sources, tmp_path: Path) -> None:
    cut_at(source("qwen3"), tmp_path / "clone", 0.6)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "clone.partial").glob("*.safetensors")}
    heard = Heard()
    plan = expand(source("qwen3"), tmp_path / "clone", DOUBLE, progress=heard)
    assert sum(written for written, _ in heard.advances) == plan.nbytes
    assert len(kept) > 2
    assert any("An earlier run had written" in note for note in plan.notes)
    assert not any("An earlier run" in note for note in expand(source("qwen3"), tmp_path / "new", DOUBLE).notes)


def test_non_finite_tensors_of_the_run_that_was_cut_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block is synced by itself: the journal names a tensor whose only NaN was in one of its first blocks."""
    src = models.build("llama-mha", tmp_path / "src")
    tensors = load_file(src / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.0.mlp.up_proj.weight"))
    tensors[name][0, 0] = torch.nan
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(shard_task, "_SYNC_BYTES", 1)
    monkeypatch.setattr(budget, "LARGEST_BLOCK_BYTES", 5000)
    cut_at(src, tmp_path / "clone", 0.99, Request(embed_mult=2))
    plan = expand(src, tmp_path / "clone", Request(embed_mult=2))
    assert any("An earlier run had written" in note for note in plan.notes)
    assert json.loads((tmp_path / "clone/hyperclone.json").read_text())["not_finite"] == [name]


def test_progress_is_told_from_the_callers_own_thread(source: Sources, tmp_path: Path) -> None:
    threads = set[int]()
    expand(source("qwen3"), tmp_path / "clone", DOUBLE, progress=Heard(lambda *_: threads.add(get_ident())), threads=4)
    assert threads == {get_ident()}


def test_a_shard_that_was_lost_or_cut_is_written_again(source: Sources, tmp_path: Path) -> None:
    expand(source("qwen3"), tmp_path / "whole", DOUBLE)
    cut_at(source("qwen3"), tmp_path / "clone", 0.8)
    first, second, *_ = sorted((tmp_path / "clone.partial").glob("*.safetensors"))
    first.unlink()
    os.truncate(second, 100)
    expand(source("qwen3"), tmp_path / "clone", DOUBLE)
    assert faults.contents(tmp_path / "clone") == faults.contents(tmp_path / "whole")


def test_files_that_the_clone_no_longer_has_do_not_stay(source: Sources, tmp_path: Path) -> None:
    cut_at(source("qwen3"), tmp_path / "clone", 0.5)
    (tmp_path / "clone.partial" / "merges.txt").write_text("of a source that had it")
    expand(source("qwen3"), tmp_path / "clone", DOUBLE)
    assert not (tmp_path / "clone" / "merges.txt").exists()


def test_another_request_is_refused_until_restart(source: Sources, tmp_path: Path) -> None:
    cut_at(source("qwen3"), tmp_path / "clone", 0.5)
    before = faults.contents(tmp_path / "clone.partial")
    with pytest.raises(RequestError) as refusal:
        expand(source("qwen3"), tmp_path / "clone", Request(embed_mult=3))
    assert f"--embed-mult 2 --ffn-mult 2 --max-shard-size 60KB --out {tmp_path / 'clone'}" in refusal.value.message
    assert "--embed-mult 3" in refusal.value.message
    assert "--restart" in refusal.value.hint
    assert faults.contents(tmp_path / "clone.partial") == before
    plan = expand(source("qwen3"), tmp_path / "clone", Request(embed_mult=3), restart=True)
    assert plan.notes == ()
    expand(source("qwen3"), tmp_path / "whole", Request(embed_mult=3))
    assert faults.contents(tmp_path / "clone") == faults.contents(tmp_path / "whole")


def test_a_source_that_changed_between_two_runs_is_refused(source: Sources, tmp_path: Path) -> None:
    src = tmp_path / "src"
    shutil.copytree(source("qwen3"), src)
    cut_at(src, tmp_path / "clone", 0.5)
    os.utime(src / "model.safetensors", ns=(0, 0))
    with pytest.raises(RequestError, match=r"changed since: model\.safetensors"):
        expand(src, tmp_path / "clone", DOUBLE)


def test_a_source_of_bin_files_that_changed_is_refused_too(source: Sources, tmp_path: Path) -> None:
    src = tmp_path / "src"
    shutil.copytree(source("qwen3"), src)
    torch.save(load_file(src / "model.safetensors"), src / "pytorch_model.bin")
    (src / "model.safetensors").unlink()
    cut_at(src, tmp_path / "clone", 0.5)
    os.utime(src / "pytorch_model.bin", ns=(0, 0))
    with pytest.raises(RequestError, match=r"changed since: pytorch_model\.bin"):
        expand(src, tmp_path / "clone", DOUBLE)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: os.utime(path, ns=(0, 0))], ids=["deleted", "touched"])
def test_a_source_that_changes_meanwhile_makes_no_clone(
    change: Callable[[Path], None], source: Sources, tmp_path: Path
) -> None:
    src = tmp_path / "src"
    shutil.copytree(source("qwen3"), src)

    def meddle(step: int, _: int) -> None:
        if step and (src / "model.safetensors").exists():
            change(src / "model.safetensors")

    with pytest.raises(StorageError, match=r"model\.safetensors"):
        expand(src, tmp_path / "clone", DOUBLE, progress=Heard(meddle))
    assert not (tmp_path / "clone").exists()


@pytest.mark.parametrize("request_", [DOUBLE, Request(embed_mult=1.5, mixing=replace(DOUBLE.mixing, noise_snr_db=10))])
def test_neither_threads_nor_memory_change_a_byte(request_: Request, source: Sources, tmp_path: Path) -> None:
    expand(source("opt-125m"), tmp_path / "one", request_, threads=1)
    for threads in (2, 4, 8):
        expand(source("opt-125m"), tmp_path / f"{threads}", request_, threads=threads, max_memory="17MB")
        assert faults.contents(tmp_path / f"{threads}") == faults.contents(tmp_path / "one")


def test_a_clone_whose_run_was_killed_when_all_was_done_loses_its_journal(source: Sources, tmp_path: Path) -> None:
    expand(source("qwen3"), tmp_path / "clone", DOUBLE)
    whole = faults.contents(tmp_path / "clone")
    (tmp_path / "clone" / faults.JOURNAL).touch()
    with pytest.raises(RequestError, match="already exists"):
        expand(source("qwen3"), tmp_path / "clone", DOUBLE)
    assert faults.contents(tmp_path / "clone") == whole


def run_again(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command that was run as a process of its own, in this process, to its end."""
    return hyperclone(*words)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faults.wide_source(tmp_path_factory.mktemp("wide") / "wide")


@pytest.fixture(scope="module")
def whole(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a clone of `wide` that nothing has cut."""
    out = tmp_path_factory.mktemp("whole") / "clone"
    run_again(faults.command(wide, out))
    found = faults.contents(out)
    shutil.rmtree(out)
    return found


def same_clone(found: dict[str, bytes], whole: dict[str, bytes]) -> bool:
    """Whether two clones are equal but for where the source lies, as seen from each."""
    return {name: data for name, data in found.items() if name != "hyperclone.json"} == {
        name: data for name, data in whole.items() if name != "hyperclone.json"
    } and without_source(found["hyperclone.json"]) == without_source(whole["hyperclone.json"])


def without_source(provenance: bytes) -> dict[str, object]:
    return {key: value for key, value in json.loads(provenance).items() if key != "source"}


@pytest.mark.parametrize("sent, code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
@pytest.mark.parametrize("pause_s", faults.moments(2, 0.2))
def test_a_killed_process_is_finished_by_the_next(
    sent: signal.Signals, code: int, pause_s: float, wide: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, partial = tmp_path / "clone", tmp_path / "clone.partial"
    words = faults.command(wide, out)
    status, stderr = faults.cut(words, sent, (partial / "model.safetensors").exists, pause_s)
    assert "Traceback" not in stderr
    assert partial.exists() is not out.exists()
    if partial.exists():  # else the clone was published before the signal came
        assert status == code
        said = f"Interrupted. Run the same command again: it resumes what is in {partial}."
        assert (said in stderr) is (sent == signal.SIGINT)
        assert run_again(words).stdout.count("parameters") == 1
    (out / faults.JOURNAL).unlink(missing_ok=True)  # killed right after publishing, a run leaves it to the next one
    assert same_clone(faults.contents(out), whole)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.999])
def test_a_file_that_cannot_grow_is_one_message_and_a_clone_once_it_can(
    fraction: float, wide: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    words = faults.command(wide, tmp_path / "clone")
    status, stderr = Forked(words, limit_bytes=int(fraction * len(whole["model.safetensors"]))).finish()
    assert status == 5
    assert stderr.count("Error:") == 1
    assert "File too large" in stderr
    assert "Traceback" not in stderr
    run_again(words)
    assert same_clone(faults.contents(tmp_path / "clone"), whole)


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write anywhere")
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_permission_that_is_lost_is_one_message_and_a_clone_once_it_is_back(
    when: str, wide: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    place, partial = tmp_path / "place", tmp_path / "place/clone.partial"
    place.mkdir()
    words = faults.command(wide, place / "clone")
    if when == "before":
        place.chmod(0o500)
    bound = [*faults.without_override(), sys.executable, "-m", "hyperclone_cli", *words]
    process = subprocess.Popen(bound, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if when == "meanwhile":
        faults.wait_for((partial / "model.safetensors").exists, process)
        partial.chmod(0o500)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 5
    assert stderr.count("Error:") == 1
    assert "Permission denied" in stderr
    assert "Traceback" not in stderr
    (place if when == "before" else partial).chmod(0o700)
    run_again(words)
    assert same_clone(faults.contents(place / "clone"), whole)
