"""Mixtures with all experts of a layer in two tensors, as in memory: `save_original_format=False` saves them so.

config.json is that of checkpoints with a tensor for each expert: the names of the tensors tell.
"""

from collections.abc import Mapping
from dataclasses import replace

from hyperclone_cli.axes import bare, linear, stacked
from hyperclone_cli.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3, ERNIE4_5_MOE, GLM4_MOE
from hyperclone_cli.families.mixtral import MIXTRAL, PHIMOE
from hyperclone_cli.families.qwen_moe import OLMOE, QWEN2_MOE, QWEN3_MOE
from hyperclone_cli.families.table import Family

_GATE_UP = "model.layers.*.mlp.experts.gate_up_proj"
_DOWN = "model.layers.*.mlp.experts.down_proj"


def fused(family: Family, width: str, renamed: Mapping[str, str] | None = None) -> Family:
    """The table of a mixture whose experts, `width` wide, are fused; the others of its modules may be `renamed`."""
    numbered = [module for module in family.tensors if module.count("*") == 2]
    kind = family.tensors[numbered[0]].layer_kind
    experts = {
        _GATE_UP: replace(stacked(bare(linear(f"experts {width}+{width}", "embed"))), layer_kind=kind),
        _DOWN: replace(stacked(bare(linear("experts embed", width))), layer_kind=kind),
    }
    others = {(renamed or {}).get(module, module): form for module, form in family.without(*numbered).tensors.items()}
    return replace(family, layout="fused experts", holds=_GATE_UP, tensors=others | experts)


FAMILIES = (
    fused(MIXTRAL, "ffn", {"model.layers.*.block_sparse_moe.gate": "model.layers.*.mlp.gate"}),
    fused(PHIMOE, "ffn", {"model.layers.*.block_sparse_moe.gate": "model.layers.*.mlp.router"}),
    fused(OLMOE, "ffn"),
    fused(QWEN2_MOE, "moe_ffn"),
    fused(QWEN3_MOE, "moe_ffn"),
    fused(DEEPSEEK_V2, "moe_ffn"),
    fused(DEEPSEEK_V3, "moe_ffn"),
    fused(GLM4_MOE, "moe_ffn"),
    fused(
        ERNIE4_5_MOE,
        "moe_ffn",
        {
            "model.layers.*.mlp.moe_statics.e_score_correction_bias": (
                "model.layers.*.mlp.gate.moe_statics.e_score_correction_bias"
            )
        },
    ),
)
