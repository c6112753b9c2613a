"""nanochat: RMSNorm without weights, over each query and key too; feed-forward without a gate."""

from hyperclone_cli.families.llama import ATTENTION, EMBEDDING_AND_HEAD, SIZES
from hyperclone_cli.families.table import Family, Limit
from hyperclone_cli.families.vocabulary import linear, normed

NANOCHAT = Family(
    model_type="nanochat",
    known_as="nanochat",
    sizes=SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        **ATTENTION,
        "model.layers.*.self_attn.q_proj": normed(linear("heads query", "embed")),
        "model.layers.*.self_attn.k_proj": normed(linear("kv_heads key", "embed")),
        "model.layers.*.mlp.fc1": linear("ffn", "embed"),
        "model.layers.*.mlp.fc2": linear("embed", "ffn"),
    },
    defaults={"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": False},
    folds=(),  # its norms have no weights, so a tied head has nowhere to put a factor
    limits=(Limit("pads", "its norms have no weights that could make up for the padding"),),
)

FAMILIES = (NANOCHAT,)
