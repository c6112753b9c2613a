"""What is written, and that it is written whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

import models
from hyperclone_cli.checkpoint import safetensors_file as shards
from hyperclone_cli.checkpoint.source import COMPANIONS, fits
from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand

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
        "README.md", "config.json", "generation_config.json", "hyperclone.json", "model.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize("model_type", dict.fromkeys(family.model_type for family in FAMILIES.values()))
def test_every_file_of_an_architectures_tokenizer_goes_along(model_type: str) -> None:
    name = TOKENIZER_MAPPING_NAMES.get(model_type)
    tokenizer = getattr(transformers, name or "PreTrainedTokenizerFast")
    assert [file for file in tokenizer.vocab_files_names.values() if not fits(file, COMPANIONS)] == []


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
def test_the_storage_dtype_is_converted(dtype: str, source: Sources, tmp_path: Path) -> None:
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


def test_the_single_file_is_read_where_there_is_an_index_too(tmp_path: Path) -> None:
    """As transformers does."""
    src = models.build("qwen3", tmp_path / "src", max_shard_size="60KB")
    other = models.build("qwen3", tmp_path / "other")
    tensors = {name: tensor * 1.5 for name, tensor in load_file(other / "model.safetensors").items()}
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    expand(src, tmp_path / "clone", DOUBLE)
    assert verify(tmp_path / "clone").passed


@pytest.mark.parametrize("variant", ["gemma3-mqa", "qwen3", "opt-350m", "pythia-tied", "olmo-tied"])
def test_a_tie_can_be_given_up(variant: str, source: Sources, tmp_path: Path) -> None:
    plan = expand(source(variant), tmp_path / "clone", Request(embed_mult=3, tie_embeddings="untie"))
    assert config_of(tmp_path / "clone")["tie_word_embeddings"] is False
    assert not plan.head.tied
    assert verify(tmp_path / "clone").passed


def test_a_tied_head_that_is_stored_twice_is_written_once(tmp_path: Path) -> None:
    src = models.build("llama-gqa-tied", tmp_path / "src")
    tensors = load_file(src / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    plan = expand(src, tmp_path / "clone", DOUBLE)
    assert set(plan.dropped) == {"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"}
    assert verify(tmp_path / "clone").passed


def test_a_tied_head_that_is_stored_with_other_numbers_is_a_head_of_its_own(tmp_path: Path) -> None:
    """Transformers uses the stored head then, whatever the config says."""
    src = models.build("llama-gqa-tied", tmp_path / "src")
    tensors = load_file(src / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    expand(src, tmp_path / "clone", DOUBLE)
    assert config_of(tmp_path / "clone")["tie_word_embeddings"] is False
    assert verify(tmp_path / "clone").passed


@pytest.mark.parametrize("variant, prefix", [("opt-350m", "model."), ("pythia", "gpt_neox."), ("qwen3", "model.")])
def test_names_without_the_base_models_prefix_are_understood(variant: str, prefix: str, tmp_path: Path) -> None:
    src = models.build(variant, tmp_path / "src")
    tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(src / "model.safetensors").items()}
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    expand(src, tmp_path / "clone", DOUBLE)
    assert verify(tmp_path / "clone").passed


@pytest.mark.parametrize(
    "variant, request_",
    [
        ("llama-mqa", Request(embed_mult=2, kv_heads_mult=2)),
        ("llama-gqa-tied", Request(embed_mult=2, kv_heads_mult=1)),
        ("llama-gqa-tied", Request(embed_mult=2, heads_mult=1)),
        ("qwen3", Request(heads_mult=3, kv_heads_mult=1)),
        ("olmo2", Request(embed_mult=2, heads_mult=4, kv_heads_mult=2)),
        ("gemma3-mqa", Request(embed_mult=2, heads_mult=1)),
        ("mistral", Request(embed_mult=3, heads_mult=1, ffn_mult=2)),
    ],
)
def test_heads_may_grow_apart_from_the_width(variant: str, request_: Request, source: Sources, tmp_path: Path) -> None:
    expand(source(variant), tmp_path / "clone", request_)
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.logits is not None
    assert report.logits.relative_error <= 1e-5


def test_overwrite_replaces_the_model_and_leaves_nothing_behind(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mqa"), tmp_path / "clone", Request(embed_mult=2, max_shard_size="50KB"))
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]
    assert (tmp_path / "clone" / "model.safetensors").exists()
    assert verify(tmp_path / "clone", weights_only=True).passed


def test_a_failed_overwrite_leaves_the_old_model(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    before = read(tmp_path / "clone")
    with pytest.raises(RequestError):
        expand(source("llama-mqa"), tmp_path / "clone", Request(heads_mult=5), overwrite=True)
    assert read(tmp_path / "clone") == before


def test_an_overwrite_that_was_killed_between_its_two_renames_is_undone(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    (tmp_path / "clone" / ".replaced-by-hyperclone").touch()
    (tmp_path / "clone").rename(tmp_path / ".clone.replaced-by-hyperclone")
    with pytest.raises(RequestError, match="already exists"):
        expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    assert verify(tmp_path / "clone", weights_only=True).passed
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=True)


def test_what_was_whole_already_outlives_the_refusal_to_overwrite(source: Sources, tmp_path: Path) -> None:
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
    assert read(partial) == {".hyperclone-partial": b"begun", "model.safetensors": b"whole"}


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
    before = read(tmp_path / "clone")
    with pytest.raises(RequestError, match="is newer than the clone, as if trained since"):
        expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=True)
    assert read(tmp_path / "clone") == before


def test_a_clone_that_was_verified_and_whose_card_was_edited_is_replaced(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    assert verify(tmp_path / "clone").passed
    (tmp_path / "clone/README.md").write_text("# Mine")
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_came_while_a_clone_was_written_is_not_replaced(overwrite: bool, source: Sources, tmp_path: Path) -> None:
    if overwrite:
        expand(source("llama-mqa"), tmp_path / "clone", DOUBLE)
    mine = tmp_path / "clone/checkpoint-500/model.safetensors"

    def work(_: int, __: int) -> None:
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("years")

    with pytest.raises(StorageError, match="clone: ") as refusal:
        expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=overwrite, progress=work)
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
    assert config_of(tmp_path / "clone")["hidden_size"] == 3 * 48
    expand(source("llama-mqa"), tmp_path / "clone", DOUBLE, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]


def test_two_runs_into_one_place_cannot_meet(source: Sources, tmp_path: Path) -> None:
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

        monkeypatch.setattr("hyperclone_cli.checkpoint.source.read_header", shorten)
        with pytest.raises(StorageError, match="changed while it was read"):
            expand(src, tmp_path / "clone", DOUBLE)
    assert not (tmp_path / "clone").exists()
