"""RecurrentGemma: gated linear recurrences, with attention in every third layer; Gemma's norms and embeddings.

The root of hidden_size that embeddings are multiplied by is rounded to bfloat16, whatever the dtype.
"""

from fractions import Fraction

from hyperclone_cli.families.blocks import SIZES, attention, gated_mlp, norms
from hyperclone_cli.families.layer_rules import Turns
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.statements import Stated
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import depthwise, embedding, in_layers, linear, optional, parameter

RECURRENT_GEMMA = Family(
    model_type="recurrent_gemma",
    known_as="RecurrentGemma 2B and 9B",
    tiny={"num_hidden_layers": 3},
    sizes={**SIZES, "lru": "lru_width"},
    multiples={"lru": (1, "embed")},
    stated={"ffn": Stated(Fraction(1, 2))},  # of gate and up together
    tensors={
        "model.embed_tokens": embedding("vocab", "embed", forward_power=0.5, forward_bits=8),
        "lm_head": optional(linear("vocab", "embed")),
        **in_layers(
            "recurrent",
            {
                "model.layers.*.temporal_block.linear_x": linear("lru", "embed"),
                "model.layers.*.temporal_block.linear_y": linear("lru", "embed"),
                "model.layers.*.temporal_block.conv_1d": depthwise("lru"),
                # gates of a block of units each, read from the same block
                "model.layers.*.temporal_block.rg_lru.input_gate_weight": parameter("heads", "block", "block"),
                "model.layers.*.temporal_block.rg_lru.input_gate_bias": parameter("heads", "block"),
                "model.layers.*.temporal_block.rg_lru.recurrent_gate_weight": parameter("heads", "block", "block"),
                "model.layers.*.temporal_block.rg_lru.recurrent_gate_bias": parameter("heads", "block"),
                "model.layers.*.temporal_block.rg_lru.recurrent_param": parameter("lru"),
                "model.layers.*.temporal_block.linear_out": linear("embed", "lru"),
            },
        ),
        **in_layers("attention", attention("model.layers.*.temporal_block")),
        **gated_mlp("model.layers.*.mlp_block"),
        **norms("model.layers.*.temporal_pre_norm", "model.layers.*.channel_pre_norm", plus_one=True),
        **norms("model.final_norm", plus_one=True),
    },
    defaults={
        "partial_rotary_factor": 0.5,
    },
    layer_rules=(Turns("block_types"),),
    positions=Rotary(fraction="partial_rotary_factor"),
)

FAMILIES = (RECURRENT_GEMMA,)
