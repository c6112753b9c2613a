"""Checkpoints in GGUF files: what transformers makes of them is what is grown, and what is verified."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from hyperclone_cli import expand, plan, verify
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.inspection.inspector import inspect
from hyperclone_cli.writing.card import model_card
from support.heard import Heard, expand_steps

WORDS = ["ab", *"abcdefghijklmnopqrstuvwxyz", "Ġ", *".,:;?!'-", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "Ċ", *"0123456789"]
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
QUANTISED = gguf.GGMLQuantizationType.Q8_0


def write_gguf(path: Path, architecture: str = "llama", tied: bool = True, without: str = "-") -> Path:
    """A random Llama of 2 layers in a GGUF file, matrices in Q8_0, with a tokenizer of single characters."""
    torch.manual_seed(0)
    embed, ffn, heads, kv_heads = 64, 96, 4, 2
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(embed)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(embed // heads)
    tokens = ["<unk>", "<s>", "</s>", *WORDS]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * len(WORDS))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")

    def matrix(name: str, rows: int, columns: int) -> None:
        if without not in name:
            numbers = (torch.randn(rows, columns) * 1.5 * columns**-0.5).numpy()
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(numbers, QUANTISED), raw_dtype=QUANTISED)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", (1 + 0.3 * torch.randn(embed)).numpy())

    matrix("token_embd", len(tokens), embed)
    norm("output_norm")
    if not tied:
        matrix("output", len(tokens), embed)
    for layer in range(2):
        norm(f"blk.{layer}.attn_norm")
        norm(f"blk.{layer}.ffn_norm")
        matrix(f"blk.{layer}.attn_q", embed, embed)
        matrix(f"blk.{layer}.attn_k", embed // heads * kv_heads, embed)
        matrix(f"blk.{layer}.attn_v", embed // heads * kv_heads, embed)
        matrix(f"blk.{layer}.attn_output", embed, embed)
        matrix(f"blk.{layer}.ffn_gate", ffn, embed)
        matrix(f"blk.{layer}.ffn_up", ffn, embed)
        matrix(f"blk.{layer}.ffn_down", embed, ffn)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "Tiny-Llama.Q8_0.gguf")


def converted(file: Path, directory: Path, dtype: torch.dtype) -> Path:
    """The checkpoint that a person would make of a GGUF file by hand."""
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=dtype
    )
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", None])
def test_a_gguf_gives_the_clone_that_its_conversion_gives(dtype: str | None, llama: Path, tmp_path: Path) -> None:
    by_hand = converted(llama, tmp_path / "by-hand", getattr(torch, dtype or "bfloat16"))
    expand(llama, tmp_path / "clone", embed_mult=2, ffn_mult=3, dtype=dtype)
    expand(by_hand, tmp_path / "expected", embed_mult=2, ffn_mult=3, dtype=dtype)
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("clone", "expected"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {str(tensor.dtype) for tensor in found.values()} == {f"torch.{dtype or 'bfloat16'}"}
    config, other = (AutoConfig.from_pretrained(tmp_path / name).to_dict() for name in ("clone", "expected"))
    assert config == other | {"_name_or_path": config["_name_or_path"]}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "clone" / name).read_bytes() == (by_hand / name).read_bytes()

    report, same = verify(tmp_path / "clone"), verify(tmp_path / "expected")
    assert report.passed, report.failures
    assert (report.logits, report.generation, report.weights) == (same.logits, same.generation, same.weights)
    assert report.logits is not None
    assert report.logits.text == "a page of English"
    assert report.logits.relative_error <= 1e-5


def test_what_lies_beside_a_gguf_is_no_part_of_it(llama: Path, tmp_path: Path) -> None:
    for name in ("alone", "beside"):
        (tmp_path / name).mkdir()
        shutil.copy(llama, tmp_path / name / llama.name)
    other = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "harbour": 1}, unk_token="<unk>"))
    other.save(str(tmp_path / "beside" / "tokenizer.json"))
    for name, content in {
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"},
        "generation_config.json": {"do_sample": True, "eos_token_id": 9},
        "config.json": {"model_type": "qwen2", "hidden_size": 32},
        "adapter_config.json": {"peft_type": "LORA", "base_model_name_or_path": "nowhere"},
    }.items():
        (tmp_path / "beside" / name).write_text(json.dumps(content))
    (tmp_path / "beside" / "chat_template.jinja").write_text("not this one")
    clones = []
    for name in ("alone", "beside"):
        source, out = tmp_path / name / llama.name, tmp_path / name / "clone"
        expand(source, out, embed_mult=2)
        report = verify(out)
        assert report.passed, report.failures
        clones.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert clones[0] == clones[1]


def test_a_gguf_that_is_a_link_is_recorded_by_its_own_name(llama: Path, tmp_path: Path) -> None:
    """As in the Hub's cache, whose files are links to others without a suffix."""
    (tmp_path / "blobs").mkdir()
    shutil.copy(llama, tmp_path / "blobs" / "5f1e")
    (tmp_path / "tiny.gguf").symlink_to(Path("blobs", "5f1e"))
    expand(tmp_path / "tiny.gguf", tmp_path / "clone", embed_mult=2)
    assert json.loads((tmp_path / "clone" / "hyperclone.json").read_text())["source"] == "../tiny.gguf"
    assert verify(tmp_path / "clone", weights_only=True).passed


def test_a_clone_is_called_after_the_file_without_its_suffix(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "models--a--tiny-GGUF" / "snapshots" / ("0" * 40) / "Tiny-Llama.Q8_0.GGUF"
    file.parent.mkdir(parents=True)
    shutil.copy(llama, file)
    card: Any = ModelCard(model_card(plan(file)))
    assert "# a/tiny-GGUF, grown to" in card.text
    assert card.data.to_dict()["base_model"] == "a/tiny-GGUF"
    assert f"--src {file.name} --out" in card.text  # a GGUF file cannot be named by its repository
    card = ModelCard(model_card(plan(file.rename(tmp_path / file.name))))
    assert "# Tiny-Llama.Q8_0, grown to" in card.text
    assert "base_model" not in card.data.to_dict()


def test_a_head_of_its_own_is_read(tmp_path: Path) -> None:
    planned = expand(write_gguf(tmp_path / "untied.gguf", tied=False), tmp_path / "clone", embed_mult=2)
    assert not planned.head.tied
    assert verify(tmp_path / "clone").passed


def test_a_source_that_is_open_already_is_not_read_again(llama: Path, tmp_path: Path) -> None:
    made, heard = expand(llama, tmp_path / "clone", embed_mult=2), Heard()
    assert verify(tmp_path / "clone", opened=made.source, progress=heard).passed
    assert not [step for step in heard.steps if step.startswith("Reading and dequantising")]
    assert verify(tmp_path / "clone", progress=heard).passed
    assert [step for step in heard.steps if step.startswith("Reading and dequantising")]


def test_a_clone_that_differs_is_caught(llama: Path, tmp_path: Path) -> None:
    other = write_gguf(tmp_path / "other.gguf", tied=False)
    expand(llama, tmp_path / "clone", embed_mult=2)
    report = verify(tmp_path / "clone", src=other)
    assert not report.passed
    (tmp_path / "clone" / "tokenizer.json").write_text("{}")
    assert "file tokenizer.json differs from the source's" in verify(tmp_path / "clone", weights_only=True).failures


def test_what_a_gguf_is_dequantised_to_is_said(llama: Path) -> None:
    assert "bfloat16" in plan(llama, embed_mult=2).source.notes[0]
    assert "float16" in plan(llama, embed_mult=2, dtype="float16").source.notes[0]


def test_from_the_command_line_nothing_else_is_printed(llama: Path, tmp_path: Path) -> None:
    arguments = ["expand", "--src", llama, "--embed-mult", 2, "--out", tmp_path / "clone", "--json"]
    command = [sys.executable, "-m", "hyperclone_cli", *map(str, arguments)]
    result = subprocess.run(command, text=True, capture_output=True, timeout=120)
    assert result.returncode == 0, result.stderr
    steps = expand_steps(llama, tmp_path / "clone", 64, "bfloat16", "Reading and dequantising")
    assert result.stderr.splitlines() == steps  # not even transformers' progress bars
    found = json.loads(result.stdout)
    assert found["verification"]["passed"] is True
    assert found["digest"] == plan(llama, embed_mult=2).digest
    assert "dequantised to bfloat16" in found["notes"][0]
    assert inspect(tmp_path / "clone").layers


def cut(bytes_: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(write_gguf(path).read_bytes()[:bytes_])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "not a GGUF file": (lambda path: path.write_bytes(b"safetensors"), "not a GGUF file: it begins with b'safe'"),
    "an empty file": (lambda path: path.write_bytes(b""), "not a GGUF file"),
    "a file cut in its names": (cut(500), "transformers cannot read it"),
    "a file cut in its tensors": (cut(50_000), "transformers cannot read it"),
    "an unknown architecture": (lambda path: write_gguf(path, "nonesuch"), "transformers cannot read it"),
    "a missing tensor": (lambda path: write_gguf(path, without="blk.1.ffn_up"), "tensor model.layers.1.mlp.up_proj"),
}


@pytest.mark.parametrize("spoil, words", BAD.values(), ids=list(BAD))
def test_a_bad_gguf_is_refused(spoil: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    spoil(path)
    with pytest.raises(CheckpointError) as refusal:
        expand(path, tmp_path / "clone", embed_mult=2)
    assert str(path) in refusal.value.message
    assert words in refusal.value.message
    assert "\n" not in refusal.value.message
    assert not (tmp_path / "clone").exists()


def test_one_file_of_several_is_refused(llama: Path, tmp_path: Path) -> None:
    part = tmp_path / "model-00001-of-00003.gguf"
    part.write_bytes(llama.read_bytes())
    with pytest.raises(CheckpointError, match="one of several files"):
        plan(part)


def test_a_directory_of_gguf_files_is_answered_with_one_of_them(llama: Path) -> None:
    with pytest.raises(RequestError) as refusal:
        plan(llama.parent)
    assert str(llama) in refusal.value.hint


def test_missing_packages_are_named_with_what_installs_them(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)  # as Python marks what it could not find
    with pytest.raises(RequestError, match="needs gguf") as refusal:
        plan(llama)
    assert "pip install 'hyperclone-cli[gguf]'" in refusal.value.hint
