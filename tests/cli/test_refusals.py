"""Every bad input: its exit code, a message that names what to fix, and nothing written or lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli import plan
from hyperclone_cli.writing.into_directory import bytes_needed
from support import models
from support.command_line import hyperclone

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.build("llama-gqa-tied", tmp_path_factory.mktemp("sharded") / "src", max_shard_size="60KB")


@pytest.fixture
def src(sharded: Path, tmp_path: Path) -> Path:
    """A sharded checkpoint of the test's own, at `src` in the working directory."""
    return Path(shutil.copytree(sharded, tmp_path / "src"))


def contents(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in directory.rglob("*")
    }


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weight_map(src: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((src / INDEX).read_text())
    change(index["weight_map"])
    (src / INDEX).write_text(json.dumps(index))


def shard(src: Path) -> Path:
    return sorted(src.glob("model-*.safetensors"))[1]


def truncate(src: Path) -> None:
    shard(src).write_bytes(shard(src).read_bytes()[:-7])


def edit_tensors(src: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors, and store them as one file."""
    tensors = {name: tensor for path in src.glob("*.safetensors") for name, tensor in load_file(path).items()}
    change(tensors)
    remove_weights(src)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, src / "model.safetensors")


def replace_by_file(src: Path) -> None:
    shutil.rmtree(src)
    src.write_text("")


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def remove_weights(src: Path) -> None:
    for path in src.glob("model*"):
        path.unlink()


def make_adapter(src: Path) -> None:
    (src / "config.json").rename(src / "adapter_config.json")


def set_config(**changes: Any) -> Callable[[Path], None]:
    return lambda src: edit_json(src / "config.json", **changes)


def quantise(src: Path) -> None:
    edit_json(src / "config.json", quantization_config={"quant_method": "aqlm", "nbits_per_codebook": 8})
    codes = torch.zeros(4, 4, 2, dtype=torch.int8)
    edit_tensors(src, lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.codes": codes}))


def add_file(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("mine")


def add_model(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"")


def add_clone(path: Path) -> None:
    add_model(path)
    (path / "hyperclone.json").write_text('{"files": ["config.json", "model.safetensors"]}')


def add_clone_and_notes(path: Path) -> None:
    add_clone(path)
    (path / "notes.txt").write_text("mine")


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "no such directory": (shutil.rmtree, 5, "src: no such directory, and not complete in the Hub's cache"),
    "no config.json": (lambda src: (src / "config.json").unlink(), 3, "config.json: no such file"),
    "broken JSON": (lambda src: (src / "config.json").write_text('{"model_type": '), 3, "config.json: not valid JSON"),
    "not an object": (lambda src: (src / "config.json").write_text("[]"), 3, "expected a JSON object"),
    "no model_type": (lambda src: (src / "config.json").write_text("{}"), 3, "no model_type"),
    "unknown model_type": (set_config(model_type="lama"), 3, "expand it with --family llama"),
    "a size is missing": (set_config(hidden_size=None), 3, "hidden_size"),
    "a size does not fit": (set_config(hidden_size=64), 3, "config.json and the weights do not belong"),
    "heads do not divide": (set_config(num_key_value_heads=3), 3, "num_attention_heads 4 is not a multiple"),
    "too few layers": (set_config(num_hidden_layers=3), 3, "missing tensors: model.layers.2."),
    "no weights": (remove_weights, 3, "neither model.safetensors nor"),
    "a tensor is missing": (
        lambda src: edit_tensors(src, lambda t: t.pop("model.layers.1.mlp.gate_proj.weight")),
        3,
        "missing tensors: model.layers.1.mlp.gate_proj.weight",
    ),
    "the final norm is missing": (
        lambda src: edit_tensors(src, lambda t: t.pop("model.norm.weight")),
        3,
        "missing tensors: model.norm.weight",
    ),
    "a tensor is there twice": (
        lambda src: edit_tensors(src, lambda t: t.update({"norm.weight": t["model.norm.weight"]})),
        3,
        "stored twice",
    ),
    "a huge number of layers": (set_config(num_hidden_layers=10**12), 3, "with 1000000000000 layers"),
    "an absurd size": (set_config(num_attention_heads=10**18), 3, "num_attention_heads 1000000000000000000 is more"),
    "an absurd size of heads": (set_config(head_dim=2**20), 3, "head_dim 1048576 is more"),
    "a context that is no number": (set_config(max_position_embeddings="many"), 3, "max_position_embeddings"),
    "heads of another size": (set_config(head_dim=24), 3, "config.json makes dimension 0"),
    "a file instead of a directory": (replace_by_file, 2, "not a directory"),
    "missing shard": (lambda src: shard(src).unlink(), 3, "missing shard"),
    "truncated shard": (truncate, 3, "truncated"),
    "a pipe for a shard": (lambda src: replace_by_pipe(shard(src)), 3, "of-00004.safetensors: expected a file, found"),
    "a pipe for a config": (lambda src: replace_by_pipe(src / "config.json"), 3, "config.json: expected a file"),
    "a pipe for an index": (lambda src: replace_by_pipe(src / INDEX), 3, f"{INDEX}: expected a file"),
    "a pipe for the weights": (lambda src: os.mkfifo(src / "model.safetensors"), 3, "model.safetensors: expected a"),
    "a directory for a config": (lambda src: replace_by_directory(src / "config.json"), 3, "expected a file"),
    "empty shard": (lambda src: shard(src).write_bytes(b""), 3, "truncated"),
    "index names an absent tensor": (
        lambda src: edit_weight_map(src, lambda weights: weights.update({"model.ghost.weight": shard(src).name})),
        3,
        "'model.ghost.weight' is absent",
    ),
    "index contradicts a shard": (
        lambda src: edit_weight_map(src, lambda weights: weights.pop("model.norm.weight")),
        3,
        "tensor 'model.norm.weight' lies in",
    ),
    "shard leaves the directory": (
        lambda src: edit_weight_map(src, lambda weights: weights.update({"model.norm.weight": "../../etc/passwd"})),
        3,
        "leads out of the directory",
    ),
    "shard is an absolute path": (
        lambda src: edit_weight_map(src, lambda weights: weights.update({"model.norm.weight": "/etc/passwd"})),
        3,
        "leads out of the directory",
    ),
    "shard has an endless name": (
        lambda src: edit_weight_map(src, lambda weights: weights.update({"model.norm.weight": "A" * 300})),
        3,
        "missing shard",
    ),
    "a weight map to no names": (lambda src: edit_json(src / INDEX, weight_map={"a": ["b"]}), 3, "no weight_map"),
    "no weight map": (lambda src: edit_json(src / INDEX, weight_map=[]), 3, "no weight_map"),
    "quantised": (quantise, 3, "quantised (quant_method 'aqlm')"),
    "PEFT adapter": (make_adapter, 3, "PEFT adapter"),
    "another model's tensors": (set_config(model_type="gpt_neox"), 3, "no rule of gpt_neox fits"),
}


@pytest.mark.parametrize("spoil, code, words", CHECKPOINTS.values(), ids=list(CHECKPOINTS))
@pytest.mark.parametrize("command", ["expand", "plan"])
def test_a_bad_checkpoint_is_named_and_nothing_written(
    command: str, spoil: Callable[[Path], object], code: int, words: str, src: Path, tmp_path: Path
) -> None:
    spoil(src)
    before = contents(tmp_path)
    out = ["--out", "out"] if command == "expand" else []
    result = hyperclone(command, "--src", "src", "--embed-mult", 2, *out, code=code, cwd=tmp_path)
    assert result.stdout == ""
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(tmp_path) == before


REQUESTS: dict[str, tuple[list[object], int, str]] = {
    "zero": (["--embed-mult", 0], 2, "--embed-mult"),
    "negative": (["--ffn-mult", -1], 2, "--ffn-mult"),
    "less than the source": (["--embed-mult", 0.5], 2, "--embed-mult"),
    "narrower than the source": (["--intermediate-size", 79], 2, "At least 80."),
    "a size twice": (["--hidden-size", 96, "--embed-mult", 2], 2, "two answers to one question"),
    "a size and a target": (["--ffn-mult", 2, "--target-params", "1M"], 2, "chooses the hidden and the feed-forward"),
    "a target that is no number": (["--target-params", "big"], 2, "--target-params big"),
    "a target below the source": (["--target-params", "1K"], 2, "growth takes nothing away"),
    "a target beyond all shapes": (["--target-params", "900T"], 2, "more than any shape"),
    "half a head size": (["--head-dim-mult", 1.5], 2, "--head-dim-mult"),
    "not a number": (["--heads-mult", "two"], 2, "--heads-mult"),
    "heads that cannot be shared": (["--heads-mult", 3, "--kv-heads-mult", 4], 2, "every key/value head serves"),
    "experts that are none": (["--moe-ffn-mult", 2], 2, "no experts with a width of their own"),
    "heads that do not divide the width": (["--heads-mult", 5], 2, "--hidden-size 48 --num-heads 16"),
    "unknown dtype": (["--dtype", "int8"], 2, "--dtype"),
    "unknown tie": (["--tie-embeddings", "maybe"], 2, "--tie-embeddings"),
    "bad shard size": (["--max-shard-size", "big"], 2, "--max-shard-size big"),
    "shard size of nothing": (["--max-shard-size", "0KB"], 2, "--max-shard-size 0KB"),
    "bad ratio": (["--uneven-ratio", "1:0"], 2, "--uneven-ratio"),
    "a ratio for nothing": (["--uneven-ratio", "1:3"], 2, "Add --strategy uneven."),
    "a multiple for nothing": (["--multiple-of", 8], 2, "--multiple-of is for the widths that --target-params chooses"),
    "unknown strategy": (["--strategy", "both"], 2, "--strategy"),
    "absurd noise": (["--noise-snr-db", "nan"], 2, "--noise-snr-db"),
    "too little to grow by": (["--embed-mult", 1.01], 2, "48 × 1.01 is 48 in whole units: nothing would grow"),
    "a device for nothing": (["--no-verify", "--device", "cpu"], 2, "leave --no-verify out"),
    "a size in parts of bytes": (["--max-shard-size", "1.5.5"], 2, "--max-shard-size 1.5.5: no size in bytes"),
    "a push while offline": (["--push-to-hub", "a/b", "--token", "hf_x"], 5, "HF_HUB_OFFLINE is set"),
    "unknown device": (["--device", "tpu9"], 2, "--device tpu9"),
    "no threads": (["--threads", 0], 2, "--threads"),
    "memory that is no size": (["--max-memory", "lots"], 2, "--max-memory lots"),
    "memory for no block": (["--max-memory", "1MB"], 2, "one thread needs 16,777,216 bytes"),
    "not enough disk": (["--embed-mult", 4096, "--ffn-mult", 4096], 5, "bytes, "),
}


@pytest.mark.parametrize("arguments, code, words", REQUESTS.values(), ids=list(REQUESTS))
def test_a_bad_request_is_named_and_nothing_written(
    arguments: list[object], code: int, words: str, src: Path, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    result = hyperclone("expand", "--src", src, "--out", "out", *arguments, code=code, cwd=tmp_path)
    assert result.stdout == ""
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr
    assert contents(tmp_path) == before


def test_side_files_are_measured_and_not_read(src: Path) -> None:
    before = bytes_needed(plan(src, embed_mult=2))
    for number in range(3):
        with (src / f"tokenizer.{number}").open("wb") as file:
            file.truncate(1 << 28)  # sparse: takes no room here
    assert bytes_needed(plan(src, embed_mult=2)) == before + 3 * (1 << 28)


@pytest.mark.parametrize("embed, heads", [(2, 1), (1, 2)])
@pytest.mark.parametrize("variant", ["opt-125m", "pythia"])
def test_where_heads_must_grow_with_the_width_the_nearest_request_is_named(
    variant: str, embed: int, heads: int, source: Callable[[str], Path], tmp_path: Path
) -> None:
    arguments = ["--src", source(variant), "--embed-mult", embed, "--heads-mult", heads]
    result = hyperclone("plan", *arguments, code=2, cwd=tmp_path)
    assert f"The nearest that works: --hidden-size {48 * embed} --num-heads {4 * embed}." in result.stderr


def test_a_tie_that_cannot_be_kept_is_refused_with_what_works(source: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = ["--src", source("olmo-tied"), "--embed-mult", 2, "--tie-embeddings", "keep"]
    result = hyperclone("plan", *arguments, code=2, cwd=tmp_path)
    assert "--tie-embeddings auto" in result.stderr


PLACES: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "the source": (lambda _: None, ["--out", "src"], "is, contains or lies inside"),
    "the source, to be overwritten": (lambda _: None, ["--out", "src", "--overwrite"], "is, contains or lies inside"),
    "inside the source": (lambda _: None, ["--out", "src/clone"], "is, contains or lies inside"),
    "around the source": (lambda _: None, ["--out", ".", "--overwrite"], "is, contains or lies inside"),
    "an existing directory": (add_file, ["--out", "out"], "already exists"),
    "an existing clone": (add_clone, ["--out", "out"], "already exists"),
    "a directory without a model": (add_file, ["--out", "out", "--overwrite"], "is not a clone"),
    "a file": (lambda out: out.write_text("mine"), ["--out", "out", "--overwrite"], "is not a clone"),
    "a model of another tool": (add_model, ["--out", "out", "--overwrite"], "is not a clone"),
    "a clone beside other things": (add_clone_and_notes, ["--out", "out", "--overwrite"], "contains 'notes.txt'"),
    "a link": (lambda out: out.symlink_to(out.parent), ["--out", "out", "--overwrite"], "not a link"),
    "a dangling link": (lambda out: out.symlink_to(out.with_name("gone")), ["--out", "out"], "not a link"),
    "the root": (lambda _: None, ["--out", "/"], "not a link or a root"),
    "below a file": (lambda out: out.write_text("mine"), ["--out", "out/clone"], "is a file"),
    "a file in the partial's place": (
        lambda out: out.with_name("out.partial").write_text("mine"),
        ["--out", "out"],
        "was not written by hyperclone",
    ),
    "a stranger's partial": (
        lambda out: add_file(out.with_name("out.partial")),
        ["--out", "out"],
        "was not written by hyperclone",
    ),
}


@pytest.mark.parametrize("prepare, arguments, words", PLACES.values(), ids=list(PLACES))
def test_a_bad_place_for_the_clone_is_named_and_nothing_lost(
    prepare: Callable[[Path], object], arguments: list[str], words: str, src: Path, tmp_path: Path
) -> None:
    prepare(tmp_path / "out")
    before = contents(tmp_path)
    result = hyperclone("expand", "--src", src.name, *arguments, code=2, cwd=tmp_path)
    assert result.stdout == ""
    assert words in result.stderr
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["out.partial", ".out.replaced-by-hyperclone"])
def test_a_source_in_a_place_that_would_be_cleared_is_kept(name: str, src: Path, tmp_path: Path) -> None:
    src.rename(tmp_path / name)
    hyperclone("expand", "--src", name, "--out", "out", code=2, cwd=tmp_path)
    assert (tmp_path / name / "config.json").exists()


def test_a_link_to_the_source_is_the_source(src: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(src)
    result = hyperclone("expand", "--src", "src", "--out", "link/clone", code=2, cwd=tmp_path)
    assert "lies inside" in result.stderr
