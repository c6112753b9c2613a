"""Qwen's mixtures of experts, and OLMoE: experts by number, in some layers or in all."""

from hyperclone_cli.families.llama import ATTENTION, EMBEDDING_AND_HEAD, GATED_MLP, NORMED_ATTENTION, NORMS, SIZES
from hyperclone_cli.families.table import Family, HeadRule, Limit
from hyperclone_cli.families.vocabulary import in_layers, linear, post_norm

EXPERTS = {
    "model.layers.*.mlp.gate": linear("experts", "embed"),
    "model.layers.*.mlp.experts.*.gate_proj": linear("moe_ffn", "embed"),
    "model.layers.*.mlp.experts.*.up_proj": linear("moe_ffn", "embed"),
    "model.layers.*.mlp.experts.*.down_proj": linear("embed", "moe_ffn"),
}
SHARED_EXPERT = {
    "model.layers.*.mlp.shared_expert_gate": linear("1", "embed"),
    "model.layers.*.mlp.shared_expert.gate_proj": linear("shared_ffn", "embed"),
    "model.layers.*.mlp.shared_expert.up_proj": linear("shared_ffn", "embed"),
    "model.layers.*.mlp.shared_expert.down_proj": linear("embed", "shared_ffn"),
}

QWEN3_MOE = Family(
    model_type="qwen3_moe",
    known_as="Qwen 3 MoE",
    tiny={"num_experts_per_tok": 2, "mlp_only_layers": [0]},
    sizes={**SIZES, "moe_ffn": "moe_intermediate_size", "experts": "num_experts"},
    aliases={"num_experts": ("num_local_experts",)},
    tensors={
        **EMBEDDING_AND_HEAD,
        **NORMED_ATTENTION,
        **in_layers("experts", EXPERTS),
        **in_layers("dense", GATED_MLP),
        **NORMS,
    },
    defaults={
        "num_key_value_heads": 4,
        "head_dim": None,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "tie_word_embeddings": False,
    },
)

QWEN2_MOE = Family(
    model_type="qwen2_moe",
    known_as="Qwen 1.5 and 2 MoE",
    tiny={"num_experts_per_tok": 2, "mlp_only_layers": [0]},
    sizes={**QWEN3_MOE.sizes, "shared_ffn": "shared_expert_intermediate_size"},
    tensors={
        **EMBEDDING_AND_HEAD,
        **ATTENTION,
        **in_layers("experts", EXPERTS | SHARED_EXPERT),
        **in_layers("dense", GATED_MLP),
        **NORMS,
    },
    defaults={
        "num_key_value_heads": 16,
        "head_dim": None,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts": 60,
        "tie_word_embeddings": False,
    },
)

OLMOE = Family(
    model_type="olmoe",
    known_as="OLMoE",
    tiny={"num_experts_per_tok": 2},
    sizes={**SIZES, "experts": "num_experts"},
    tensors={
        **EMBEDDING_AND_HEAD,
        **NORMED_ATTENTION,
        # norms over all heads
        "model.layers.*.self_attn.q_norm": post_norm("heads query"),
        "model.layers.*.self_attn.k_norm": post_norm("kv_heads key"),
        "model.layers.*.mlp.gate": linear("experts", "embed"),
        "model.layers.*.mlp.experts.*.gate_proj": linear("ffn", "embed"),
        "model.layers.*.mlp.experts.*.up_proj": linear("ffn", "embed"),
        "model.layers.*.mlp.experts.*.down_proj": linear("embed", "ffn"),
        **NORMS,
    },
    defaults={"num_key_value_heads": None, "head_dim": None, "num_experts": 64, "tie_word_embeddings": False},
    heads=HeadRule.FILLS_EMBED,
    limits=(Limit("head_dim", "its clip_qkv would clip scaled queries elsewhere", {"clip_qkv": ...}),),
)

FAMILIES = (QWEN2_MOE, QWEN3_MOE, OLMOE)
