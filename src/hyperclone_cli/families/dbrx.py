"""DBRX: LayerNorm without biases, fused queries, keys and values; experts one below the other in three tensors."""

from hyperclone_cli.families.blocks import norms
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import bare, conv1d, embedding, linear, stacked

DBRX = Family(
    model_type="dbrx",
    known_as="DBRX",
    tiny={"attn_config.rope_theta": 1e4, "attn_config.clip_qkv": 8.0, "ffn_config.moe_top_k": 2},
    sizes={
        "embed": "d_model",
        "ffn": "ffn_config.ffn_hidden_size",
        "heads": "n_heads",
        "kv_heads": "attn_config.kv_n_heads",
        "experts": "ffn_config.moe_num_experts",
        "vocab": "vocab_size",
        "layers": "n_layers",
    },
    aliases={
        "d_model": ("hidden_size", "ffn_config.hidden_size"),
        "n_heads": ("num_attention_heads",),
        "attn_config.kv_n_heads": ("num_key_value_heads",),
        "n_layers": ("num_hidden_layers",),
        "max_seq_len": ("max_position_embeddings",),
    },
    context="max_seq_len",
    tensors={
        "transformer.wte": embedding("vocab", "embed"),
        "transformer.blocks.*.norm_attn_norm.attn.Wqkv": linear("heads query | kv_heads key | kv_heads value", "embed"),
        "transformer.blocks.*.norm_attn_norm.attn.out_proj": linear("embed", "heads value"),
        "transformer.blocks.*.ffn.router.layer": linear("experts", "embed"),
        "transformer.blocks.*.ffn.experts.mlp.w1": stacked(bare(linear("experts ffn", "embed"))),
        "transformer.blocks.*.ffn.experts.mlp.v1": stacked(bare(linear("experts ffn", "embed"))),
        "transformer.blocks.*.ffn.experts.mlp.w2": stacked(bare(conv1d("ffn", "experts embed"))),
        **norms("transformer.blocks.*.norm_attn_norm.norm_1", "transformer.blocks.*.norm_attn_norm.norm_2"),
        **norms("transformer.norm_f"),
        "lm_head": linear("vocab", "embed"),
    },
    norm="layer",
    routing=Routing(1, "ffn_config.moe_top_k", only={"ffn_config.moe_normalize_expert_weights": (1, None)}),
    limits=(Limit("head_dim", "its clip_qkv would clip scaled queries elsewhere", {"attn_config.clip_qkv": ...}),),
)

FAMILIES = (DBRX,)
