"""dots3 note: DeepSeek V3.2's attention and experts; layers with windows have heads and latent ranks of their own.

What is read from latent vectors is multiplied by the root of hidden_size over their size, the indexer's queries too.
"""

from dataclasses import replace

from hyperclone_cli.families.blocks import gated_mlp
from hyperclone_cli.families.deepseek import DENSE_OR_SPARSE
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import LAYER_TYPES, Overrides
from hyperclone_cli.families.routing import in_groups
from hyperclone_cli.families.sparse_attention import GLM_MOE_DSA
from hyperclone_cli.families.statements import NextToken, PerLayer
from hyperclone_cli.families.vocabulary import in_layers, linear, norm

_ATTENTION = "model.layers.*.self_attn"
_FROM_LATENT = [f"{_ATTENTION}.{name}" for name in ("q_b_proj", "kv_b_proj", "indexer.wq_b")]

DOTS3_NOTE = GLM_MOE_DSA.without(f"{_ATTENTION}.q_proj").variant(
    "dots3_note_text",
    known_as="dots3 note (text)",
    tiny={
        "num_experts_per_tok": 2,
        "mlp_layer_types": ["dense", "sparse"],
        "layer_types": ["indexed_attention", "sliding_attention"],
        "sliding_window": 8,
        "index_n_heads": 3,
        "index_head_dim": 16,
        "index_topk": 9,
        "per_layer_config": {"1": {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 24}},
    },
    sizes={**GLM_MOE_DSA.sizes, "shared_ffn": "shared_experts_intermediate_size"},
    aliases={
        **GLM_MOE_DSA.aliases,
        "n_routed_experts": ("num_local_experts",),
        "shared_experts_intermediate_size": ("moe_shared_expert_intermediate_size",),
        "swa_num_attention_heads": ("swa_num_key_value_heads",),
    },
    tensors={
        **{module: replace(GLM_MOE_DSA.tensors[module], forward_power=0.5) for module in _FROM_LATENT},
        f"{_ATTENTION}.k_rope_only_layernorm": norm("rope"),
        f"{_ATTENTION}.g_proj": linear("heads", "embed"),
        **in_layers("experts", gated_mlp("model.layers.*.mlp.shared_experts", "shared shared_ffn")),
    },
    defaults={
        "first_k_dense_replace": 1,
        "swa_num_attention_heads": 64,
        "swa_num_key_value_heads": 64,
        "swa_v_head_dim": 128,
        "swa_qk_nope_head_dim": 192,
        "swa_qk_rope_head_dim": 64,
        "swa_q_lora_rank": 1024,
        "swa_kv_lora_rank": 1024,
    },
    per_layer=PerLayer(
        keys={
            "sliding_attention": {
                "heads": "swa_num_attention_heads",
                "head_dim": "swa_v_head_dim",
                "nope": "swa_qk_nope_head_dim",
                "rope": "swa_qk_rope_head_dim",
                "q_latent": "swa_q_lora_rank",
                "kv_latent": "swa_kv_lora_rank",
            }
        }
    ),
    routing=in_groups(8),
    layer_rules=(DENSE_OR_SPARSE, LAYER_TYPES, Overrides("per_layer_config")),
    next_token=NextToken("num_nextn_predict_layers"),
    limits=GLM_MOE_DSA.limits[:1],
)

FAMILIES = (fused(DOTS3_NOTE), DOTS3_NOTE)
