"""OLMo 1 to 3: norms without weights at first, then norms after each block and over all heads."""

from hyperclone_cli.axes import vector
from hyperclone_cli.families.llama import ATTENTION, EMBEDDING_AND_HEAD, GATED_MLP, SIZES
from hyperclone_cli.families.table import Family

OLMO = Family(
    model_type="olmo",
    sizes=SIZES,
    tensors={**EMBEDDING_AND_HEAD, **ATTENTION, **GATED_MLP},
    defaults={"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": False},
    folds=(),  # its norms have no weights, so a tied head has nowhere to put a factor
)

OLMO2 = Family(
    model_type="olmo2",
    sizes=SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        **ATTENTION,
        **GATED_MLP,
        "model.layers.*.self_attn.q_norm": vector("heads head_dim"),
        "model.layers.*.self_attn.k_norm": vector("kv_heads head_dim"),
        "model.layers.*.post_attention_layernorm": vector("embed"),
        "model.layers.*.post_feedforward_layernorm": vector("embed"),
        "model.norm": vector("embed"),
    },
    defaults=OLMO.defaults,
)

FAMILIES = (OLMO, OLMO2, OLMO2.variant("olmo3"))
