"""Mamba 2 in most layers, attention in others or beside it: Bamba, Falcon H1, Granite 4."""

from dataclasses import replace

from hyperclone_cli.families.blocks import ATTENTION, EMBEDDING_AND_HEAD, NORMS, gated_mlp, norms, sizes, under
from hyperclone_cli.families.granite_moe import EXPERTS
from hyperclone_cli.families.layer_rules import LAYER_TYPES, Listed, Numbers
from hyperclone_cli.families.mamba2 import MIXER, NORMED
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import in_layers, linear, norm, optional

_MAMBA = under("model.layers.*.mamba", MIXER)
_SIZES = sizes(
    ssm_heads="mamba_n_heads", ssm_value="mamba_d_head", ssm_groups="mamba_n_groups", ssm_state="mamba_d_state"
)
_TINY = {"mamba_n_heads": 8, "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_chunk_size": 8}

BAMBA = Family(
    model_type="bamba",
    known_as="Bamba 9B",
    tiny={**_TINY, "attn_layer_indices": [1]},
    sizes=_SIZES,
    multiples={"ssm_inner": ("mamba_expand", "embed")},
    tensors={
        **EMBEDDING_AND_HEAD,
        **in_layers("mamba", _MAMBA),
        **in_layers("attention", ATTENTION),
        **gated_mlp("model.layers.*.feed_forward"),
        **norms("model.layers.*.input_layernorm", "model.layers.*.pre_ff_layernorm", "model.final_layernorm"),
    },
    defaults={"partial_rotary_factor": 0.5},
    positions=Rotary(fraction="partial_rotary_factor"),
    layer_rules=(Numbers("attn_layer_indices"),),
    limits=(NORMED,),
)

# both in every layer, side by side
FALCON_H1 = BAMBA.variant(
    "falcon_h1",
    known_as="Falcon H1",
    tiny={**_TINY, "mamba_d_ssm": 64},
    sizes={**_SIZES, "ssm_inner": "mamba_d_ssm"},
    tensors={**_MAMBA, **ATTENTION, "model.layers.*.mamba.norm": optional(norm("ssm_inner"))},
    defaults={"partial_rotary_factor": 1.0},
    layer_rules=(),
    limits=(replace(NORMED, when={"mamba_rms_norm": True}),),
)

GRANITE = Family(
    model_type="granitemoehybrid",
    known_as="Granite 4",
    tiny={**_TINY, "layer_types": ["mamba", "attention"]},
    sizes={**_SIZES, "shared_ffn": "shared_intermediate_size", "experts": "num_local_experts"},
    multiples=BAMBA.multiples,
    tensors={
        **EMBEDDING_AND_HEAD,
        **in_layers("mamba", _MAMBA),
        **in_layers("attention", ATTENTION),
        "model.layers.*.shared_mlp.input_linear": linear("shared_ffn | shared_ffn", "embed"),
        "model.layers.*.shared_mlp.output_linear": linear("embed", "shared_ffn"),
        # absent where what the experts share is all there is
        **{module: optional(form) for module, form in EXPERTS.items()},
        **NORMS,
    },
    routing=Routing(2),
    positions=Rotary(constant_scale="attention_multiplier"),
    layer_rules=(LAYER_TYPES, Listed("layers_block_type")),
    limits=(NORMED,),
)

FAMILIES = (BAMBA, FALCON_H1, GRANITE)
