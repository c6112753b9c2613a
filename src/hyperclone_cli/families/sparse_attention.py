"""DeepSeek V3.2 and GLM 5: latent attention over the tokens that an indexer chooses, whose own heads do not grow."""

from hyperclone_cli.families.deepseek import DEEPSEEK_V3, DENSE_OR_SPARSE
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import LAYER_TYPES, Listed
from hyperclone_cli.families.routing import in_groups
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import Form, in_some_layers, linear, norm

_INDEXER: dict[str, Form] = {
    "model.layers.*.self_attn.indexer.wq_b": linear("*", "q_latent"),
    "model.layers.*.self_attn.indexer.wk": linear("*", "embed"),
    "model.layers.*.self_attn.indexer.k_norm": norm("*"),
    "model.layers.*.self_attn.indexer.weights_proj": linear("*", "embed"),
}

DEEPSEEK_V32: Family = DEEPSEEK_V3.variant(
    "deepseek_v32",
    known_as="DeepSeek V3.2",
    tiny={
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "index_n_heads": 3,
        "index_head_dim": 16,
        "index_topk": 9,
    },
    tensors=_INDEXER,
    layer_rules=(DENSE_OR_SPARSE, LAYER_TYPES),
)
GLM_MOE_DSA: Family = DEEPSEEK_V32.variant(
    "glm_moe_dsa",
    known_as="GLM 5",
    # layers may take what the indexer of an earlier one chose
    tensors={module: in_some_layers(form) for module, form in _INDEXER.items()},
    routing=in_groups(8),
    layer_rules=(DENSE_OR_SPARSE, LAYER_TYPES, Listed("indexer_types")),
    limits=(
        *DEEPSEEK_V32.limits,
        Limit("between", "where a layer may take what the indexer of the layer before chose", {"indexer_types": ...}),
    ),
)

FAMILIES = (fused(DEEPSEEK_V32), DEEPSEEK_V32, fused(GLM_MOE_DSA), GLM_MOE_DSA)
