"""LongCat Flash: two blocks of latent attention and feed-forward a layer, and experts that take a shortcut past one.

What is read from latent vectors is multiplied by the root of hidden_size over their size. Some experts hand on what
they read, so the norm before them writes the residual stream too.
"""

from dataclasses import replace

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, gated_mlp, norms, without_first_norm
from hyperclone_cli.families.deepseek import DEEPSEEK_V2, LATENT_ATTENTION, LATENT_SIZES
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.qwen_moe import experts
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import Form, bare, from_stream, linear, numbered, parameter, post_norm, stacked

_LAYER = "model.layers.*"
_MLP = f"{_LAYER}.mlp"
_CHOICES = "experts+zero_experts"


def _attention(number: int) -> dict[str, Form]:
    prefix = f"{_LAYER}.self_attn"
    forms = {
        module.replace(prefix, f"{prefix}.{number}"): replace(form, optional=False)
        for module, form in LATENT_ATTENTION.items()
        if not module.endswith(".q_proj")
    }
    scaled = {f"{prefix}.{number}.{name}" for name in ("q_b_proj", "kv_b_proj")}
    return {module: replace(form, forward_power=0.5) if module in scaled else form for module, form in forms.items()}


_EXPERTS = experts(f"{_MLP}", "moe_ffn", "router.classifier") | {
    f"{_MLP}.router.classifier": linear(_CHOICES, "embed"),
    **{f"{_MLP}.experts.*.{name}_proj": numbered(_CHOICES, linear("moe_ffn", "embed")) for name in ("gate", "up")},
}

LONGCAT_FLASH = Family(
    model_type="longcat_flash",
    known_as="LongCat Flash",
    tiny={"moe_topk": 2, "head_dim": 8},
    sizes={
        **LATENT_SIZES,
        "layers": "num_layers",
        "ffn": "ffn_hidden_size",
        "moe_ffn": "expert_ffn_hidden_size",
        "experts": "n_routed_experts",
        "zero_experts": "zero_expert_num",
    },
    aliases={
        **DEEPSEEK_V2.aliases,
        "ffn_hidden_size": ("intermediate_size",),
        "expert_ffn_hidden_size": ("moe_intermediate_size",),
    },
    tensors={
        **EMBEDDING_AND_HEAD,
        **_attention(0),
        **_attention(1),
        **norms(*(f"{_LAYER}.{name}" for name in ("input_layernorm.0", "input_layernorm.1")), "model.norm"),
        f"{_LAYER}.post_attention_layernorm.0": post_norm("embed"),
        **norms(f"{_LAYER}.post_attention_layernorm.1"),
        **without_first_norm(gated_mlp(f"{_LAYER}.mlps.0") | _EXPERTS),
        **gated_mlp(f"{_LAYER}.mlps.1"),
        f"{_MLP}.router.e_score_correction_bias": parameter(_CHOICES),
    },
    cache=("kv_latent+rope", "kv_latent+rope"),
    limits=(
        *DEEPSEEK_V2.limits,
        Limit("experts", "where experts that hand on what they read are chosen among them"),
        Limit("layers", "where experts hand on what they read, no layer leaves the residual stream as it is"),
    ),
)
_GATE_UP = from_stream(stacked(bare(linear(f"{_CHOICES} moe_ffn+moe_ffn", "embed"))))
_IN_MEMORY = fused(LONGCAT_FLASH)

FAMILIES = (
    replace(_IN_MEMORY, tensors={**_IN_MEMORY.tensors, f"{_MLP}.experts.gate_up_proj": _GATE_UP}),
    LONGCAT_FLASH,
)
