"""Small random models of every variant that changes the layout or the function, by stock transformers.

Every parameter is random, norms and biases too: fresh initialisations hide bugs behind ones and zeros.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from hyperclone_cli.verifier.self_check import randomise

logging.set_verbosity_error()
logging.disable_progress_bar()

BASE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": None,  # greedy decoding runs to its full length
    "pad_token_id": 0,
}
GQA = BASE | {"num_key_value_heads": 2}
MQA = BASE | {"num_key_value_heads": 1}
MHA = BASE | {"num_key_value_heads": 4}
GEMMA = {"head_dim": 16}
GEMMA2 = GEMMA | {
    "query_pre_attn_scalar": 20,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
OPT = {key: value for key, value in BASE.items() if key != "intermediate_size"} | {"ffn_dim": 80}
WINDOWED = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}

Variant = tuple[str, dict[str, Any]]
"""A model_type and what its config is made of."""

VARIANTS: dict[str, Variant] = {
    "opt-125m": ("opt", OPT | {"do_layer_norm_before": True}),
    "opt-350m": ("opt", OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 24}),
    "opt-projected-prenorm-untied": ("opt", OPT | {"word_embed_proj_dim": 24} | UNTIED),
    "opt-postnorm": ("opt", OPT | {"do_layer_norm_before": False}),
    "opt-untied": ("opt", OPT | UNTIED),
    "opt-no-bias": ("opt", OPT | {"enable_bias": False}),
    "opt-plain-norms": ("opt", OPT | {"layer_norm_elementwise_affine": False}),
    "opt-no-final-norm": ("opt", OPT | {"_remove_final_layer_norm": True}),
    "pythia": ("gpt_neox", BASE | {"use_parallel_residual": True} | UNTIED),
    "pythia-tied": ("gpt_neox", BASE | TIED),
    "gpt_neox-sequential": ("gpt_neox", BASE | {"use_parallel_residual": False} | UNTIED),
    "gpt_neox-full-rotary": (
        "gpt_neox",
        BASE | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}},
    ),
    "gpt_neox-no-attention-bias": ("gpt_neox", BASE | {"attention_bias": False} | TIED),
    "olmo": ("olmo", GQA | UNTIED),
    "olmo-tied": ("olmo", GQA | TIED),
    "olmo-clip": ("olmo", MHA | {"clip_qkv": 0.5}),
    "olmo2": ("olmo2", GQA | UNTIED),
    "olmo2-tied-mha": ("olmo2", MHA | TIED),
    "olmo3": ("olmo3", GQA | WINDOWED),
    "gemma-mqa": ("gemma", MQA | GEMMA),
    "gemma-gqa": ("gemma", GQA | GEMMA),
    "gemma2": ("gemma2", GQA | GEMMA2 | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}),
    "gemma3-mqa": ("gemma3_text", MQA | GEMMA2),
    "gemma3-gqa": ("gemma3_text", GQA | GEMMA2),
    "llama-mha": ("llama", MHA | UNTIED),
    "llama-gqa-tied": ("llama", GQA | TIED),
    "llama-mqa": ("llama", MQA | UNTIED),
    "llama-head_dim-biases": ("llama", GQA | {"head_dim": 20, "attention_bias": True, "mlp_bias": True}),
    "llama3-rope": ("llama", GQA | TIED | {"rope_parameters": LLAMA3_ROPE}),
    "mistral": ("mistral", GQA | {"sliding_window": 8}),
    "qwen2": ("qwen2", GQA | TIED | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": ("qwen3", GQA | TIED | {"head_dim": 16}),
}


def build(
    variant: str | Variant,
    path: Path,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "50GB",
    save_original_format: bool = True,
    **changes: Any,
) -> Path:
    """Write a random model of `variant` (or of that name), with `changes` to its config, as `save_pretrained` does."""
    model_type, kwargs = VARIANTS[variant] if isinstance(variant, str) else variant
    kwargs = kwargs | changes
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **kwargs))
    randomise(model)
    model.to(dtype).save_pretrained(path, max_shard_size=max_shard_size, save_original_format=save_original_format)
    return path


def edited(
    src: Path, out: Path, change: Callable[[dict[str, torch.Tensor]], object] | None = None, **config: Any
) -> Path:
    """Copy a checkpoint to `out`, `change` its tensors, and give its config other values; None takes a key out."""
    shutil.copytree(src, out)
    if change:
        tensors = load_file(out / "model.safetensors")
        change(tensors)
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    stated = json.loads((out / "config.json").read_text()) | config
    (out / "config.json").write_text(json.dumps({key: item for key, item in stated.items() if item is not None}))
    return out


def load(path: Path, **options: Any) -> Any:
    """The checkpoint at `path` in float32 by stock transformers; every key must be there and be used."""
    model, report = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True, **options)
    problems = {kind: keys for kind, keys in report.items() if keys}
    assert not problems, problems
    model.eval()
    return model


def tokens(rows: int = 2, length: int = 24) -> torch.Tensor:
    return torch.randint(3, BASE["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(tokens()).logits.double()
    return result


@torch.no_grad()
def decode(model: Any) -> torch.Tensor:
    prompt = tokens(length=6)
    result: torch.Tensor = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=16
    )
    return result


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@functools.cache
def computed(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of a checkpoint that does not change, and how it continues prompts; worked out once."""
    model = load(path)
    return logits(model), decode(model)


def assert_same_function(src: Path, clone: Path) -> None:
    """Assert that stock transformers computes the same logits (within 1e-5) and decodes the same tokens from both."""
    model = load(clone)
    expected, continued = computed(src)
    assert relative_error(logits(model), expected) <= 1e-5
    assert torch.equal(decode(model), continued)
