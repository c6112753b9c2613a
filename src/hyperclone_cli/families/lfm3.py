"""LFM3: LFM2's convolutions and attention, with a gate for each head and norms after each block."""

from hyperclone_cli.families.blocks import SELF_ATTENTION, SIZES, attention, qk_norms
from hyperclone_cli.families.layer_rules import Listed
from hyperclone_cli.families.lfm2 import LFM2
from hyperclone_cli.families.statements import Layout
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import in_layers, linear, optional, post_norm

_LAYER = "model.layers.*"
_KEPT = {module: form for module, form in LFM2.tensors.items() if "self_attn" not in module}
_POST_NORMS = {
    f"{_LAYER}.post_operator_norm": post_norm("embed"),
    f"{_LAYER}.post_ffn_norm": post_norm("embed"),
}


def _lfm3(gate: str, layout: Layout, sandwich: bool) -> Family:
    return Family(
        model_type="lfm3",
        layout=layout,
        known_as="LFM3" if sandwich else "models with use_sandwich_norm false",
        tiny={"layer_types": ["conv", "full_attention"]},
        sizes=SIZES,
        multiples=LFM2.multiples,
        tensors={
            **_KEPT,
            **in_layers(
                "attention",
                attention(SELF_ATTENTION)
                | qk_norms(SELF_ATTENTION)
                | {f"{SELF_ATTENTION}.{gate}": optional(linear("heads", "embed"))},
            ),
            **(_POST_NORMS if sandwich else {}),
        },
        layer_rules=(Listed("layer_types"),),
    )


_PLAIN = {"use_sandwich_norm": False}
_IN_MEMORY = f"{SELF_ATTENTION}.g_proj"

FAMILIES = (
    _lfm3("g_proj", Layout("plain norms in memory", _PLAIN, _IN_MEMORY), sandwich=False),
    _lfm3("gate_proj", Layout("plain norms", _PLAIN), sandwich=False),
    _lfm3("g_proj", Layout("in memory", module=_IN_MEMORY), sandwich=True),
    _lfm3("gate_proj", Layout(), sandwich=True),
)
