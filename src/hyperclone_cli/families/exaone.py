"""EXAONE 4: norms after each block, and over each query and key."""

from hyperclone_cli.families.llama import EMBEDDING_AND_HEAD, NORMED_ATTENTION, SIZES
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import from_stream, linear, norm, normed, post_norm

EXAONE4 = Family(
    model_type="exaone4",
    known_as="EXAONE 4",
    sizes=SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        **NORMED_ATTENTION,
        # no norm before a block: its first layers read the residual stream
        "model.layers.*.self_attn.q_proj": from_stream(normed(linear("heads query", "embed"))),
        "model.layers.*.self_attn.k_proj": from_stream(normed(linear("kv_heads key", "embed"))),
        "model.layers.*.self_attn.v_proj": from_stream(linear("kv_heads value", "embed")),
        "model.layers.*.mlp.gate_proj": from_stream(linear("ffn", "embed")),
        "model.layers.*.mlp.up_proj": from_stream(linear("ffn", "embed")),
        "model.layers.*.mlp.down_proj": linear("embed", "ffn"),
        "model.layers.*.post_attention_layernorm": post_norm("embed"),
        "model.layers.*.post_feedforward_layernorm": post_norm("embed"),
        "model.norm": norm("embed"),
    },
    defaults={"num_key_value_heads": 32, "head_dim": None, "tie_word_embeddings": False},
)

FAMILIES = (EXAONE4,)
