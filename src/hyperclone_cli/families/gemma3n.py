"""Gemma 3n: several residual streams of which each layer works on one, and an embedding for each layer.

What is added to a stream is the layer's own input after its norm, so all that reads this reads a stream.
"""

from hyperclone_cli.families.gemma4 import (
    BORROWING_ATTENTION,
    EMBEDDING_PER_LAYER,
    SANDWICH_NORMS,
    SCALED_EMBEDDING_AND_HEAD,
)
from hyperclone_cli.families.llama import GATED_MLP, SIZES
from hyperclone_cli.families.table import Family, Limit
from hyperclone_cli.families.vocabulary import factor, linear, norm, post_norm, raw

_READ_INPUT = tuple(f"model.layers.*.self_attn.{name}_proj" for name in ("q", "k", "v"))
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
    sizes=SIZES,
    listed=("ffn",),
    borrowers="num_kv_shared_layers",
    tensors={
        **SCALED_EMBEDDING_AND_HEAD,
        **{f"model.altup_projections.{number}": raw(linear("embed", "embed")) for number in _STREAMS},
        **{f"model.altup_unembed_projections.{number}": raw(linear("embed", "embed")) for number in _STREAMS},
        **EMBEDDING_PER_LAYER,
        **BORROWING_ATTENTION,
        **{module: raw(BORROWING_ATTENTION[module]) for module in _READ_INPUT},
        **GATED_MLP,
        **SANDWICH_NORMS,
        "model.layers.*.input_layernorm": post_norm("embed"),
        "model.layers.*.laurel.linear_left": raw(linear("*", "embed")),
        "model.layers.*.laurel.linear_right": linear("embed", "*"),
        "model.layers.*.laurel.post_laurel_norm": post_norm("embed"),
        "model.layers.*.altup.router_norm": norm("embed"),
        "model.layers.*.altup.modality_router": linear("*", "embed", forward_power=-1),
        "model.layers.*.altup.prediction_coefs": linear("*", "*"),
        "model.layers.*.altup.correction_coefs": linear("*", "*"),
        "model.layers.*.altup.correct_output_scale": factor("embed"),
    },
    defaults={
        "num_key_value_heads": 2,
        "head_dim": 256,
        "num_kv_shared_layers": 15,
        "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 25,
        "tie_word_embeddings": True,
    },
    query_scalar="1",
    embed_divides_by_heads=True,
    limits=(
        Limit(
            "ffn",
            "where a threshold is worked out from the mean and the spread of all units of the feed-forward, which"
            " unequal numbers of copies would move",
            {"activation_sparsity_pattern": ...},
        ),
    ),
)

FAMILIES = (GEMMA3N,)
