"""Checkpoints in PyTorch's `.bin`: every way in which people have them, and every way in which they can be bad."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hyperclone_cli import clone_model, expand, plan, verify
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.inspection.inspector import inspect
from support import models

BIN, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
Tensors = dict[str, torch.Tensor]
Sources = Callable[[str], Path]


def weights(directory: Path) -> Tensors:
    return load_file(directory / "model.safetensors")


def as_bin(source: Path, target: Path, tensors: Tensors | None = None, legacy: bool = False) -> Path:
    """The checkpoint `source` in one `.bin` file, with other `tensors` if given."""
    shutil.copytree(source, target)
    content = tensors or weights(source)
    (target / "model.safetensors").unlink()
    torch.save(content, target / BIN, _use_new_zipfile_serialization=not legacy)
    return target


def as_shards(source: Path, target: Path, legacy: bool = False) -> Path:
    """The checkpoint `source` in two `.bin` files and an index."""
    tensors = weights(source)
    as_bin(source, target)
    (target / BIN).unlink()
    names = [f"pytorch_model-{number:05}-of-00002.bin" for number in (1, 2)]
    weight_map = {name: names[number % 2] for number, name in enumerate(tensors)}
    for shard in names:
        part = {name: tensor for name, tensor in tensors.items() if weight_map[name] == shard}
        torch.save(part, target / shard, _use_new_zipfile_serialization=not legacy)
    (target / INDEX).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return target


def transposed(tensors: Tensors) -> Tensors:
    """The same numbers, none of the matrices contiguous."""
    return {name: tensor.t().contiguous().t() if tensor.dim() > 1 else tensor for name, tensor in tensors.items()}


def in_one_storage(tensors: Tensors) -> Tensors:
    """The same numbers, all of them views of one storage."""
    whole = torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
    parts = torch.split(whole, [tensor.numel() for tensor in tensors.values()])
    return {name: part.view(tensor.shape) for (name, tensor), part in zip(tensors.items(), parts, strict=True)}


def with_tied_head(tensors: Tensors) -> Tensors:
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}


def without_prefix(tensors: Tensors) -> Tensors:
    return {name.removeprefix("model.").removeprefix("gpt_neox."): tensor for name, tensor in tensors.items()}


def as_parameters(tensors: Tensors) -> Tensors:
    return {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}


def with_llama_buffers(tensors: Tensors) -> Tensors:
    buffers = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(6) for layer in range(2)}
    return tensors | buffers | {"model.rotary_emb.inv_freq": torch.ones(6)}


def with_neox_buffers(tensors: Tensors) -> Tensors:
    buffers = {}
    for layer in range(2):
        attention = f"gpt_neox.layers.{layer}.attention"
        buffers[f"{attention}.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
        buffers[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        buffers[f"{attention}.rotary_emb.inv_freq"] = torch.ones(3)
    return tensors | buffers


def with_fairseq_version(tensors: Tensors) -> Tensors:
    return tensors | {"model.decoder.version": torch.tensor([3.0])}


CONTENTS: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "as it is": ("llama-gqa-tied", dict),
    "a tied head in the embedding's storage": ("llama-gqa-tied", with_tied_head),
    "all tensors in one storage": ("qwen3", in_one_storage),
    "not contiguous": ("gemma3-gqa", transposed),
    "parameters": ("qwen3", as_parameters),
    "no prefix, post-norm": ("opt-350m", without_prefix),
    "no prefix, an untied head": ("pythia", without_prefix),
    "llama's old buffers": ("llama-mha", with_llama_buffers),
    "gpt_neox's old buffers": ("pythia", with_neox_buffers),
    "opt's old buffer": ("opt-350m", with_fairseq_version),
}


@pytest.mark.parametrize("variant, change", CONTENTS.values(), ids=list(CONTENTS))
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_bin_gives_the_clone_that_its_safetensors_give(
    legacy: bool, variant: str, change: Callable[[Tensors], Tensors], source: Sources, tmp_path: Path
) -> None:
    src = as_bin(source(variant), tmp_path / "bin", change(weights(source(variant))), legacy)
    expand(src, tmp_path / "clone", embed_mult=2, ffn_mult=3)
    expand(source(variant), tmp_path / "expected", embed_mult=2, ffn_mult=3)
    found, expected = weights(tmp_path / "clone"), weights(tmp_path / "expected")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.logits is not None
    assert report.logits.relative_error <= 1e-5


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_shards_are_read_by_their_index(legacy: bool, source: Sources, tmp_path: Path) -> None:
    src = as_shards(source("opt-125m"), tmp_path / "bin", legacy)
    expand(src, tmp_path / "clone", embed_mult=2)
    expand(source("opt-125m"), tmp_path / "expected", embed_mult=2)
    assert {n: t.tolist() for n, t in weights(tmp_path / "clone").items()} == {
        n: t.tolist() for n, t in weights(tmp_path / "expected").items()
    }
    assert verify(tmp_path / "clone").passed


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_storage_dtype_is_the_files(dtype: str, source: Sources, tmp_path: Path) -> None:
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in weights(source("opt-350m")).items()}
    src = as_bin(source("opt-350m"), tmp_path / "bin", without_prefix(tensors))
    expand(src, tmp_path / "clone", embed_mult=2, ffn_mult=2)
    assert {str(tensor.dtype) for tensor in weights(tmp_path / "clone").values()} == {f"torch.{dtype}"}
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.logits is not None
    assert report.logits.relative_error <= 1e-5


def test_safetensors_are_preferred_and_a_single_bin_to_shards(source: Sources, tmp_path: Path) -> None:
    """As transformers does."""
    src = as_shards(source("qwen3"), tmp_path / "src")
    torch.save({name: tensor * 2 for name, tensor in weights(source("qwen3")).items()}, src / BIN)
    single = open_source(src)
    with single.rows() as rows:
        doubled = rows(single.tensors["model.norm.weight"], 0, 48)
    assert torch.equal(doubled, weights(source("qwen3"))["model.norm.weight"] * 2)
    shutil.copy(source("qwen3") / "model.safetensors", src)
    (src / BIN).write_bytes(b"not read")
    assert plan(src).digest == plan(source("qwen3")).digest


def test_the_new_format_is_mapped_and_the_old_one_is_said_to_take_memory(source: Sources, tmp_path: Path) -> None:
    mapped = open_source(as_bin(source("qwen3"), tmp_path / "new"))
    assert mapped.notes == ()
    assert str(tmp_path / "new" / BIN) in Path("/proc/self/maps").read_text()
    assert "old format" in open_source(as_bin(source("qwen3"), tmp_path / "old", legacy=True)).notes[0]


def test_a_checkpoint_that_was_trained_from_a_clone_may_be_a_bin(source: Sources, tmp_path: Path) -> None:
    expand(source("qwen3"), tmp_path / "clone", embed_mult=2)
    trained = as_bin(tmp_path / "clone", tmp_path / "trained")
    assert inspect(trained, tmp_path / "clone").layers == inspect(tmp_path / "clone").layers


def test_a_model_loaded_from_a_bin_can_be_grown_in_memory(source: Sources, tmp_path: Path) -> None:
    model = models.load(as_bin(source("qwen3"), tmp_path / "bin"))
    assert models.relative_error(models.logits(clone_model(model, embed_mult=2)), models.logits(model)) <= 1e-5


class Malicious:
    """Unpickled by the pickle module, it would leave a file called `ran` in the working directory."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch ran",)


def save(content: object, legacy: bool = False) -> Callable[[Path], object]:
    return lambda src: torch.save(content, src / BIN, _use_new_zipfile_serialization=not legacy)


def write(content: bytes) -> Callable[[Path], object]:
    return lambda src: (src / BIN).write_bytes(content)


def cut(bytes_: int, legacy: bool = False) -> Callable[[Path], object]:
    def change(src: Path) -> None:
        torch.save(torch.load(src / BIN), src / BIN, _use_new_zipfile_serialization=not legacy)
        content = (src / BIN).read_bytes()
        (src / BIN).write_bytes(content[:bytes_])

    return change


def strange_zip(src: Path) -> None:
    with zipfile.ZipFile(src / BIN, "w") as file:
        file.writestr("notes.txt", "mine")


def shard(src: Path, change: Callable[[Path], object]) -> None:
    """Make shards of the file, and change the second."""
    tensors = torch.load(src / BIN)
    (src / BIN).unlink()
    weight_map = {name: f"pytorch_model-{1 + number % 2}.bin" for number, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        torch.save({n: t for n, t in tensors.items() if weight_map[n] == file}, src / file)
    (src / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    change(src / "pytorch_model-2.bin")


def edit_weight_map(src: Path, change: Callable[[dict[str, str]], object]) -> None:
    shard(src, lambda _: None)
    index = json.loads((src / INDEX).read_text())
    change(index["weight_map"])
    (src / INDEX).write_text(json.dumps(index))


def many_times(doublings: int) -> object:
    """A tuple that takes little room and prints 2 ** doublings letters."""
    name: object = "a"
    for _ in range(doublings):
        name = (name, name)
    return name


def make_pipe(src: Path) -> None:
    (src / BIN).unlink()
    os.mkfifo(src / BIN)


def compress(src: Path) -> None:
    """Pack the file anew as the same archive, compressed."""
    with zipfile.ZipFile(src / BIN) as archive:
        content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(src / BIN, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle that runs code": (save({"a": Malicious()}), "asks for 'posix.system', which could run code"),
    "an old pickle that runs code": (save({"a": Malicious()}, legacy=True), "asks for 'posix.system'"),
    "a plain pickle that runs code": (write(pickle.dumps({"a": Malicious()}, protocol=2)), "asks for 'posix.system'"),
    "a newer plain pickle": (write(pickle.dumps({"a": Malicious()}, protocol=5)), "not a PyTorch file"),
    "a whole module": (save(torch.nn.Linear(2, 2)), "asks for 'torch.nn.modules.linear.Linear'"),
    "a list": (save([1, 2]), "expected a state dict, tensor by name, found list"),
    "nothing": (save({}), "expected a state dict"),
    "a training checkpoint": (save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}), "found dict under 'state_dict'"),
    "a number for a name": (save({3: torch.ones(2)}), "found Tensor under 3"),
    "a sparse tensor": (save({"a": torch.eye(2).to_sparse()}), "tensor 'a' is quantised, sparse or empty"),
    "a tensor without numbers": (save({"a": torch.ones(2, device="meta")}), "tensor 'a' is quantised, sparse or empty"),
    "a tensor of whole numbers": (
        lambda src: save(torch.load(src / BIN) | {"model.norm.weight": torch.ones(48, dtype=torch.int8)})(src),
        "tensor 'model.norm.weight': expected floating-point weights, found I8",
    ),
    "a name that is long to print": (save({many_times(12): torch.ones(2)}), "found Tensor under ((("),
    "an archive that unpacks to more": (compress, "is compressed, and could unpack to any size"),
    "a pipe": (make_pipe, "pytorch_model.bin: expected a file"),
    "an empty file": (write(b""), "truncated, damaged or not a PyTorch file"),
    "garbage": (write(b"garbage" * 100), "truncated, damaged or not a PyTorch file"),
    "a pointer to a large file": (write(b"version https://git-lfs.github.com/spec/v1\n"), "truncated, damaged or not"),
    "some other zip": (strange_zip, "truncated, damaged or not a PyTorch file"),
    "cut in the directory of the zip": (cut(-30), "truncated, damaged or not a PyTorch file"),
    "cut halfway": (cut(60_000), "truncated, damaged or not a PyTorch file"),
    "an old file cut halfway": (cut(60_000, legacy=True), "truncated, damaged or not a PyTorch file"),
    "an old file cut in its pickle": (cut(100, legacy=True), "truncated, damaged or not a PyTorch file"),
    "a missing shard": (lambda src: shard(src, lambda path: path.unlink()), "pytorch_model-2.bin: missing shard"),
    "a damaged shard": (
        lambda src: shard(src, lambda path: path.write_bytes(b"")),
        "pytorch_model-2.bin: truncated, damaged or not",
    ),
    "a shard that runs code": (
        lambda src: shard(src, lambda path: torch.save({"a": Malicious()}, path)),
        "pytorch_model-2.bin: refused",
    ),
    "an index that names an absent tensor": (
        lambda src: edit_weight_map(src, lambda weights: weights.update({"ghost": "pytorch_model-2.bin"})),
        "'ghost' is absent",
    ),
    "an index that contradicts a shard": (
        lambda src: edit_weight_map(src, lambda weights: weights.pop("model.norm.weight")),
        "tensor 'model.norm.weight' lies in",
    ),
    "a shard outside the directory": (
        lambda src: edit_weight_map(src, lambda weights: weights.update({"model.norm.weight": "../x.bin"})),
        "leads out of the directory",
    ),
}


@pytest.mark.parametrize("spoil, words", BAD.values(), ids=list(BAD))
def test_a_bad_bin_is_refused_by_name_and_runs_nothing(
    spoil: Callable[[Path], object], words: str, source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil(as_bin(source("qwen3"), tmp_path / "src"))
    with pytest.raises(CheckpointError) as refusal:
        expand("src", "clone", embed_mult=2)
    assert words in refusal.value.message
    assert "\n" not in refusal.value.message
    assert "pytorch_model" in refusal.value.message or "tensor" in refusal.value.message
    assert {path.name for path in tmp_path.iterdir()} == {"src"}
