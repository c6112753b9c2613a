"""MiMo V2 Flash: values have a size of their own; layers with windows have sinks, and twice the key/value heads."""

from hyperclone_cli.families.blocks import GATED_MLP, SELF_ATTENTION, sizes
from hyperclone_cli.families.deepseek import CORRECTION
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import Listed
from hyperclone_cli.families.llama import MISTRAL
from hyperclone_cli.families.qwen_moe import EXPERTS
from hyperclone_cli.families.routing import in_groups
from hyperclone_cli.families.vocabulary import apart, in_layers, linear, parameter

_HEADS = "kv_heads group_parts group_part"
_SINKS = f"{SELF_ATTENTION}.attention_sink_bias"

MIMO_V2_FLASH = MISTRAL.without(*GATED_MLP).variant(
    "mimo_v2_flash",
    known_as="MiMo V2 Flash",
    tiny={
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention"],
        "mlp_layer_types": ["dense", "sparse"],
    },
    sizes=sizes(v_head="v_head_dim", moe_ffn="moe_intermediate_size", experts="n_routed_experts"),
    aliases={"n_routed_experts": ("num_local_experts",)},
    tensors={
        f"{SELF_ATTENTION}.q_proj": linear(f"{_HEADS} query", "embed"),
        **in_layers(
            "mixer/full",
            {
                f"{SELF_ATTENTION}.k_proj": linear("kv_heads key", "embed"),
                f"{SELF_ATTENTION}.v_proj": linear("kv_heads v_head", "embed"),
            },
        ),
        **apart(
            "mixer/sliding",
            {
                f"{SELF_ATTENTION}.k_proj": linear("kv_heads group_parts key", "embed"),
                f"{SELF_ATTENTION}.v_proj": linear("kv_heads group_parts v_head", "embed"),
                _SINKS: parameter(_HEADS),
            },
        ),
        f"{SELF_ATTENTION}.o_proj": linear("embed", f"{_HEADS} v_head"),
        **in_layers("experts", EXPERTS | CORRECTION),
        **in_layers("dense", GATED_MLP),
    },
    fixed={"group_parts": 2},
    routing=in_groups(8),
    cache=("kv_heads key", "kv_heads v_head"),
    layer_rules=(Listed("layer_types"), Listed("mlp_layer_types")),
)

FAMILIES = (
    fused(MIMO_V2_FLASH, {f"{_SINKS} (mixer/sliding)": f"{SELF_ATTENTION}.sinks"}),
    MIMO_V2_FLASH,
)
