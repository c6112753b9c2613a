"""OLMo 1 to 3: norms without weights at first, then norms after each block and over all heads."""

from hyperclone_cli.families.llama import ATTENTION, EMBEDDING_AND_HEAD, GATED_MLP, SIZES
from hyperclone_cli.families.table import Family, Limit
from hyperclone_cli.families.vocabulary import from_stream, linear, norm, normed, post_norm

OLMO = Family(
    model_type="olmo",
    known_as="OLMo 1",
    sizes=SIZES,
    tensors={**EMBEDDING_AND_HEAD, **ATTENTION, **GATED_MLP},
    defaults={"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": False},
    norm="layer",
    folds=(),  # its norms have no weights, so a tied head has nowhere to put a factor
    limits=(
        Limit("pads", "its norms have no weights that could make up for the padding"),
        Limit("head_dim", "its clip_qkv would clip scaled queries elsewhere", {"clip_qkv": ...}),
    ),
)

OLMO2 = Family(
    model_type="olmo2",
    known_as="OLMo 2",
    sizes=SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        # no norm before a block: its first layers read the residual stream
        "model.layers.*.self_attn.q_proj": from_stream(normed(linear("heads query", "embed"))),
        "model.layers.*.self_attn.k_proj": from_stream(normed(linear("kv_heads key", "embed"))),
        "model.layers.*.self_attn.v_proj": from_stream(linear("kv_heads value", "embed")),
        "model.layers.*.self_attn.o_proj": linear("embed", "heads value"),
        "model.layers.*.mlp.gate_proj": from_stream(linear("ffn", "embed")),
        "model.layers.*.mlp.up_proj": from_stream(linear("ffn", "embed")),
        "model.layers.*.mlp.down_proj": linear("embed", "ffn"),
        "model.layers.*.self_attn.q_norm": post_norm("heads query"),
        "model.layers.*.self_attn.k_norm": post_norm("kv_heads key"),
        "model.layers.*.post_attention_layernorm": post_norm("embed"),
        "model.layers.*.post_feedforward_layernorm": post_norm("embed"),
        "model.norm": norm("embed"),
    },
    defaults=OLMO.defaults,
)

FAMILIES = (OLMO, OLMO2, OLMO2.variant("olmo3", known_as="OLMo 3"))
