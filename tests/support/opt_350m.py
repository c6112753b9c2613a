"""A repository shaped like facebook/opt-350m: its file list, its config but for two layers and few words.

Float16, post-norm, projected embeddings, tied, a byte-level tokenizer, and files of other frameworks that nobody needs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from hyperclone_cli.verifier.self_check import randomise
from hyperclone_cli.verifier.text import PAGE

CONFIG: dict[str, Any] = {
    "_name_or_path": "opt-350m",
    "_remove_final_layer_norm": False,
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "architectures": ["OPTForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "do_layer_norm_before": False,
    "dropout": 0.1,
    "eos_token_id": 2,
    "ffn_dim": 4096,
    "hidden_size": 1024,
    "init_std": 0.02,
    "layerdrop": 0.0,
    "max_position_embeddings": 2048,
    "model_type": "opt",
    "num_attention_heads": 16,
    "num_hidden_layers": 2,
    "pad_token_id": 1,
    "prefix": "</s>",
    "torch_dtype": "float16",
    "transformers_version": "4.21.0.dev0",
    "use_cache": True,
    "vocab_size": 1024,
    "word_embed_proj_dim": 512,
}

CARD = """\
---
language: en
inference: false
tags:
- text-generation
license: other
commercial: false
---

# OPT: Open Pre-trained Transformer Language Models
"""

QUARTER: dict[str, Any] = {"hidden_size": 256, "ffn_dim": 1024, "num_attention_heads": 4, "word_embed_proj_dim": 128}
"""A quarter of every width, where the size of files does not matter."""

UNNEEDED = {"flax_model.msgpack": b"flax" * 2000, "tf_model.h5": b"tf" * 4000, ".gitattributes": b"*.bin filter=lfs\n"}
SPECIAL = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}


def build(path: Path, weights: str = "pytorch_model.bin", **changes: Any) -> Path:
    """Write the repository's files to `path`, the weights as a `.bin` file or as safetensors."""
    path.mkdir(parents=True)
    config = CONFIG | changes
    torch.manual_seed(0)
    fields = {key: value for key, value in config.items() if key != "model_type"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", **fields))
    randomise(model)
    tensors = {name: tensor.half().clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    if weights.endswith(".bin"):
        torch.save(tensors, path / weights)
    else:
        save_file(tensors, path / weights, metadata={"format": "pt"})
    write_tokenizer(path)
    (path / "config.json").write_text(json.dumps(config, indent=2))
    (path / "generation_config.json").write_text(json.dumps({"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}))
    (path / "README.md").write_text(CARD)
    (path / "LICENSE.md").write_text("OPT-175B LICENSE AGREEMENT\n")
    for name, content in UNNEEDED.items():
        (path / name).write_bytes(content)
    return path


def write_tokenizer(path: Path) -> None:
    """Write a byte-level tokenizer of so many words to `path`."""
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator([PAGE], CONFIG["vocab_size"], 2, show_progress=False, special_tokens=special)
    tokenizer.save_model(str(path))
    (path / "special_tokens_map.json").write_text(json.dumps(SPECIAL))
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "errors": "replace", **SPECIAL}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
