"""nanochat: RMSNorm without weights, over each query and key too; feed-forward without a gate."""

from hyperclone_cli.families.blocks import ATTENTION, EMBEDDING_AND_HEAD, SIZES, mlp
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
        **mlp("model.layers.*.mlp", "fc1", "fc2"),
    },
    limits=(Limit("pads", "its norms have no weights that could make up for the padding"),),
)

FAMILIES = (NANOCHAT,)
