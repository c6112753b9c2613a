"""StarCoder 2: Llama's attention with LayerNorm, biases and GPT-2's feed-forward block."""

from hyperclone_cli.families.llama import ATTENTION, EMBEDDING_AND_HEAD, SIZES
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import linear, norm

STARCODER2 = Family(
    model_type="starcoder2",
    known_as="StarCoder 2",
    sizes=SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        **ATTENTION,
        "model.layers.*.input_layernorm": norm("embed"),
        "model.layers.*.post_attention_layernorm": norm("embed"),
        "model.layers.*.mlp.c_fc": linear("ffn", "embed"),
        "model.layers.*.mlp.c_proj": linear("embed", "ffn"),
        "model.norm": norm("embed"),
    },
    defaults={"num_key_value_heads": 2, "head_dim": None, "tie_word_embeddings": True},
    norm="layer",
)

FAMILIES = (STARCODER2,)
