"""Hunyuan 4: DeepSeek V3.2's attention with sinks and gates; each token has several residual streams, mixed by weights
that are read from all of them (hyper-connections).
"""

from dataclasses import replace

from hyperclone_cli.families.deepseek import MIXTURE, SHARED_EXPERTS
from hyperclone_cli.families.routing import in_groups
from hyperclone_cli.families.sparse_attention import GLM_MOE_DSA
from hyperclone_cli.families.statements import Layout
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import Form, bare, from_stream, in_layers, linear, parameter, stacked

_LAYER = "model.layers.*"
_MLP = f"{_LAYER}.mlp"
_EXPERTS = in_layers(
    "experts",
    {
        f"{_MLP}.experts.gate_up_proj": stacked(bare(linear("experts moe_ffn+moe_ffn", "embed"))),
        f"{_MLP}.experts.down_proj": stacked(bare(linear("experts embed", "moe_ffn"))),
        f"{_MLP}.gate": linear("experts", "embed"),
    },
)


def mixing(prefix: str) -> dict[str, Form]:
    """How several residual streams of a token are mixed: weights that are read from all of them."""
    return {
        f"{prefix}fn": from_stream(bare(linear("*", "streams embed"))),
        f"{prefix}base": parameter("*"),
        f"{prefix}scale": parameter("*"),
    }


def _hy_v4(layout: Layout, gate: str, sinks: str, attention: str, ffn: str, head: str) -> Family:
    plain = GLM_MOE_DSA.without(*MIXTURE)
    shared = {module: replace(form, optional=False) for module, form in SHARED_EXPERTS.items()}
    forms = {
        **in_layers("experts", shared),
        **{module: form for module, form in MIXTURE.items() if form.layer_kind == "dense"},
    }
    return plain.variant(
        "hy_v4",
        layout=layout,
        known_as="Hunyuan 4",
        sizes={**plain.sizes, "streams": "hc_mult"},
        tensors={
            **{module.replace("gate_proj", gate): form for module, form in forms.items()},
            **_EXPERTS,
            f"{_LAYER}.self_attn.{gate}": linear("heads value", "embed"),
            f"{_LAYER}.self_attn.{sinks}": parameter("heads"),
            **mixing(f"{_LAYER}.{attention}"),
            **mixing(f"{_LAYER}.{ffn}"),
            **mixing(f"model.{head}"),
        },
        routing=in_groups(8),
    )


FAMILIES = (
    _hy_v4(
        Layout("in memory", module=f"{_LAYER}.self_attn.sinks"),
        *("gate_proj", "sinks", "attn_hc.", "ffn_hc.", "hc_head.hc_"),
    ),
    _hy_v4(
        Layout(),
        *("linear_gate", "learnable_sink_param", "hc_pre.hc_attn_layer.hc_", "hc_pre.hc_mlp_layer.hc_"),
        "hc_pre.hc_head.hc_head_",
    ),
)
