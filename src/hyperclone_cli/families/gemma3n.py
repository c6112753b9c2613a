"""Gemma 3n: several residual streams of which each layer works on one, and an embedding for each layer.

What is added to a stream is the layer's own input after its norm, so all that reads this reads a stream.
"""

from hyperclone_cli.families.blocks import GATED_MLP, SCALED_EMBEDDING_AND_HEAD, SIZES, without_first_norm
from hyperclone_cli.families.gemma4 import EMBEDDING_PER_LAYER, SANDWICH_NORMS, SHARING_ATTENTION
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.statements import HeadRule, Limit, PerLayer
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import factor, from_stream, linear, norm, post_norm

_STREAMS = range(3)
"""Streams besides the first, each with projections of its own."""

GEMMA3N = Family(
    model_type="gemma3n_text",
    known_as="Gemma 3n E2B and E4B (text)",
    tiny={
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 8,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 12,
        "vocab_size_per_layer_input": 96,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    },
    sizes={**SIZES, "layer_input": "hidden_size_per_layer_input"},
    per_layer=PerLayer(listed={"ffn": "intermediate_size"}, kv_shared="num_kv_shared_layers"),
    tensors={
        **SCALED_EMBEDDING_AND_HEAD,
        **{f"model.altup_projections.{number}": from_stream(linear("embed", "embed")) for number in _STREAMS},
        **{f"model.altup_unembed_projections.{number}": from_stream(linear("embed", "embed")) for number in _STREAMS},
        **EMBEDDING_PER_LAYER,
        **without_first_norm(SHARING_ATTENTION),
        **GATED_MLP,
        **SANDWICH_NORMS,
        "model.layers.*.input_layernorm": post_norm("embed"),
        "model.layers.*.laurel.linear_left": from_stream(linear("*", "embed")),
        "model.layers.*.laurel.linear_right": linear("embed", "*"),
        "model.layers.*.laurel.post_laurel_norm": post_norm("embed"),
        "model.layers.*.altup.router_norm": norm("embed"),
        "model.layers.*.altup.modality_router": linear("*", "embed", forward_power=-1),
        "model.layers.*.altup.prediction_coefs": linear("*", "*"),
        "model.layers.*.altup.correction_coefs": linear("*", "*"),
        "model.layers.*.altup.correct_output_scale": factor("embed"),
    },
    defaults={
        "hidden_size_per_layer_input": 256,
        "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 25,
    },
    positions=Rotary(constant_scale="1"),
    heads=HeadRule.DIVIDES_EMBED,
    limits=(
        Limit("layers", "where each layer mixes several residual streams and halves their sum, so none can be silent"),
        Limit(
            "ffn",
            "where a threshold is worked out from the mean and the spread of all units of the feed-forward, which"
            " unequal numbers of copies would move",
            {"activation_sparsity_pattern": ...},
        ),
    ),
)

FAMILIES = (GEMMA3N,)
