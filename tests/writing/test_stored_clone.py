"""A clone in an object store: the bytes of one on a disk, and until it is whole nothing that is taken for a model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hyperclone_cli.checkpoint.object_store import Objects, StoreUrl
from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.writing import stored_clone
from hyperclone_cli.writing.options import Writing
from hyperclone_cli.writing.pipeline import expand, expand_part
from support import faults, s3
from support.command_line import hyperclone
from support.heard import Heard

Sources = Callable[[str], Path]
DOUBLE = Request(embed_mult=2, ffn_mult=2, max_shard_size="60KB")


class CutError(Exception):
    """What stands for the end of the machine."""


@pytest.fixture(scope="module")
def server() -> Iterator[s3.Server]:
    with s3.server() as running:
        yield running


@pytest.fixture
def out(server: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreUrl:
    """A prefix where nothing is yet; the machine's temporary files are seen in `tmp_path / "spool"`."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spool"))
    return StoreUrl(f"s3://{s3.BUCKET}/{tmp_path.name}/clone")


@pytest.fixture(scope="module")
def src(source: Sources) -> Path:
    return source("qwen3")


@pytest.fixture(scope="module")
def whole(src: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the clone on a disk."""
    clone = tmp_path_factory.mktemp("whole") / "clone"
    expand(src, clone, DOUBLE)
    return files(faults.contents(clone))


def files(found: dict[str, bytes]) -> dict[str, bytes]:
    """Name → bytes, but for where the source lies, as seen from the clone."""
    record = json.loads(found["hyperclone.json"]) | {"source": ""}
    return found | {"hyperclone.json": json.dumps(record).encode()}


def is_a_model(out: StoreUrl) -> bool:
    """Whether a loader would find one: all of them begin with config.json."""
    return "config.json" in Objects(out).list()


def test_the_objects_are_the_files_of_a_clone_on_a_disk(
    src: Path, out: StoreUrl, whole: dict[str, bytes], tmp_path: Path
) -> None:
    heard = Heard()
    plan = expand(src, out, DOUBLE, progress=heard)
    found = s3.contents(str(out))
    assert json.loads(found["hyperclone.json"])["source"] == "../qwen3"
    assert files(found) == whole
    assert sum(done for done, _ in heard.advances) == plan.nbytes
    assert not list((tmp_path / "spool").iterdir())


def test_from_store_to_store(src: Path, out: StoreUrl, whole: dict[str, bytes]) -> None:
    s3.put(src, f"{out.url}-source/qwen3")
    expand(f"{out.url}-source/qwen3", out, DOUBLE)
    assert files(s3.contents(str(out))) == whole


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_what_makes_it_a_model_is_written_last(
    name: str, src: Path, out: StoreUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    present: dict[str, set[str]] = {}
    write = Objects.write

    def watched(self: Objects, name: str, content: bytes) -> None:
        present[name] = {*self.list()}
        write(self, name, content)

    monkeypatch.setattr(Objects, "write", watched)
    plan = expand(src, out, DOUBLE)
    after = {*Objects(out).list()} - present[name]
    assert after == {"config.json", name}
    assert {*plan.shards, "hyperclone.json", "README.md"} <= present[name]


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.6, 0.95])
def test_a_cut_run_is_finished_with_the_same_bytes(
    fraction: float, src: Path, out: StoreUrl, whole: dict[str, bytes]
) -> None:
    with pytest.raises(CutError):
        expand(src, out, DOUBLE, progress=Heard(cut_at(fraction)))
    assert not is_a_model(out)
    plan = expand(src, out, DOUBLE)
    assert any("An earlier run had written" in note for note in plan.notes) is (fraction > 0.2)
    assert files(s3.contents(str(out))) == whole


def test_ranks_write_one_together(src: Path, out: StoreUrl, whole: dict[str, bytes]) -> None:
    def write(rank: int) -> bool:
        return expand_part(src, out, DOUBLE, Writing(rank=rank, world_size=3)).published

    assert [write(2), write(0), write(0)] == [False, False, False]
    with pytest.raises(RequestError, match="that 3 ranks write; this is rank 1 of 2"):
        expand_part(src, out, DOUBLE, Writing(rank=1, world_size=2))
    with pytest.raises(RequestError, match=f"{out}: contains an unfinished clone of another request"):
        expand_part(src, out, Request(embed_mult=2), Writing(rank=1, world_size=3))
    with pytest.raises(RequestError, match="several ranks"):
        expand(src, out, DOUBLE)
    assert not is_a_model(out)
    assert write(1)
    assert files(s3.contents(str(out))) == whole
    assert not write(1)  # it is published


def test_another_request_is_refused_until_restart(src: Path, out: StoreUrl, whole: dict[str, bytes]) -> None:
    with pytest.raises(CutError):
        expand(src, out, Request(embed_mult=2, max_shard_size="20KB"), progress=Heard(cut_at(0.5)))
    before = s3.contents(str(out))
    with pytest.raises(RequestError, match=f"{out}: contains an unfinished clone of another request"):
        expand(src, out, DOUBLE)
    assert s3.contents(str(out)) == before
    expand(src, out, DOUBLE, Writing(restart=True))
    assert files(s3.contents(str(out))) == whole


def cut_at(fraction: float) -> Callable[[int, int], None]:
    """Stops a run when so much of it is written."""
    total = 0

    def cut(written: int, everything: int) -> None:
        nonlocal total
        total += written
        if total > fraction * everything:
            raise CutError

    return cut


def test_a_run_killed_when_all_was_done_leaves_a_journal_that_the_next_removes(src: Path, out: StoreUrl) -> None:
    expand(src, out, DOUBLE)
    Objects(out).write(".hyperclone-partial", b"")
    with pytest.raises(RequestError, match="already exists"):
        expand(src, out, DOUBLE)
    assert ".hyperclone-partial" not in Objects(out).list()


def test_what_is_there_is_never_replaced(src: Path, out: StoreUrl) -> None:
    Objects(out).write("notes.txt", b"mine")
    with pytest.raises(RequestError, match=r"'notes.txt', not written by hyperclone"):
        expand(src, out, DOUBLE)
    assert s3.contents(str(out)) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("inner, outer", [("", ""), ("/clone", ""), ("", "/source")])
def test_a_clone_is_not_written_into_its_source(inner: str, outer: str, src: Path, out: StoreUrl) -> None:
    s3.put(src, f"{out}{outer}")
    with pytest.raises(RequestError, match="is, contains or lies inside"):
        expand(f"{out}{outer}", StoreUrl(f"{out}{inner}"), DOUBLE)


@pytest.mark.parametrize(
    "writing, words",
    [
        (Writing(overwrite=True), "--overwrite: not for"),
        (Writing(checksum=True), "--checksum: not for"),
    ],
)
def test_what_an_object_store_cannot_do_is_refused(writing: Writing, words: str, src: Path, out: StoreUrl) -> None:
    with pytest.raises(RequestError, match=words):
        expand(src, out, DOUBLE, writing)


def test_a_machine_without_room_for_two_shards_is_told_so_first(
    src: Path, out: StoreUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_clone, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(StorageError, match="shards on their way to the store need"):
        expand(src, out, DOUBLE)
    assert not Objects(out).list()


def test_the_command_writes_to_a_url_without_verifying(src: Path, out: StoreUrl) -> None:
    words = ["expand", "--src", src, "--out", out, "--embed-mult", 2]
    assert "add --no-verify" in hyperclone(*words, code=2).stderr
    result = hyperclone(*words, "--no-verify")
    assert result.stdout.startswith(f"{out}: ")
    assert "Next: hyperclone verify a copy of it" in result.stderr
    assert is_a_model(out)
