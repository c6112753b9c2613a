"""A disk that loses bytes is noticed, changed files fail their checksums, and non-finite tensors are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli import expand, plan, verify
from hyperclone_cli.errors import CheckpointError, RequestError, StorageError
from hyperclone_cli.writing.integrity import check_written, is_finite
from support import models
from support.command_line import hyperclone
from support.heard import Heard

Sources = Callable[[str], Path]
Tensors = dict[str, torch.Tensor]
INDEX = "model.safetensors.index.json"
UP_PROJ = "model.layers.1.mlp.up_proj.weight"


def edit_json(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_tensors(path: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def shard(clone: Path) -> Path:
    return sorted(clone.glob("*.safetensors"))[1]


def halve_a_tensor(clone: Path) -> None:
    edit_tensors(shard(clone), lambda tensors: tensors.update({n: t.half() for n, t in tensors.items()}))


def lose_a_tensor(clone: Path) -> None:
    index = json.loads((clone / INDEX).read_text())
    name = next(name for name, file in index["weight_map"].items() if file == shard(clone).name)
    edit_tensors(shard(clone), lambda tensors: tensors.pop(name))
    del index["weight_map"][name]
    (clone / INDEX).write_text(json.dumps(index))


LOST: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard cut short": (lambda clone: shard(clone).write_bytes(shard(clone).read_bytes()[:-1]), "truncated"),
    "a shard of zeros": (lambda clone: shard(clone).write_bytes(bytes(shard(clone).stat().st_size)), "damaged"),
    "a shard that is gone": (lambda clone: shard(clone).unlink(), "missing shard"),
    "another dtype": (halve_a_tensor, "found ('F16'"),
    "a tensor that is gone": (lose_a_tensor, "found absent"),
    "an empty index": (lambda clone: (clone / INDEX).write_text(""), "not valid JSON"),
    "another config": (lambda clone: edit_json(clone / "config.json", dict.popitem), "it is not what was written"),
}


@pytest.mark.parametrize("lose, words", LOST.values(), ids=list(LOST))
def test_files_that_the_disk_did_not_keep_are_noticed(
    lose: Callable[[Path], object], words: str, source: Sources, tmp_path: Path
) -> None:
    wanted = plan(source("qwen3"), embed_mult=2, max_shard_size="100KB")
    expand(source("qwen3"), tmp_path / "clone", embed_mult=2, max_shard_size="100KB")
    check_written(wanted, tmp_path / "clone")
    lose(tmp_path / "clone")
    with pytest.raises(StorageError, match="read back") as failure:
        check_written(wanted, tmp_path / "clone")
    assert words in failure.value.message
    assert str(tmp_path / "clone") in failure.value.message


@pytest.fixture
def recorded(source: Sources, tmp_path: Path) -> Path:
    """A clone in shards that recorded its files' SHA-256."""
    expand(source("qwen3"), tmp_path / "clone", checksum=True, embed_mult=2, max_shard_size="100KB")
    return tmp_path / "clone"


def test_every_file_but_the_card_and_the_record_itself_is_recorded(recorded: Path) -> None:
    record = json.loads((recorded / "hyperclone.json").read_text())
    files = {path.name for path in recorded.iterdir()}
    assert set(record["sha256"]) == files - {"README.md", "hyperclone.json"}
    report = verify(recorded, checksum=True)
    assert report.passed, report.failures
    assert report.hashed == len(record["sha256"])
    assert verify(recorded, checksum=True).passed  # the first one wrote its figures into the clone


def test_files_are_hashed_once_whatever_for(recorded: Path) -> None:
    heard = Heard()
    assert verify(recorded, checksum=True, progress=heard).passed
    assert heard.steps.count(f"Hashing the files of {recorded}") == 1


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of a weight": (lambda clone: flip(shard(clone)), "model-00002-of-"),
    "a space in the index": (lambda clone: (clone / INDEX).write_text((clone / INDEX).read_text() + " "), INDEX),
    "a file that is gone": (lambda clone: (clone / "generation_config.json").unlink(), "found no such file"),
}


@pytest.mark.parametrize("change, words", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_file_is_named(change: Callable[[Path], object], words: str, recorded: Path) -> None:
    change(recorded)
    report = verify(recorded, weights_only=True, checksum=True)
    assert any("SHA-256" in failure and words in failure for failure in report.failures), report.failures


def test_a_clone_without_recorded_checksums_says_so(source: Sources, tmp_path: Path) -> None:
    expand(source("qwen3"), tmp_path / "clone", embed_mult=2)
    with pytest.raises(RequestError, match=r"hyperclone\.json records no SHA-256"):
        verify(tmp_path / "clone", checksum=True)


def test_the_commands_record_and_compare(source: Sources, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    hyperclone("expand", "--src", source("qwen3"), "--embed-mult", 2, "--out", clone, "--no-verify", "--checksum")
    passed = hyperclone("verify", clone, "--weights-only", "--checksum")
    assert "SHA-256 compared" in passed.stdout
    (clone / "config.json").write_text((clone / "config.json").read_text() + "\n")
    failed = hyperclone("verify", clone, "--weights-only", "--checksum", code=4)
    assert "✗ file config.json: SHA-256 should be " in failed.stdout


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "numbers, finite",
    [
        ([1.0, 2.0], True),
        ([], True),
        ([6e4, 6e4], True),  # whose sum is too large for float16
        ([1.0, torch.nan], False),
        ([torch.inf, 1.0], False),
        ([torch.inf, -torch.inf], False),
    ],
)
def test_a_non_finite_element_is_found_among_finite_ones(
    numbers: list[float], finite: bool, dtype: torch.dtype
) -> None:
    assert is_finite(torch.tensor(numbers, dtype=dtype)) is finite


def non_finite_source(path: Path, name: str, number: float, variant: str = "llama-mha") -> Path:
    models.build(variant, path)

    def spoil(tensors: Tensors) -> None:
        tensors[name].view(-1)[7] = number

    edit_tensors(path / "model.safetensors", spoil)
    return path


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_source_with_nan_or_inf_is_expanded_and_its_tensors_are_named(
    number: float, dtype: str | None, tmp_path: Path
) -> None:
    src = non_finite_source(tmp_path / "src", UP_PROJ, number)
    done = expand(src, tmp_path / "clone", embed_mult=3, ffn_mult=2, dtype=dtype)
    assert [note for note in done.notes if UP_PROJ in note and "NaN or Inf" in note]
    assert json.loads((tmp_path / "clone" / "hyperclone.json").read_text())["not_finite"] == [UP_PROJ]
    report = verify(tmp_path / "clone", weights_only=True)
    assert report.passed, report.failures
    assert report.weights is not None
    assert report.weights.not_finite == (UP_PROJ,)
    assert [note for note in report.notes if UP_PROJ in note]


def test_where_the_source_is_finite_the_clone_has_to_be(tmp_path: Path) -> None:
    src = non_finite_source(tmp_path / "src", UP_PROJ, torch.nan)
    expand(src, tmp_path / "clone", embed_mult=2)
    edit_tensors(tmp_path / "clone" / "model.safetensors", lambda tensors: tensors[UP_PROJ][3].fill_(torch.nan))
    report = verify(tmp_path / "clone", weights_only=True)
    assert any(UP_PROJ in failure and "are off, by up to inf" in failure for failure in report.failures)


def test_a_source_that_computes_nan_cannot_be_verified_and_the_tensor_is_named(tmp_path: Path) -> None:
    src = non_finite_source(tmp_path / "src", UP_PROJ, torch.nan)
    expand(src, tmp_path / "clone", embed_mult=2)
    with pytest.raises(CheckpointError, match=f"computes NaN or Inf.*{UP_PROJ}"):
        verify(tmp_path / "clone")


def test_a_finite_source_has_no_note(source: Sources, tmp_path: Path) -> None:
    done = expand(source("llama-mha"), tmp_path / "clone", embed_mult=2)
    assert done.notes == ()
    assert "not_finite" not in json.loads((tmp_path / "clone" / "hyperclone.json").read_text())


def test_noise_in_a_non_finite_tensor_is_refused(tmp_path: Path) -> None:
    src = non_finite_source(tmp_path / "src", UP_PROJ, torch.inf)
    with pytest.raises(RequestError, match=UP_PROJ):
        expand(src, tmp_path / "clone", embed_mult=2, noise_snr_db=10.0)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]
