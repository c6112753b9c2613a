"""A clone takes its place whole or not at all, and what the user put there is never lost."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hyperclone_cli import expand
from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from support import faults, models
from support.heard import Heard

Sources = Callable[[str], Path]
DOUBLE = Request(embed_mult=2, ffn_mult=2)


def test_overwrite_replaces_the_model_and_leaves_nothing_behind(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mqa"), tmp_path / "clone", Request(embed_mult=2, max_shard_size="50KB"))
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]
    assert (tmp_path / "clone" / "model.safetensors").exists()
    assert verify(tmp_path / "clone", weights_only=True).passed


def test_a_failed_overwrite_leaves_the_old_model(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    before = faults.contents(tmp_path / "clone")
    with pytest.raises(RequestError):
        expand(source("llama-mqa"), tmp_path / "clone", Request(heads_mult=5), overwrite=True)
    assert faults.contents(tmp_path / "clone") == before


def test_an_overwrite_that_was_killed_between_its_two_renames_is_undone(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    (tmp_path / "clone" / ".replaced-by-hyperclone").touch()
    (tmp_path / "clone").rename(tmp_path / ".clone.replaced-by-hyperclone")
    with pytest.raises(RequestError, match="already exists"):
        expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    assert verify(tmp_path / "clone", weights_only=True).passed
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=True)


def test_finished_shards_outlive_the_refusal_to_overwrite(source: Sources, tmp_path: Path) -> None:
    """Killed between the renames, then run again without --overwrite: the old model is back, the new one not lost."""
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    (tmp_path / "clone" / ".replaced-by-hyperclone").touch()
    (tmp_path / "clone").rename(tmp_path / ".clone.replaced-by-hyperclone")
    partial = tmp_path / "clone.partial"
    partial.mkdir()
    (partial / ".hyperclone-partial").write_text("begun")
    (partial / "model.safetensors").write_text("whole")
    with pytest.raises(RequestError, match="already exists"):
        expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    assert faults.contents(partial) == {".hyperclone-partial": b"begun", "model.safetensors": b"whole"}


def test_an_empty_directory_is_as_good_as_none(source: Sources, tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]
    assert verify(tmp_path / "clone", weights_only=True).passed


def test_a_directory_of_the_users_is_not_taken_for_a_clone_set_aside(source: Sources, tmp_path: Path) -> None:
    (tmp_path / ".clone.replaced-by-hyperclone").mkdir()
    (tmp_path / ".clone.replaced-by-hyperclone" / "notes.txt").write_text("mine")
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    assert (tmp_path / ".clone.replaced-by-hyperclone" / "notes.txt").read_text() == "mine"


def test_a_clone_with_files_of_the_users_is_not_replaced(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    for name in ("train.py", "tokenizer_data/corpus.txt"):
        (tmp_path / "clone" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "clone" / name).write_text("mine")
        with pytest.raises(RequestError, match=name):
            expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=True)
        (tmp_path / "clone" / name).unlink()


def test_a_clone_that_was_trained_in_place_is_not_replaced(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    models.load(tmp_path / "clone").save_pretrained(tmp_path / "clone")
    before = faults.contents(tmp_path / "clone")
    with pytest.raises(RequestError, match="is newer than the clone, as if trained since"):
        expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=True)
    assert faults.contents(tmp_path / "clone") == before


def test_a_clone_that_was_verified_and_whose_card_was_edited_is_replaced(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    assert verify(tmp_path / "clone").passed
    (tmp_path / "clone/README.md").write_text("# Mine")
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_came_while_a_clone_was_written_are_not_replaced(
    overwrite: bool, source: Sources, tmp_path: Path
) -> None:
    if overwrite:
        expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    mine = tmp_path / "clone/checkpoint-500/model.safetensors"

    def work(_: int, __: int) -> None:
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("years")

    with pytest.raises(StorageError, match="clone: ") as refusal:
        expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=overwrite, progress=Heard(work))
    assert "it resumes what is in" in refusal.value.hint
    assert mine.read_text() == "years"
    shutil.move(mine.parent, tmp_path / "mine")
    resumed = expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=overwrite)
    assert any("An earlier run had written" in note for note in resumed.notes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone", "mine"]


@pytest.mark.parametrize("removed", range(4))
def test_an_overwrite_that_was_killed_while_it_removed_the_old_model_is_finished(
    removed: int, source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    unlink, left = Path.unlink, removed

    def kill(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        if "by-hyperclone" in path.parent.name:
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", kill)
        with pytest.raises(KeyboardInterrupt) as stop:
            expand(source("llama-mqa"), tmp_path / "clone", Request(embed_mult=3), overwrite=True)
    assert not str(stop.value)
    assert json.loads((tmp_path / "clone/config.json").read_text())["hidden_size"] == 3 * 48
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]


def test_a_second_run_into_the_same_place_is_refused(source: Sources, tmp_path: Path) -> None:
    partial = tmp_path / "clone.partial"
    partial.mkdir()
    with (partial / ".hyperclone-partial").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another run"):
            expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)


def test_of_two_runs_at_once_one_writes_and_the_other_is_refused(source: Sources, tmp_path: Path) -> None:
    def run(_: int) -> str:
        try:
            expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
        except (RequestError, StorageError) as error:
            return error.message
        return ""

    source("llama-mqa")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(run, range(4)))
    assert answers.count("") == 1
    assert verify(tmp_path / "clone", weights_only=True).passed
