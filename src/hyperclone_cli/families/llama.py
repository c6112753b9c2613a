"""Llama and its close relations: RMSNorm before each block, gated feed-forward, rotary positions."""

from hyperclone_cli.axes import drop, embedding, linear, vector
from hyperclone_cli.families.table import Family

ATTENTION = {
    "model.layers.*.self_attn.q_proj": linear("heads *", "embed"),
    "model.layers.*.self_attn.k_proj": linear("kv_heads *", "embed"),
    "model.layers.*.self_attn.v_proj": linear("kv_heads *", "embed"),
    "model.layers.*.self_attn.o_proj": linear("embed", "heads *"),
    "model.layers.*.self_attn.rotary_emb.inv_freq": drop("recomputed from the config"),
}
GATED_MLP = {
    "model.layers.*.mlp.gate_proj": linear("ffn", "embed"),
    "model.layers.*.mlp.up_proj": linear("ffn", "embed"),
    "model.layers.*.mlp.down_proj": linear("embed", "ffn"),
}
EMBEDDING_AND_HEAD = {
    "model.embed_tokens": embedding("vocab", "embed"),
    "lm_head": linear("vocab", "embed"),
}
HEAD_NORMS = {
    "model.layers.*.self_attn.q_norm": vector("*"),
    "model.layers.*.self_attn.k_norm": vector("*"),
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
)

FAMILIES = (
    LLAMA,
    LLAMA.variant("mistral", defaults={"num_key_value_heads": 8}),
    LLAMA.variant("qwen2", defaults={"num_key_value_heads": 32}),
    LLAMA.variant("qwen3", defaults={"num_key_value_heads": 32, "head_dim": 128}, tensors=HEAD_NORMS),
)
