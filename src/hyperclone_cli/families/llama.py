"""Llama and its close relations: RMSNorm before each block, gated feed-forward, rotary positions.

Layers without positions, sliding windows and constant multipliers change nothing in the tables.
"""

from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.table import Family, HeadRule
from hyperclone_cli.families.vocabulary import drop, embedding, linear, norm, normed, optional, post_norm

ATTENTION = {
    "model.layers.*.self_attn.q_proj": linear("heads query", "embed"),
    "model.layers.*.self_attn.k_proj": linear("kv_heads key", "embed"),
    "model.layers.*.self_attn.v_proj": linear("kv_heads value", "embed"),
    "model.layers.*.self_attn.o_proj": linear("embed", "heads value"),
    "model.layers.*.self_attn.rotary_emb.inv_freq": drop("recomputed from the config"),
    "model.rotary_emb.inv_freq": drop("recomputed from the config"),
}
GATED_MLP = {
    "model.layers.*.mlp.gate_proj": linear("ffn", "embed"),
    "model.layers.*.mlp.up_proj": linear("ffn", "embed"),
    "model.layers.*.mlp.down_proj": linear("embed", "ffn"),
}
EMBEDDING_AND_HEAD = {
    "model.embed_tokens": embedding("vocab", "embed"),
    "lm_head": optional(linear("vocab", "embed")),
}
NORMS = {
    "model.layers.*.input_layernorm": norm("embed"),
    "model.layers.*.post_attention_layernorm": norm("embed"),
    "model.norm": norm("embed"),
}
NORMED_ATTENTION = {
    **ATTENTION,
    "model.layers.*.self_attn.q_proj": normed(linear("heads query", "embed")),
    "model.layers.*.self_attn.k_proj": normed(linear("kv_heads key", "embed")),
    "model.layers.*.self_attn.q_norm": post_norm("query"),
    "model.layers.*.self_attn.k_norm": post_norm("key"),
}
SIZES = {
    "embed": "hidden_size",
    "ffn": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab": "vocab_size",
    "layers": "num_hidden_layers",
}

LLAMA = Family(
    model_type="llama",
    known_as="Llama 1 to 3, SmolLM2, Yi, TinyLlama",
    sizes=SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        **ATTENTION,
        **GATED_MLP,
        **NORMS,
    },
    defaults={"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": False},
    heads=HeadRule.DIVIDES_EMBED,
)

MISTRAL = LLAMA.variant(
    "mistral", known_as="Mistral 7B, Nemo", defaults={"num_key_value_heads": 8}, heads=HeadRule.FREE
)
QWEN2 = MISTRAL.variant("qwen2", known_as="Qwen 1.5 to 2.5", defaults={"num_key_value_heads": 32})
QWEN3 = QWEN2.variant("qwen3", known_as="Qwen 3", defaults={"head_dim": 128}, tensors=NORMED_ATTENTION)

MINISTRAL3 = MISTRAL.variant("ministral3", known_as="Ministral 3", defaults={"head_dim": 128})
SMOLLM3 = MISTRAL.variant(
    "smollm3", known_as="SmolLM3", defaults={"num_key_value_heads": 4, "tie_word_embeddings": True}
)
GRANITE = LLAMA.variant(
    "granite", known_as="Granite 3", heads=HeadRule.FREE, positions=Rotary(constant_scale="attention_multiplier")
)
ERNIE4_5 = MISTRAL.variant(
    "ernie4_5",
    known_as="ERNIE 4.5 0.3B",
    defaults={"num_key_value_heads": 2, "head_dim": 128, "tie_word_embeddings": True},
    positions=Rotary("neighbours"),
)
HELIUM = MISTRAL.variant(
    "helium",
    known_as="Helium 1",
    defaults={"num_key_value_heads": 20, "head_dim": 128},
    positions=Rotary("neighbours"),
    heads=HeadRule.FILLS_EMBED,
)
HUNYUAN = MISTRAL.variant(
    "hunyuan_v1_dense",
    known_as="Hunyuan",
    tensors={
        "model.layers.*.self_attn.q_proj": normed(linear("heads query", "embed")),
        "model.layers.*.self_attn.k_proj": normed(linear("kv_heads key", "embed")),
        "model.layers.*.self_attn.query_layernorm": post_norm("query"),
        "model.layers.*.self_attn.key_layernorm": post_norm("key"),
    },
    defaults={"num_key_value_heads": None},
)

FAMILIES = (
    LLAMA,
    MISTRAL,
    MISTRAL.variant("ministral", known_as="Ministral 8B"),
    MINISTRAL3,
    QWEN2,
    QWEN3,
    SMOLLM3,
    GRANITE,
    LLAMA.variant("cwm", known_as="Code World Model", defaults={"num_key_value_heads": 8, "head_dim": 128}),
    LLAMA.variant("internlm3", known_as="InternLM 3", defaults={"num_key_value_heads": 2, "head_dim": 128}),
    LLAMA.variant("iquestcoder", known_as="IQuest Coder", defaults={"num_key_value_heads": 8, "head_dim": 128}),
    MISTRAL.variant("seed_oss", known_as="Seed-OSS", defaults={"head_dim": 128}),
    ERNIE4_5,
    HELIUM,
    HUNYUAN,
)
