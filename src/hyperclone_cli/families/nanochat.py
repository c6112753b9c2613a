"""nanochat: RMSNorm without weights, over each query and key too; feed-forward without a gate."""

from hyperclone_cli.families.blocks import GATED_MLP, NORMS, mlp
from hyperclone_cli.families.llama import LLAMA
from hyperclone_cli.families.olmo import NO_WEIGHTS
from hyperclone_cli.families.statements import HeadRule
from hyperclone_cli.families.vocabulary import linear, normed

NANOCHAT = LLAMA.without(*GATED_MLP, *NORMS).variant(
    "nanochat",
    known_as="nanochat",
    tensors={
        "model.layers.*.self_attn.q_proj": normed(linear("heads query", "embed")),
        "model.layers.*.self_attn.k_proj": normed(linear("kv_heads key", "embed")),
        **mlp("model.layers.*.mlp", "fc1", "fc2"),
    },
    heads=HeadRule.FREE,
    limits=(NO_WEIGHTS,),
)

FAMILIES = (NANOCHAT,)
