"""Llama and its close relations: RMSNorm before each block, gated feed-forward, rotary positions."""

from hyperclone_cli.axes import drop, embedding, linear, optional, vector
from hyperclone_cli.families.table import Family

ATTENTION = {
    "model.layers.*.self_attn.q_proj": linear("heads head_dim", "embed"),
    "model.layers.*.self_attn.k_proj": linear("kv_heads head_dim", "embed"),
    "model.layers.*.self_attn.v_proj": linear("kv_heads head_dim", "embed"),
    "model.layers.*.self_attn.o_proj": linear("embed", "heads head_dim"),
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
HEAD_NORMS = {
    "model.layers.*.self_attn.q_norm": vector("head_dim"),
    "model.layers.*.self_attn.k_norm": vector("head_dim"),
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
    sizes=SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        **ATTENTION,
        **GATED_MLP,
        "model.layers.*.input_layernorm": vector("embed"),
        "model.layers.*.post_attention_layernorm": vector("embed"),
        "model.norm": vector("embed"),
    },
    defaults={"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": False},
    embed_divides_by_heads=True,
)

MISTRAL = LLAMA.variant("mistral", defaults={"num_key_value_heads": 8}, embed_divides_by_heads=False)
QWEN2 = MISTRAL.variant("qwen2", defaults={"num_key_value_heads": 32})
QWEN3 = QWEN2.variant("qwen3", defaults={"head_dim": 128}, tensors=HEAD_NORMS)

FAMILIES = (LLAMA, MISTRAL, QWEN2, QWEN3)
