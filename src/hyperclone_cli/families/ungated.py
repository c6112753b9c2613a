"""Feed-forward without a gate: Arcee, Jais 2, Nemotron, Apertus.

Jais 2 and Nemotron have LayerNorm, Nemotron's multiplies by (1 + weight); Apertus learns its activation.
"""

from hyperclone_cli.families.blocks import (
    ATTENTION,
    EMBEDDING_AND_HEAD,
    NORMED_ATTENTION,
    NORMS,
    PLUS_ONE_NORMS,
    SIZES,
    mlp,
    norms,
)
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.table import Family, HeadRule
from hyperclone_cli.families.vocabulary import parameter

_MLP = mlp("model.layers.*.mlp", "up_proj", "down_proj")

ARCEE = Family(
    model_type="arcee",
    known_as="AFM 4.5B",
    sizes=SIZES,
    tensors={**EMBEDDING_AND_HEAD, **ATTENTION, **_MLP, **NORMS},
    heads=HeadRule.DIVIDES_EMBED,
)

NEMOTRON = ARCEE.variant(
    "nemotron",
    known_as="Nemotron 3 and 4, Minitron",
    tensors=PLUS_ONE_NORMS,
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
        **_MLP,
        "model.layers.*.mlp.act_fn.alpha_n": parameter("1"),
        "model.layers.*.mlp.act_fn.alpha_p": parameter("1"),
        "model.layers.*.mlp.act_fn.beta": parameter("1"),
        "model.layers.*.mlp.act_fn.eps": parameter("1"),
        **norms("model.layers.*.attention_layernorm", "model.layers.*.feedforward_layernorm", "model.norm"),
    },
)

FAMILIES = (ARCEE, ARCEE.variant("jais2", known_as="Jais 2", norm="layer"), NEMOTRON, APERTUS)
