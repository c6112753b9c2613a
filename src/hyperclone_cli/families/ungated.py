"""Feed-forward without a gate: Arcee, Jais 2, Nemotron, Apertus.

Jais 2 and Nemotron have LayerNorm, Nemotron's multiplies by (1 + weight); Apertus learns its activation.
"""

from hyperclone_cli.families.llama import ATTENTION, EMBEDDING_AND_HEAD, NORMED_ATTENTION, NORMS, SIZES
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.table import Family, HeadRule
from hyperclone_cli.families.vocabulary import linear, norm, parameter

ARCEE = Family(
    model_type="arcee",
    known_as="AFM 4.5B",
    sizes=SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        **ATTENTION,
        "model.layers.*.mlp.up_proj": linear("ffn", "embed"),
        "model.layers.*.mlp.down_proj": linear("embed", "ffn"),
        **NORMS,
    },
    defaults={"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": False},
    heads=HeadRule.DIVIDES_EMBED,
)

NEMOTRON = ARCEE.variant(
    "nemotron",
    known_as="Nemotron 3 and 4, Minitron",
    tensors={
        "model.layers.*.input_layernorm": norm("embed", plus_one=True),
        "model.layers.*.post_attention_layernorm": norm("embed", plus_one=True),
        "model.norm": norm("embed", plus_one=True),
    },
    defaults={"partial_rotary_factor": 0.5},
    norm="layer",
    positions=Rotary(fraction="partial_rotary_factor"),
    heads=HeadRule.FREE,
)

APERTUS = Family(
    model_type="apertus",
    known_as="Apertus",
    sizes=SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        **NORMED_ATTENTION,
        "model.layers.*.mlp.up_proj": linear("ffn", "embed"),
        "model.layers.*.mlp.down_proj": linear("embed", "ffn"),
        "model.layers.*.mlp.act_fn.alpha_n": parameter("1"),
        "model.layers.*.mlp.act_fn.alpha_p": parameter("1"),
        "model.layers.*.mlp.act_fn.beta": parameter("1"),
        "model.layers.*.mlp.act_fn.eps": parameter("1"),
        "model.layers.*.attention_layernorm": norm("embed"),
        "model.layers.*.feedforward_layernorm": norm("embed"),
        "model.norm": norm("embed"),
    },
    defaults={"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": False},
)

FAMILIES = (ARCEE, ARCEE.variant("jais2", known_as="Jais 2", norm="layer"), NEMOTRON, APERTUS)
