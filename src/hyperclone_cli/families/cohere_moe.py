"""Cohere's mixture: Command R's block with experts; dense in the first layers where these have a width of their own.

Where rms_norm_eps is stated, its norms are RMSNorm.
"""

from hyperclone_cli.families.blocks import GATED_MLP, gated_mlp, sizes
from hyperclone_cli.families.cohere import COHERE2
from hyperclone_cli.families.deepseek import DENSE_OR_SPARSE
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.qwen_moe import experts
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import Layout
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import Form, in_layers, optional

_TINY = {"num_experts_per_tok": 2, "num_shared_experts": 2}


def _mixture(width: str) -> dict[str, Form]:
    shared = gated_mlp("model.layers.*.mlp.shared_experts", f"shared {width}")
    return experts("model.layers.*.mlp", width) | {module: optional(form) for module, form in shared.items()}


COHERE2_MOE = COHERE2.without(*GATED_MLP).variant(
    "cohere2_moe",
    known_as="Command A Plus",
    tiny=_TINY,
    sizes=sizes(experts="num_experts", shared="num_shared_experts"),
    tensors=_mixture("ffn"),
    defaults={
        "first_k_dense_replace": 0,
    },
    layer_rules=(*COHERE2.layer_rules, DENSE_OR_SPARSE),
    routing=Routing(2, alone={"expert_selection_fn": "sigmoid", "norm_topk_prob": False}),
)
_DENSE = "prefix_dense_intermediate_size"
PARTLY_DENSE = COHERE2.without(*GATED_MLP).variant(
    "cohere2_moe",
    layout=Layout("dense layers", {_DENSE: ...}),
    known_as=f"models with {_DENSE}",
    tiny={**_TINY, "mlp_layer_types": ["dense", "sparse"]},
    sizes=sizes(ffn=_DENSE, moe_ffn="intermediate_size", experts="num_experts", shared="num_shared_experts"),
    tensors={**in_layers("experts", _mixture("moe_ffn")), **in_layers("dense", GATED_MLP)},
    defaults=COHERE2_MOE.defaults,
    layer_rules=COHERE2_MOE.layer_rules,
    routing=COHERE2_MOE.routing,
)


def _with_rms_norm(family: Family) -> Family:
    """The same table for configs that state rms_norm_eps."""
    name = " ".join(filter(None, (family.layout.name, "RMSNorm")))
    return family.variant(
        family.model_type,
        layout=Layout(name, {**family.layout.when, "rms_norm_eps": ...}),
        known_as="models with rms_norm_eps",
        tiny={**family.tiny, "rms_norm_eps": 1e-5},
        norm="rms",
    )


_TABLES = [table for family in (PARTLY_DENSE, COHERE2_MOE) for table in (_with_rms_norm(family), family)]
FAMILIES = tuple(table for family in _TABLES for table in (fused(family), family))
