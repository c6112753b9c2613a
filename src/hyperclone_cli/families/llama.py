"""Llama and its close relations: RMSNorm before each block, gated feed-forward, rotary positions.

Layers without positions, sliding windows and constant multipliers change nothing in the tables.
"""

from hyperclone_cli.families.blocks import (
    ATTENTION,
    EMBEDDING_AND_HEAD,
    GATED_MLP,
    NORMED_ATTENTION,
    NORMS,
    SELF_ATTENTION,
    SIZES,
    qk_norms,
)
from hyperclone_cli.families.layer_rules import LAYER_TYPES, Every, Listed, types_by_period, windows_from
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.statements import HeadRule, Layout, Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import norm, post_norm

LLAMA = Family(
    model_type="llama",
    known_as="Llama 1 to 3, SmolLM2, Yi, TinyLlama",
    sizes=SIZES,
    tensors={**EMBEDDING_AND_HEAD, **ATTENTION, **GATED_MLP, **NORMS},
    heads=HeadRule.DIVIDES_EMBED,
)

MISTRAL = LLAMA.variant("mistral", known_as="Mistral 7B, Nemo", heads=HeadRule.FREE)
QWEN2 = MISTRAL.variant(
    "qwen2",
    known_as="Qwen 1.5 to 2.5",
    layer_rules=windows_from("max_window_layers", use_sliding_window=True),
)
QWEN3 = QWEN2.variant("qwen3", known_as="Qwen 3", tensors=NORMED_ATTENTION)

SMOLLM3 = MISTRAL.variant(
    "smollm3",
    known_as="SmolLM3",
    # without `layer_types`, they follow from these
    layer_rules=(Listed("no_rope_layers", (Every("no_rope_layer_interval"), 0, 1)), LAYER_TYPES),
)
GRANITE = LLAMA.variant(
    "granite", known_as="Granite 3", heads=HeadRule.FREE, positions=Rotary(constant_scale="attention_multiplier")
)
HYPERCLOVAX_PLAIN = LLAMA.variant(
    "hyperclovax",
    layout=Layout("without post-norms", {"use_post_norm": False}),
    known_as="models with use_post_norm false",
    positions=Rotary(constant_scale="attention_multiplier"),
    limits=(
        Limit(
            "head_dim", "where no attention_multiplier is stated, it follows from it", {"attention_multiplier": None}
        ),
    ),
)
HYPERCLOVAX = HYPERCLOVAX_PLAIN.variant(
    "hyperclovax",
    layout=Layout(),
    known_as="HyperCLOVA X SEED Think",
    tensors={
        "model.layers.*.post_norm1": post_norm("embed"),
        "model.layers.*.post_norm2": post_norm("embed"),
    },
)
ERNIE4_5 = MISTRAL.variant(
    "ernie4_5",
    known_as="ERNIE 4.5 0.3B",
    positions=Rotary("neighbours"),
)
HELIUM = MISTRAL.variant(
    "helium",
    known_as="Helium 1",
    positions=Rotary("neighbours"),
    heads=HeadRule.FILLS_EMBED,
)
HUNYUAN = MISTRAL.variant(
    "hunyuan_v1_dense",
    known_as="Hunyuan",
    tensors=qk_norms(SELF_ATTENTION, "query_layernorm", "key_layernorm"),
)

BITNET = LLAMA.variant(
    "bitnet",
    known_as="BitNet before quantisation",
    tensors={  # norms before the last matrix of each block too
        "model.layers.*.self_attn.attn_sub_norm": norm("heads value"),
        "model.layers.*.mlp.ffn_sub_norm": norm("ffn"),
    },
    heads=HeadRule.FILLS_EMBED,
)

FAMILIES = (
    LLAMA,
    MISTRAL,
    MISTRAL.variant("ministral", known_as="Ministral 8B", layer_rules=(LAYER_TYPES,)),
    MISTRAL.variant("ministral3", known_as="Ministral 3"),
    QWEN2,
    QWEN3,
    SMOLLM3,
    GRANITE,
    HYPERCLOVAX_PLAIN,
    HYPERCLOVAX,
    LLAMA.variant(
        "cwm",
        known_as="Code World Model",
        layer_rules=(types_by_period(place=0, length=4),),
    ),
    LLAMA.variant("internlm3", known_as="InternLM 3"),
    LLAMA.variant("iquestcoder", known_as="IQuest Coder"),
    MISTRAL.variant("seed_oss", known_as="Seed-OSS"),
    ERNIE4_5,
    HELIUM,
    HUNYUAN,
    BITNET,
)
