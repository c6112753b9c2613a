"""Mixtures with all experts of a layer in two tensors, as in memory: `save_original_format=False` saves them so.

config.json is that of checkpoints with a tensor for each expert: the names of the tensors tell.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from hyperclone_cli.families import deepseek, mixtral, qwen_moe
from hyperclone_cli.families.table import Family, Layout
from hyperclone_cli.families.vocabulary import bare, linear, stacked

_GATE_UP = "model.layers.*.mlp.experts.gate_up_proj"
_CORRECTION = "e_score_correction_bias"

_RENAMED = {
    "mixtral": {"model.layers.*.block_sparse_moe.gate": "model.layers.*.mlp.gate"},
    "phimoe": {"model.layers.*.block_sparse_moe.gate": "model.layers.*.mlp.router"},
    "ernie4_5_moe": {
        f"model.layers.*.mlp.moe_statics.{_CORRECTION}": f"model.layers.*.mlp.gate.moe_statics.{_CORRECTION}"
    },
}
"""Modules beside the experts that have another name in memory."""


def fused(family: Family, renamed: Mapping[str, str] = MappingProxyType({})) -> Family:
    """The table of a mixture whose experts are fused, with other modules `renamed`."""
    numbered = [module for module in family.tensors if module.count("*") == 2]
    kind = family.tensors[numbered[0]].layer_kind
    width = "moe_ffn" if "moe_ffn" in family.sizes else "ffn"
    experts = {
        _GATE_UP: replace(stacked(bare(linear(f"experts {width}+{width}", "embed"))), layer_kind=kind),
        "model.layers.*.mlp.experts.down_proj": replace(stacked(bare(linear("experts embed", width))), layer_kind=kind),
    }
    others = {renamed.get(module, module): form for module, form in family.without(*numbered).tensors.items()}
    return replace(family, layout=Layout("fused experts", module=_GATE_UP), tensors=others | experts)


FAMILIES = tuple(
    fused(family, _RENAMED.get(family.model_type, {}))
    for lineage in (mixtral, qwen_moe, deepseek)
    for family in lineage.FAMILIES
)
