"""Random Llama checkpoints in bfloat16 of a given size, written block by block: the source of the benchmark."""

from __future__ import annotations

import json
import os
from math import prod
from pathlib import Path

import numpy

from hyperclone_cli.checkpoint.safetensors_file import create, lay_out, write_all

SHAPES = {0.3: (896, 2432, 10), 1.0: (1536, 4096, 14), 1.1: (2048, 4096, 10), 4.0: (2560, 6912, 22)}
"""Size in GB → (hidden_size, intermediate_size, layers), with 32,000 tokens and an untied head."""

VOCABULARY, HEAD_DIM = 32_000, 64
_BLOCK_ITEMS = 1 << 21


def build(path: Path, size: float) -> Path:
    """Write the checkpoint of SHAPES[size] to the new directory `path`: random normal numbers, which repeat."""
    hidden, ffn, layers = SHAPES[size]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // HEAD_DIM,
        "num_key_value_heads": hidden // HEAD_DIM,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config, indent=2))
    file = path / "model.safetensors"
    head, tensors = lay_out(file, [(name, "BF16", shape) for name, shape in _tensors(hidden, ffn, layers).items()])
    descriptor = create(file, head, len(head) + sum(tensor.nbytes for tensor in tensors))
    generator = numpy.random.default_rng(0)
    normal = 0.02 * generator.standard_normal(_BLOCK_ITEMS, dtype="float32")
    random = normal.view("uint16")[1::2].copy()  # bfloat16's bits
    for tensor in tensors:
        for first in range(0, prod(tensor.shape), _BLOCK_ITEMS):
            count = min(_BLOCK_ITEMS, prod(tensor.shape) - first)
            write_all(descriptor, memoryview(random[:count].tobytes()), tensor.offset + 2 * first)
    os.close(descriptor)
    return path


def _tensors(hidden: int, ffn: int, layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, hidden)}
    for layer in range(layers):
        matrices = {f"self_attn.{letter}_proj": (hidden, hidden) for letter in "qkvo"}
        matrices |= {"mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden), "mlp.down_proj": (hidden, ffn)}
        norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (hidden,))
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in (matrices | norms).items()}
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (VOCABULARY, hidden)}
