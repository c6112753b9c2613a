"""The record of a verification, and its figures in the card of the clone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from hyperclone_cli import expand, verify
from hyperclone_cli.errors import RequestError

Sources = Callable[[str], Path]
BEGIN, END = "<!-- hyperclone: verification -->", "<!-- /hyperclone: verification -->"


@pytest.fixture
def src(source: Sources, tmp_path: Path) -> Path:
    """A source of the test's own."""
    return Path(shutil.copytree(source("llama-gqa-tied"), tmp_path / "src"))


@pytest.fixture
def clone(src: Path, tmp_path: Path) -> Path:
    expand(src, tmp_path / "clone", embed_mult=2, ffn_mult=2)
    return tmp_path / "clone"


def card_of(clone: Path) -> str:
    return (clone / "README.md").read_bytes().decode()


def record_of(clone: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((clone / "verification.json").read_text(), parse_constant=pytest.fail)
    return found


def spoil(clone: Path) -> None:
    tensors = load_file(clone / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, clone / "model.safetensors", metadata={"format": "pt"})


def test_a_verification_is_recorded_and_shown_in_the_card(clone: Path) -> None:
    before = card_of(clone)
    report = verify(clone)
    record = record_of(clone)
    assert record["schema_version"] == 1
    assert record["passed"] is True
    assert record["plan_digest"] == json.loads((clone / "hyperclone.json").read_text())["plan_digest"]
    assert report.logits is not None
    assert record["logits"]["relative_error"] == report.logits.relative_error
    assert "Passed" in card_of(clone)
    assert f"{report.logits.relative_error:.1e}" in card_of(clone)
    assert [text.partition(BEGIN)[0] for text in (before, card_of(clone))] == [before.partition(BEGIN)[0]] * 2
    assert [text.partition(END)[2] for text in (before, card_of(clone))] == [before.partition(END)[2]] * 2


def test_the_record_names_the_files_that_it_is_about_by_their_digests(clone: Path) -> None:
    verify(clone)
    names = set(json.loads((clone / "hyperclone.json").read_text())["files"]) - {"README.md"} | {"hyperclone.json"}
    assert {"config.json", "generation_config.json", "model.safetensors"} < names
    expected = {name: sha256((clone / name).read_bytes()).hexdigest() for name in names}
    assert record_of(clone)["files"] == expected


def test_the_last_verification_counts_and_a_failure_is_written_too(clone: Path) -> None:
    assert verify(clone).passed
    spoil(clone)
    assert not verify(clone).passed
    assert record_of(clone)["passed"] is False
    assert record_of(clone)["logits"]["relative_error"] is None
    assert "FAILED" in card_of(clone)
    assert "Passed" not in card_of(clone)


@pytest.mark.parametrize("passed_before", [False, True])
def test_what_is_less_than_a_full_verification_is_not_recorded_and_that_is_noted(
    passed_before: bool, clone: Path, src: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(src, tmp_path / "another source of the same shape"))
    spoil(other)
    if passed_before:
        verify(clone)
    before = {path.name: path.read_bytes() for path in clone.iterdir()}

    def unrecorded(why: str, **options: Any) -> bool:
        return any("Nothing is recorded" in note and why in note for note in verify(clone, **options).notes)

    assert unrecorded("only the weights", weights_only=True)
    assert unrecorded("may not be the one that was expanded", src=other)
    config = json.loads((src / "config.json").read_text())
    (src / "config.json").write_text(json.dumps(config | {"my_note": "not the source that was expanded"}))
    assert unrecorded("not the one that was expanded")
    assert {path.name: path.read_bytes() for path in clone.iterdir()} == before


def test_a_clone_is_verified_where_it_and_its_source_are_now(clone: Path, src: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    clone, src = clone.rename(tmp_path / "elsewhere" / "clone"), src.rename(tmp_path / "moved")
    report = verify(clone, src=src)
    assert report.passed, report.failures
    assert report.notes == ()
    assert record_of(clone)["passed"] is True
    assert "Passed" in card_of(clone)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_what_the_user_wrote_around_the_figures_is_kept(line_end: str, clone: Path) -> None:
    mine = f"Mine before.\n\n{BEGIN}\nold\n{END}\n\nMine after.\n".replace("\n", line_end)
    (clone / "README.md").write_bytes(mine.encode())
    verify(clone)
    text = card_of(clone)
    assert text.startswith(f"Mine before.{line_end}")
    assert text.endswith(f"Mine after.{line_end}")
    assert "Passed" in text
    assert text.count("\n") == text.count(line_end)


@pytest.mark.parametrize("mine", ["", "All mine.\n", f"{BEGIN} without an end", f"{END} before {BEGIN}"])
def test_a_card_without_the_place_for_figures_is_left_alone(mine: str, clone: Path) -> None:
    (clone / "README.md").write_text(mine)
    assert verify(clone).passed
    assert card_of(clone) == mine
    assert record_of(clone)["passed"] is True


def test_no_card_is_no_reason_to_write_one(clone: Path) -> None:
    (clone / "README.md").unlink()
    assert verify(clone).passed
    assert not (clone / "README.md").exists()


def test_a_clone_that_cannot_be_written_is_verified_all_the_same(clone: Path) -> None:
    (clone / "verification.json").mkdir()  # as good as a read-only directory, and it stops root as well
    (clone / "verification.json" / "x").touch()
    report = verify(clone)
    assert report.passed
    assert any("could not be recorded" in note for note in report.notes)
    assert not any(path.name.endswith(".new") for path in clone.iterdir())


def test_a_verified_clone_can_be_overwritten_and_is_then_unverified(clone: Path, src: Path) -> None:
    verify(clone)
    expand(src, clone, embed_mult=3, overwrite=True)
    assert not (clone / "verification.json").exists()
    assert "Not verified yet" in card_of(clone)
    (clone / "README.md.orig").write_text("mine")
    with pytest.raises(RequestError, match=r"README\.md\.orig"):
        expand(src, clone, embed_mult=2, overwrite=True)


@pytest.mark.parametrize("name", ["verification.json", "README.md"])
def test_what_a_killed_verification_leaves_is_ours_to_replace(name: str, clone: Path, src: Path) -> None:
    """It writes beside a file what is to take its place."""
    (clone / f".{name}.new").write_text("half")
    expand(src, clone, embed_mult=3, overwrite=True)
    assert not (clone / f".{name}.new").exists()
