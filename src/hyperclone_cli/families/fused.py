"""Mixtures with all experts of a layer in two tensors, as in memory: `save_original_format=False` saves them so.

config.json is that of checkpoints with a tensor for each expert: the names of the tensors tell.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from hyperclone_cli.families import deepseek, mixtral, qwen_moe
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import bare, linear, stacked

_EXPERTS = "model.layers.*.mlp.experts"
_CORRECTION = "e_score_correction_bias"

_RENAMED = {
    "mixtral": {"model.layers.*.block_sparse_moe.gate": "model.layers.*.mlp.gate"},
    "phimoe": {"model.layers.*.block_sparse_moe.gate": "model.layers.*.mlp.router"},
    "ernie4_5_moe": {
        f"model.layers.*.mlp.moe_statics.{_CORRECTION}": f"model.layers.*.mlp.gate.moe_statics.{_CORRECTION}"
    },
}
"""Modules beside the experts that have another name in memory."""


def fused(family: Family, renamed: Mapping[str, str] = MappingProxyType({}), experts: str = _EXPERTS) -> Family:
    """The table of a mixture whose experts are fused into two tensors under `experts`, with other modules `renamed`."""
    numbered = [module for module in family.tensors if module.count("*") == 2]
    kind, reads_stream = family.tensors[numbered[0]].layer_kind, family.tensors[numbered[0]].from_stream
    width = "moe_ffn" if "moe_ffn" in family.sizes else "ffn"
    gate_up = replace(linear(f"experts {width}+{width}", "embed"), from_stream=reads_stream)
    stacks = {
        f"{experts}.{name}": replace(stacked(bare(form)), layer_kind=kind)
        for name, form in (("gate_up_proj", gate_up), ("down_proj", linear("experts embed", width)))
    }
    others = {renamed.get(module, module): form for module, form in family.without(*numbered).tensors.items()}
    layout = replace(
        family.layout, name=" ".join(filter(None, (family.layout.name, "fused experts"))), module=next(iter(stacks))
    )
    return replace(family, layout=layout, tensors=others | stacks)


FAMILIES = tuple(
    fused(family, _RENAMED.get(family.model_type, {}))
    for lineage in (mixtral, qwen_moe, deepseek)
    for family in lineage.FAMILIES
)
