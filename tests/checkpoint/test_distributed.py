"""Distributed checkpoints (DCP): read part by part, and nothing that their pickles name is run."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.filesystem import FileSystemReader

from hyperclone_cli import expand, plan, verify
from hyperclone_cli.checkpoint import trial
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.growth.request import Request
from support import distributed

NAME = "model.layers.0.mlp.up_proj.weight"
DOUBLE = Request(embed_mult=2, ffn_mult=2)


def made_of(src: Path, out: Path, place: str = "pytorch_model_fsdp_0", **how: int) -> Path:
    """A directory as the Trainer leaves it: config.json, and the weights of `src` as a distributed checkpoint."""
    out.mkdir()
    shutil.copy(src / "config.json", out)
    distributed.save(load_file(src / "model.safetensors"), out / place, **how)
    return out


LAYOUTS: dict[str, tuple[str, str, dict[str, int]]] = {
    "of one process": ("llama-gqa-tied", "pytorch_model_fsdp_0", {}),
    "beside config.json": ("qwen3", "", {}),
    "of three processes": ("gpt2", "pytorch_model_fsdp_0", {"parts": 3}),
    "cut in columns": ("llama-gqa-tied", "pytorch_model_fsdp_0", {"parts": 2, "dim": 1}),
    "of more processes than rows": ("mamba", "pytorch_model_fsdp_0", {"parts": 64}),
    "stacks of experts": ("gpt_oss", "pytorch_model_fsdp_0", {"parts": 3}),
    "stacks cut in rows": ("gpt_oss", "pytorch_model_fsdp_0", {"parts": 2, "dim": 1}),
    "stacks cut in columns": ("gpt_oss", "pytorch_model_fsdp_0", {"parts": 3, "dim": 2}),
}


@pytest.mark.parametrize("variant, place, how", LAYOUTS.values(), ids=list(LAYOUTS))
def test_the_clone_is_that_of_the_same_weights_in_safetensors(
    variant: str, place: str, how: dict[str, int], source: Callable[[str], Path], tmp_path: Path
) -> None:
    src = made_of(source(variant), tmp_path / "src", place, **how)
    made = expand(src, tmp_path / "clone", DOUBLE)
    expand(source(variant), tmp_path / "other", DOUBLE)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("clone", "other"))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert any(f"distributed checkpoint in src/{place}".rstrip("/") in note for note in made.notes)


def test_a_clone_of_one_is_verified(source: Callable[[str], Path], tmp_path: Path) -> None:
    src = made_of(source("llama-gqa-tied"), tmp_path / "src", parts=2)
    expand(src, tmp_path / "clone", DOUBLE)
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.logits
    assert report.logits.relative_error <= 1e-5


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


class Bomb:
    """Of a few hundred bytes, with a key that takes 2^40 steps to hash."""

    def __reduce__(self) -> tuple[Any, ...]:
        key: tuple[Any, ...] = ()
        for _ in range(40):
            key = (key, key)
        return OrderedDict, (), None, None, iter([(key, 1)])


def edit(change: Callable[[Any], object]) -> Callable[[Path], object]:
    """Changes what .metadata says."""

    def make(directory: Path) -> None:
        metadata = FileSystemReader(directory).read_metadata()
        change(metadata)
        (directory / ".metadata").write_bytes(pickle.dumps(metadata))

    return make


def edit_places(**values: Any) -> Callable[[Path], object]:
    def change(metadata: Any) -> None:
        for info in metadata.storage_data.values():
            info.__dict__.update(values)

    return edit(change)


def truncate(directory: Path) -> None:
    for file in directory.glob("*.distcp"):
        os.truncate(file, 999)


def rewrite(pickled: bytes, compression: int) -> Callable[[Path], None]:
    """Every part has another pickle, of whatever size, for the description of its tensor."""

    def change(directory: Path) -> None:
        file = io.BytesIO()
        with ZipFile(file, "w", compression) as archive:
            archive.writestr("archive/data.pkl", pickled)
        for path in directory.glob("*.distcp"):
            path.write_bytes(file.getvalue())
        edit_places(offset=0, length=len(file.getvalue()))(directory)

    return change


def swap(directory: Path) -> None:
    """A link in the place of a file."""
    path = next(directory.glob("*.distcp"))
    path.rename(directory.parent.parent / "elsewhere")
    path.symlink_to(directory.parent.parent / "elsewhere")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "code": (lambda path: (path / ".metadata").write_bytes(pickle.dumps(Evil())), r"names posix.system"),
    "a key without end": (lambda path: (path / ".metadata").write_bytes(pickle.dumps(Bomb())), "too long to read"),
    "no pickle": (lambda path: (path / ".metadata").write_bytes(b"mine"), "damaged, or not of a distributed"),
    "another pickle": (lambda path: (path / ".metadata").write_bytes(pickle.dumps({"a": 1})), "damaged, or not"),
    "a file elsewhere": (edit_places(relative_path="../../secret"), "elsewhere or compressed"),
    "an absolute file": (edit_places(relative_path="/etc/passwd"), "elsewhere or compressed"),
    "a place beyond the file": (edit_places(offset=10**12), "beyond its file"),
    "a place before the file": (edit_places(offset=-5), "beyond its file"),
    "a part that is too long": (edit_places(length=10**15), "beyond its file"),
    "another shape": (
        edit(lambda metadata: metadata.state_dict_metadata[f"model.{NAME}"].__dict__.update(size=torch.Size([7]))),
        "do not make its shape",
    ),
    "code in a part": (rewrite(pickle.dumps(Evil()), ZIP_STORED), "names posix.system"),
    "a part's key without end": (rewrite(pickle.dumps(Bomb()), ZIP_STORED), "too long to read"),
    "a part that inflates": (rewrite(bytes(1 << 24), ZIP_DEFLATED), "is compressed, or larger"),
    "a truncated file": (truncate, "beyond its file|damaged"),
    "a link": (swap, "outside the checkpoint"),
    "a second model": (
        lambda path: shutil.copytree(path, path.parent / "pytorch_model_fsdp_1"),
        "several distributed checkpoints: pytorch_model_fsdp_0, pytorch_model_fsdp_1",
    ),
    "no metadata": (lambda path: (path / ".metadata").unlink(), "neither model.safetensors nor"),
    "no config": (lambda path: (path.parent / "config.json").unlink(), r"without the config.json of its model"),
}


@pytest.mark.parametrize("spoil, words", BAD.values(), ids=list(BAD))
def test_a_damaged_or_hostile_one_is_refused_and_nothing_run(
    spoil: Callable[[Path], object],
    words: str,
    source: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    src = made_of(source("qwen3"), tmp_path / "src")
    (tmp_path / "secret").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial, "SECONDS", 2)
    spoil(src / "pytorch_model_fsdp_0")
    with pytest.raises(CheckpointError, match=words):
        plan(src, DOUBLE)
    assert not (tmp_path / "ran").exists()


def test_the_parts_alone_are_no_checkpoint(source: Callable[[str], Path], tmp_path: Path) -> None:
    src = made_of(source("qwen3"), tmp_path / "src")
    with pytest.raises(CheckpointError, match=r"without the config\.json") as refusal:
        plan(src / "pytorch_model_fsdp_0", DOUBLE)
    assert refusal.value.hint == f"Name the directory around it: --src {src}"
