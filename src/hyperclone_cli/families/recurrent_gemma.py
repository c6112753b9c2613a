"""RecurrentGemma: gated linear recurrences, with attention in every third layer; Gemma's norms and embeddings.

The root of hidden_size that embeddings are multiplied by is rounded to bfloat16, whatever the dtype.
"""

from fractions import Fraction

from hyperclone_cli.families.llama import SIZES
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.table import Family, Fold, Stated
from hyperclone_cli.families.vocabulary import depthwise, embedding, in_layers, linear, norm, optional, parameter

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
        **in_layers(
            "attention",
            {
                "model.layers.*.temporal_block.q_proj": linear("heads query", "embed"),
                "model.layers.*.temporal_block.k_proj": linear("kv_heads key", "embed"),
                "model.layers.*.temporal_block.v_proj": linear("kv_heads value", "embed"),
                "model.layers.*.temporal_block.o_proj": linear("embed", "heads value"),
            },
        ),
        "model.layers.*.mlp_block.gate_proj": linear("ffn", "embed"),
        "model.layers.*.mlp_block.up_proj": linear("ffn", "embed"),
        "model.layers.*.mlp_block.down_proj": linear("embed", "ffn"),
        "model.layers.*.temporal_pre_norm": norm("embed", plus_one=True),
        "model.layers.*.channel_pre_norm": norm("embed", plus_one=True),
        "model.final_norm": norm("embed", plus_one=True),
    },
    defaults={
        "num_key_value_heads": None,
        "head_dim": None,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": True,
    },
    positions=Rotary(fraction="partial_rotary_factor"),
    folds=(Fold("model.final_norm"),),
)

FAMILIES = (RECURRENT_GEMMA,)
