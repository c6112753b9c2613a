"""What trainers, converters and downloads leave: it is grown as it was meant, or the message says what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from hyperclone_cli import expand, plan, verify
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.growth.request import Request
from support import models

DOUBLE = Request(embed_mult=2, ffn_mult=2)
WEIGHTS = "model.safetensors"
Tensors = dict[str, torch.Tensor]


def set_config(src: Path, **changes: Any) -> None:
    config = json.loads((src / "config.json").read_text()) | changes
    (src / "config.json").write_text(json.dumps(config))


def rename(change: Callable[[str], str]) -> Callable[[Path], None]:
    """Gives every tensor another name."""

    def make(src: Path) -> None:
        tensors = {change(name): tensor for name, tensor in load_file(src / WEIGHTS).items()}
        save_file(tensors, src / WEIGHTS, metadata={"format": "pt"})

    return make


def add(**tensors: torch.Tensor) -> Callable[[Path], None]:
    """Stores more tensors; "__" in a name stands for a dot."""

    def make(src: Path) -> None:
        more = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
        save_file(load_file(src / WEIGHTS) | more, src / WEIGHTS, metadata={"format": "pt"})

    return make


def all_of(*changes: Callable[[Path], object]) -> Callable[[Path], None]:
    def make(src: Path) -> None:
        for change in changes:
            change(src)

    return make


def to_bin(change: Callable[[str], str]) -> Callable[[Path], None]:
    def make(src: Path) -> None:
        torch.save(
            {change(name): tensor for name, tensor in load_file(src / WEIGHTS).items()}, src / "pytorch_model.bin"
        )
        (src / WEIGHTS).unlink()

    return make


def as_trainer_checkpoint(src: Path) -> None:
    """What the Trainer writes beside the weights."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save({"step": 500}, src / name)
    (src / "trainer_state.json").write_text("{}")
    (src / "global_step500").mkdir()
    (src / "zero_to_fp32.py").write_text("raise SystemExit")


def pad_beyond_vocabulary(src: Path) -> None:
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a"))).save_pretrained(src)
    set_config(src, pad_token_id=96)


def drop_bias(src: Path) -> None:
    """As converters from Qwen leave it: attention_bias is true, and o_proj has none."""
    set_config(src, attention_bias=True)
    tensors = load_file(src / WEIGHTS)
    biases = {
        name.replace("weight", "bias"): torch.randn(len(tensor), generator=torch.Generator().manual_seed(3))
        for name, tensor in tensors.items()
        if re.search(r"[qkv]_proj\.weight", name)
    }
    save_file(tensors | biases, src / WEIGHTS, metadata={"format": "pt"})


def zeros_for_biases(src: Path) -> None:
    """What transformers takes it for."""
    drop_bias(src)
    missing = {f"model.layers.{layer}.self_attn.o_proj.bias": torch.zeros(48) for layer in range(2)}
    save_file(load_file(src / WEIGHTS) | missing, src / WEIGHTS, metadata={"format": "pt"})


def nothing(_: Path) -> None:
    pass


GROWN: dict[str, tuple[Callable[[Path], object], Callable[[Path], None], str]] = {
    "a compiled model": (rename("_orig_mod.{}".format), nothing, "wrappers of training had put it: '_orig_mod.'"),
    "a compiled layer": (rename(lambda name: name.replace("mlp.", "_orig_mod.mlp.")), nothing, "_orig_mod."),
    "of DataParallel": (rename("module.{}".format), nothing, "had put it: 'module.'"),
    "of both": (rename("module._orig_mod.{}".format), nothing, "had put it: '_orig_mod.', 'module.'"),
    "of PEFT, merged": (rename("base_model.model.{}".format), nothing, "had put it: 'base_model.model.'"),
    "of FSDP": (rename(lambda name: name.replace("layers.", "layers._fsdp_wrapped_module.")), nothing, "_fsdp_wrapped"),
    "a pickle": (to_bin("module.{}".format), nothing, "had put it: 'module.'"),
    "a value head": (
        add(v_head__summary__weight=torch.ones(1, 48), v_head__summary__bias=torch.ones(1)),
        nothing,
        "Not written, a value head, which transformers does not load: v_head.summary",
    ),
    "a value head, wrapped": (
        all_of(rename("pretrained_model.{}".format), add(v_head__summary__weight=torch.ones(1, 48))),
        nothing,
        "Not written, a value head",
    ),
    "a checkpoint of the Trainer": (as_trainer_checkpoint, nothing, "never run: zero_to_fp32.py"),
    "an adapter's config beside whole weights": (
        lambda src: shutil.copy(src / "config.json", src / "adapter_config.json"),
        nothing,
        "adapter_config.json is left out",
    ),
    "a bias that is promised": (drop_bias, zeros_for_biases, "written as zeros"),
    "layers cut in the config": (
        lambda src: set_config(src, num_hidden_layers=1),
        lambda src: set_config(src, num_hidden_layers=1),
        "of a layer beyond those that config.json states",
    ),
}


@pytest.mark.parametrize("change, meant, words", GROWN.values(), ids=list(GROWN))
def test_what_a_trainer_leaves_is_grown_as_it_was_meant(
    change: Callable[[Path], object],
    meant: Callable[[Path], None],
    words: str,
    source: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    src, expected = (shutil.copytree(source("mistral"), tmp_path / name) for name in ("src", "expected"))
    if meant is zeros_for_biases:
        src, expected = (models.build("llama-mha", tmp_path / f"{name}-llama") for name in ("src", "expected"))
    change(src)
    meant(expected)
    made = expand(src, tmp_path / "clone", DOUBLE)
    assert any(words in note for note in made.notes) or not words
    clone = models.logits(models.load(tmp_path / "clone"))
    assert models.relative_error(clone, logits_of(expected)) <= 1e-5


def logits_of(path: Path) -> torch.Tensor:
    """By stock transformers, which leaves out layers that config.json does not state."""
    return models.logits(
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    )


def test_a_wrapped_checkpoint_is_verified_under_its_plain_names(source: Callable[[str], Path], tmp_path: Path) -> None:
    src = shutil.copytree(source("qwen3"), tmp_path / "src")
    rename("module._orig_mod.{}".format)(src)
    expand(src, tmp_path / "clone", DOUBLE)
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.logits
    assert report.logits.relative_error <= 1e-5


def test_kernels_of_the_machine_that_saved_it_are_no_matter(source: Callable[[str], Path], tmp_path: Path) -> None:
    src = shutil.copytree(source("mistral"), tmp_path / "src")
    set_config(src, _attn_implementation="flash_attention_2", _attn_implementation_autoset=True)
    expand(src, tmp_path / "clone", DOUBLE)
    report = verify(tmp_path / "clone")
    assert report.passed
    assert report.logits
    assert report.logits.relative_error <= 1e-5


def without_weights(*names: str) -> Callable[[Path], None]:
    """Empty files in the place of the weights; a name that ends in "/" is a directory."""

    def make(src: Path) -> None:
        (src / WEIGHTS).unlink()
        for name in names:
            (src / name).parent.mkdir(exist_ok=True)
            (src / name).mkdir() if name.endswith("/") else (src / name).touch()

    return make


def adapter(src: Path) -> None:
    (src / WEIGHTS).rename(src / "adapter_model.safetensors")
    (src / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "acme/heron-120m", "r": 4}))


def lora(src: Path) -> None:
    """The state dict of a PEFT model."""

    def change(name: str) -> str:
        return f"base_model.model.{name.replace('q_proj.weight', 'q_proj.base_layer.weight')}"

    rename(change)(src)
    layer = "base_model__model__model__layers__0__self_attn__q_proj__"
    add(**{f"{layer}lora_A__default__weight": torch.ones(4, 48), f"{layer}lora_B__default__weight": torch.ones(48, 4)})(
        src
    )


def empty(src: Path) -> None:
    tensors = load_file(src / WEIGHTS)
    emptied = {name: torch.empty(0) if tensor.dim() > 1 else tensor for name, tensor in tensors.items()}
    save_file(emptied, src / WEIGHTS, metadata={"format": "pt"})


def of_meta(src: Path) -> None:
    rename(lambda name: {"model.embed_tokens.weight": "tok_embeddings.weight"}.get(name, name))(src)
    add(layers__0__attention__wq__weight=torch.ones(2, 2))(src)


def mark(src: Path, *, mark: bytes = b"\xef\xbb\xbf", encoding: str = "utf-8") -> None:
    """As editors on Windows save it: a byte order mark, and lines that end in CR and LF."""
    text = (src / "config.json").read_text().replace("\n", "\r\n")
    (src / "config.json").write_bytes(mark + text.encode(encoding))


REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "an adapter": (
        adapter,
        "this is a PEFT adapter of 'acme/heron-120m', not a model",
        "M.from_pretrained('{src}', dtype='auto').merge_and_unload().save_pretrained('MERGED')",
    ),
    "an adapter without config.json": (
        all_of(adapter, lambda src: (src / "config.json").unlink()),
        "this is a PEFT adapter",
        "merge_and_unload",
    ),
    "LoRA, not merged": (lora, "holds 4 tensors of an adapter, not merged", "model.merge_and_unload().save_pretrained"),
    "ZeRO-3 with empty tensors": (
        empty,
        "tensors are empty, of shape [0]",
        "python {src}/zero_to_fp32.py {src} MERGED",
    ),
    "DeepSpeed": (
        without_weights("global_step500/mp_rank_00_model_states.pt", "latest", "zero_to_fp32.py"),
        "a checkpoint of DeepSpeed, whose weights lie in parts for each process (global_step500)",
        "python {src}/zero_to_fp32.py {src} {src} --safe_serialization",
    ),
    "a step of DeepSpeed": (
        without_weights("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        "a checkpoint of DeepSpeed",
        "zero_to_fp32.py",
    ),
    "parts of a distributed checkpoint": (
        without_weights("__0_0.distcp", "__1_0.distcp"),
        "parts of a distributed checkpoint (__0_0.distcp, __1_0.distcp) without the file .metadata",
        "Copy .metadata here too",
    ),
    "Mistral's own layout": (
        without_weights("consolidated.safetensors", "params.json"),
        "weights in the layout of their maker's own code (consolidated.safetensors)",
        "transformers.models.mistral.convert_mistral_weights_to_hf --input_dir {src} --output_dir CONVERTED",
    ),
    "Meta's own layout": (
        without_weights("consolidated.00.pth", "params.json"),
        "layout of their maker's own code (consolidated.00.pth)",
        "transformers.models.llama.convert_llama_weights_to_hf --input_dir {src}",
    ),
    "Meta's names": (of_meta, "have the names of Meta's own code and torchtitan", "convert_to_hf.py {src} CONVERTED"),
    "a training run": (
        without_weights("checkpoint-500/", "checkpoint-1000/", "runs/"),
        "the directory of a training run, with 2 checkpoints in it (checkpoint-500, checkpoint-1000)",
        "Name one of them: --src {src}/checkpoint-1000",
    ),
    "half of the shards": (
        without_weights("model-00001-of-00004.safetensors", "model-00003-of-00004.safetensors"),
        "2 of 4 shards of a model and no index, which says which tensor lies in which; missing: 00002, 00004.",
        "Copy the other shards here, and the index.",
    ),
    "for another framework": (without_weights("tf_model.h5"), "another framework alone (tf_model.h5)", "from_tf=True"),
    "nothing": (without_weights(), "neither model.safetensors nor pytorch_model.bin was found", "save_pretrained"),
    "a byte order mark": (
        mark,
        "config.json: begins with a byte order mark of UTF-8, which transformers does not read either",
        "tail -c +4 {src}/config.json > {src}/config.json.new && mv {src}/config.json.new {src}/config.json",
    ),
    "UTF-16": (
        lambda src: mark(src, mark=b"\xff\xfe", encoding="utf-16-le"),
        "begins with a byte order mark of UTF-16",
        "iconv -f UTF-16 -t UTF-8 {src}/config.json > ",
    ),
    "a padding token beyond the vocabulary": (
        pad_beyond_vocabulary,
        "Padding_idx must be within num_embeddings",
        "pad_token_id 96 is beyond the 96 rows of the embedding. Set it to null or to a token of the vocabulary",
    ),
    "another name of an architecture": (
        lambda src: set_config(src, model_type="heronlm", architectures=["HeronForCausalLM"]),
        "model_type 'heronlm' is not supported",
        'put "model_type": "llama" into its config.json instead',
    ),
    "names that are stored twice": (
        add(_orig_mod__model__norm__weight=torch.ones(48)),
        "tensors are stored twice, with and without _orig_mod. in their names",
        "Save the state dict of the model itself",
    ),
}


@pytest.mark.parametrize("change, words, hint", REFUSED.values(), ids=list(REFUSED))
def test_the_message_says_what_lies_there_and_what_to_do(
    change: Callable[[Path], object], words: str, hint: str, source: Callable[[str], Path], tmp_path: Path
) -> None:
    src = shutil.copytree(source("mistral"), tmp_path / "src")
    change(src)
    with pytest.raises(CheckpointError) as refusal:
        expand(src, tmp_path / "clone", DOUBLE)
    assert words in refusal.value.message
    assert "\n" not in refusal.value.message
    assert hint.format(src=src) in refusal.value.hint
    assert not re.search("[Ff]etch", refusal.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def shards(src: Path) -> None:
    models.build("mistral", src, max_shard_size="60KB")
    (src / WEIGHTS).unlink(missing_ok=True)
    (src / f"{WEIGHTS}.index.json").unlink()


def pickled_shards(src: Path) -> None:
    shards(src)
    for path in src.glob("model-*.safetensors"):
        torch.save(load_file(path), src / f"pytorch_{path.stem}.bin")
        path.unlink()


def trainers_file(src: Path) -> None:
    torch.save({"state_dict": load_file(src / WEIGHTS), "epoch": 3}, src / "last.ckpt")
    (src / WEIGHTS).unlink()


MENDED: dict[str, Callable[[Path], None]] = {
    "shards without an index": shards,
    "pickled shards without an index": pickled_shards,
    "a file of a trainer": trainers_file,
    "a byte order mark": mark,
    "UTF-16": lambda src: mark(src, mark=b"\xff\xfe", encoding="utf-16-le"),
}


@pytest.mark.parametrize("change", MENDED.values(), ids=list(MENDED))
def test_the_command_that_is_named_makes_a_checkpoint(
    change: Callable[[Path], None], source: Callable[[str], Path], tmp_path: Path
) -> None:
    src = shutil.copytree(source("mistral"), tmp_path / "src")
    change(src)
    with pytest.raises(CheckpointError) as refusal:
        plan(src, DOUBLE)
    command = re.split(r"or write it: |one: |right one: ", refusal.value.hint)[-1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, shell=True, check=True, env=os.environ | {"PATH": path})
    expand(src, tmp_path / "clone", DOUBLE)
    models.assert_same_function(source("mistral"), tmp_path / "clone")
