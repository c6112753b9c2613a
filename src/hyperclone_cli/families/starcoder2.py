"""StarCoder 2: Llama's attention with LayerNorm, biases and GPT-2's feed-forward block."""

from hyperclone_cli.families.blocks import ATTENTION, EMBEDDING_AND_HEAD, NORMS, SIZES
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import linear

STARCODER2 = Family(
    model_type="starcoder2",
    known_as="StarCoder 2",
    sizes=SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        **ATTENTION,
        "model.layers.*.mlp.c_fc": linear("ffn", "embed"),
        "model.layers.*.mlp.c_proj": linear("embed", "ffn"),
        **NORMS,
    },
    norm="layer",
)

FAMILIES = (STARCODER2,)
