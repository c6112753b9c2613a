"""Sources of the benchmarks: random Llamas of a given size, and checkpoints of many tensors, all holes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy

from hyperclone_cli.checkpoint.safetensors_file import ITEM_BYTES, create, lay_out, write_all

SHAPES = {0.3: (896, 2432, 10), 1.0: (1536, 4096, 14), 1.1: (2048, 4096, 10), 4.0: (2560, 6912, 22)}
"""Size in GB → (hidden_size, intermediate_size, layers), with 32,000 tokens and an untied head."""

VOCABULARY, HEAD_DIM = 32_000, 64
_BLOCK_ITEMS = 1 << 21


def build(path: Path, size: float, fp8: bool = False) -> Path:
    """Write the checkpoint of SHAPES[size] to the new directory `path`: random normal numbers, which repeat.

    fp8  in the layers, random bytes below FP8's NaN instead, with scales for blocks of 128: about half of the size
    """
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
        **({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}} if fp8 else {}),
    }
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config, indent=2))
    file = path / "model.safetensors"
    head, tensors = lay_out(file, _stored(_tensors(hidden, ffn, layers), fp8))
    descriptor = create(file, head, len(head) + sum(tensor.nbytes for tensor in tensors))
    generator = numpy.random.default_rng(0)
    normal = 0.02 * generator.standard_normal(_BLOCK_ITEMS, dtype="float32")
    random = {
        "BF16": normal.view("uint16")[1::2].copy(),  # bfloat16's bits
        "F8_E4M3": generator.integers(0, 256, _BLOCK_ITEMS, dtype="uint8") & 0xBF,
        "F32": abs(normal) / 100,
    }
    for tensor in tensors:
        for first in range(0, prod(tensor.shape), _BLOCK_ITEMS):
            count = min(_BLOCK_ITEMS, prod(tensor.shape) - first)
            data = memoryview(random[tensor.dtype][:count].tobytes())
            write_all(descriptor, data, tensor.offset + ITEM_BYTES[tensor.dtype] * first)
    os.close(descriptor)
    return path


def _stored(shapes: dict[str, tuple[int, ...]], fp8: bool) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name, dtype, shape) of what is stored."""
    found: list[tuple[str, str, tuple[int, ...]]] = []
    for name, shape in shapes.items():
        quantised = fp8 and ".layers." in name and len(shape) == 2
        found.append((name, "F8_E4M3" if quantised else "BF16", shape))
        if quantised:
            found.append((f"{name}_scale_inv", "F32", (-(-shape[0] // 128), -(-shape[1] // 128))))
    return found


def _tensors(hidden: int, ffn: int, layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, hidden)}
    for layer in range(layers):
        matrices = {f"self_attn.{letter}_proj": (hidden, hidden) for letter in "qkvo"}
        matrices |= {"mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden), "mlp.down_proj": (hidden, ffn)}
        norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (hidden,))
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in (matrices | norms).items()}
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (VOCABULARY, hidden)}


def hollow(path: Path, config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]], shards: int) -> Path:
    """Write a checkpoint in bfloat16 to the new directory `path`: real headers, and holes where weights would be."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    names = list(shapes)
    index: dict[str, str] = {}
    for number in range(shards):
        file = path / f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        head, tensors = lay_out(file, [(name, "BF16", shapes[name]) for name in part])
        file.write_bytes(head)
        os.truncate(file, len(head) + sum(tensor.nbytes for tensor in tensors))
        index |= dict.fromkeys(part, file.name)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


def kimi_shaped(path: Path) -> Path:
    """DeepSeek V3's architecture in the size of Kimi K2: 67,667 tensors, 2 TB of holes."""
    hidden, expert, experts, layers, dense = 7168, 2048, 384, 61, 3
    config = {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 163_840,
        "hidden_size": hidden, "intermediate_size": 18_432, "moe_intermediate_size": expert, "n_shared_experts": 1,
        "n_routed_experts": experts, "num_experts_per_tok": 8, "num_hidden_layers": layers,
        "first_k_dense_replace": dense, "num_attention_heads": 64, "num_key_value_heads": 64, "q_lora_rank": 1536,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_group": 1,
        "topk_group": 1, "max_position_embeddings": 131_072, "tie_word_embeddings": False,
    }  # fmt: skip
    attention: dict[str, tuple[int, ...]] = {
        "q_a_proj": (1536, hidden), "q_a_layernorm": (1536,), "q_b_proj": (64 * 192, 1536),
        "kv_a_proj_with_mqa": (512 + 64, hidden), "kv_a_layernorm": (512,), "kv_b_proj": (64 * 256, 512),
        "o_proj": (hidden, 64 * 128),
    }  # fmt: skip

    def gated(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
        return {
            f"{prefix}.gate_proj.weight": (width, hidden),
            f"{prefix}.up_proj.weight": (width, hidden),
            f"{prefix}.down_proj.weight": (hidden, width),
        }

    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (163_840, hidden)}
    for layer in (f"model.layers.{number}" for number in range(layers)):
        shapes |= {f"{layer}.self_attn.{name}.weight": shape for name, shape in attention.items()}
        shapes |= {f"{layer}.{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
        if int(layer.rpartition(".")[2]) < dense:
            shapes |= gated(f"{layer}.mlp", 18_432)
            continue
        shapes |= {
            f"{layer}.mlp.gate.weight": (experts, hidden),
            f"{layer}.mlp.gate.e_score_correction_bias": (experts,),
        }
        shapes |= gated(f"{layer}.mlp.shared_experts", expert)
        for number in range(experts):
            shapes |= gated(f"{layer}.mlp.experts.{number}", expert)
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (163_840, hidden)}
    return hollow(path, config, shapes, shards=layers)


def llama_405b_shaped(path: Path) -> Path:
    """Llama 3.1 405B: 126 layers, 0.8 TB of holes."""
    hidden, ffn, vocabulary = 16_384, 53_248, 128_256
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary,
        "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": 126, "num_attention_heads": 128,
        "num_key_value_heads": 8, "max_position_embeddings": 131_072, "tie_word_embeddings": False,
    }  # fmt: skip
    shapes = {
        name: (
            vocabulary if shape[0] == VOCABULARY else 1024 if name.split(".")[-2] in ("k_proj", "v_proj") else shape[0],
            *shape[1:],
        )
        for name, shape in _tensors(hidden, ffn, 126).items()
    }
    return hollow(path, config, shapes, shards=191)
