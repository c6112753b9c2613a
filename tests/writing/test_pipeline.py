"""What a clone holds: its config, its tensors and their dtype, and the files beside them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli.checkpoint import safetensors_file as shards
from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.families.statements import HeadRule
from hyperclone_cli.growth.request import Dtype, Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models

Sources = Callable[[str], Path]
DOUBLE = Request(embed_mult=2, ffn_mult=2)


def read(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def config_of(directory: Path) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((directory / "config.json").read_text())
    return loaded


def test_one_by_one_is_a_faithful_copy(source: Sources, tmp_path: Path) -> None:
    src = source("llama-gqa-tied")
    expand(src, tmp_path / "copy", Request())
    ours, theirs = load_file(tmp_path / "copy" / "model.safetensors"), load_file(src / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert config_of(tmp_path / "copy") == config_of(src)


def test_only_the_grown_numbers_of_the_config_change(tmp_path: Path) -> None:
    src = models.build("llama-gqa-tied", tmp_path / "src")
    config = {"my_note": {"kept": [1, 2.50]}, **config_of(src)}
    (src / "config.json").write_text(json.dumps(config))
    expand(src, tmp_path / "clone", Request(embed_mult=2, ffn_mult=3))
    grown = config_of(tmp_path / "clone")
    assert list(grown) == list(config)
    assert {key: value for key, value in grown.items() if config[key] != value} == {
        "hidden_size": 96,
        "intermediate_size": 240,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    }


def test_numbers_that_the_config_leaves_out_are_written_out(tmp_path: Path) -> None:
    """An old Llama config states neither head_dim nor key/value heads nor the tie."""
    src = models.build("llama-mha", tmp_path / "src")
    omitted = ("head_dim", "num_key_value_heads", "tie_word_embeddings")
    config = {key: value for key, value in config_of(src).items() if key not in omitted}
    (src / "config.json").write_text(json.dumps(config))
    expand(src, tmp_path / "clone", DOUBLE)
    grown = config_of(tmp_path / "clone")
    assert [grown[key] for key in omitted] == [12, 8, False]
    assert verify(tmp_path / "clone").passed


def test_files_beside_the_weights_are_copied_byte_for_byte(tmp_path: Path) -> None:
    src = models.build("llama-mqa", tmp_path / "src")
    kept = {
        "tokenizer.json": b'{"x":\r\n1}',
        "tokenizer_config.json": b"{}",
        "chat_template.jinja": b"{{ x }}",
        "modeling_mine.py": b"pass\n",
        "additional_chat_templates/tools.jinja": b"{{ y }}",
        "LICENSE": b"be kind",
        "licence.txt": b"be very kind",
        "COPYING": b"be free",
        "emoji.json": b"{}",
    }
    left = {"pytorch_model.bin": b"old", "optimizer.pt": b"state", "README.md": b"# The small one"}
    for name, content in (kept | left).items():
        (src / name).parent.mkdir(exist_ok=True)
        (src / name).write_bytes(content)
    expand(src, tmp_path / "clone", DOUBLE)
    clone = read(tmp_path / "clone")
    assert {name: clone[name] for name in kept} == kept
    assert clone["README.md"] != left["README.md"]
    assert clone["generation_config.json"] == (src / "generation_config.json").read_bytes()
    assert set(clone) == set(kept) | {
        "README.md", "config.json", "generation_config.json", "hyperclone.json", "model.safetensors", "recipe.json",
    }  # fmt: skip


def test_two_runs_write_the_same_bytes(source: Sources, tmp_path: Path) -> None:
    for name in ("one", "other"):
        expand(source("gemma3-gqa"), tmp_path / name, Request(embed_mult=3, ffn_mult=2, dtype="bfloat16"))
    assert read(tmp_path / "one") == read(tmp_path / "other")


def test_shards_and_their_index_are_as_save_pretrained_would_write_them(source: Sources, tmp_path: Path) -> None:
    plan = expand(source("qwen3"), tmp_path / "clone", Request(embed_mult=2, max_shard_size="100KB"))
    index = json.loads((tmp_path / "clone" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "clone").glob("*.safetensors"))
    assert len(files) > 1
    assert sorted(set(index["weight_map"].values())) == files
    assert index["metadata"]["total_size"] == plan.nbytes
    assert verify(tmp_path / "clone").passed


def test_files_have_the_mode_that_the_umask_gives(source: Sources, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    finally:
        os.umask(old)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "clone").iterdir()}
    assert modes == {0o640}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_storage_dtype_is_converted(dtype: Dtype, source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mqa"), tmp_path / "clone", Request(embed_mult=2, dtype=dtype))
    tensors = load_file(tmp_path / "clone" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    assert config_of(tmp_path / "clone")["dtype"] == dtype
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.logits is not None
    assert report.logits.floor_dtype == dtype


def test_numbers_that_the_storage_dtype_cannot_hold_are_refused(tmp_path: Path) -> None:
    src = models.build("llama-mqa", tmp_path / "src")
    tensors = load_file(src / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = 1e6
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        expand(src, tmp_path / "clone", Request(embed_mult=2, dtype="float16"))
    assert not (tmp_path / "clone").exists()


def test_a_failure_while_writing_closes_nothing_that_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = models.build("llama-mqa", tmp_path / "src")
    with (src / "model.safetensors").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        read_header = shards.read_header

        def shorten(path: Path) -> object:
            header = read_header(path)
            file.truncate(size // 2)  # the source changes under our hands
            return header

        monkeypatch.setattr("hyperclone_cli.checkpoint.open_source.read_header", shorten)
        with pytest.raises(StorageError, match="changed while it was read"):
            expand(src, tmp_path / "clone", DOUBLE)
    assert not (tmp_path / "clone").exists()


def test_a_config_that_transformers_would_refuse_is_the_requests_fault(
    source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES["phi3 (long rope)"]
    monkeypatch.setitem(FAMILIES, family.name, replace(family, heads=HeadRule.FREE))
    with pytest.raises(RequestError, match=r"transformers refuses the config: .*short_factor"):
        expand(source("phi3-longrope"), tmp_path / "clone", Request(embed_mult=2, num_heads=4))
    assert list(tmp_path.iterdir()) == []
