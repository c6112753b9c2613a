"""Feed-forward without a gate: Arcee, Jais 2, Nemotron, Apertus.

Jais 2 and Nemotron have LayerNorm, Nemotron's multiplies by (1 + weight); Apertus learns its activation.
"""

from hyperclone_cli.families.blocks import NORMS, PLUS_ONE_NORMS, SELF_ATTENTION, norms, qk_norms
from hyperclone_cli.families.llama import LLAMA
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.statements import HeadRule
from hyperclone_cli.families.vocabulary import parameter

ARCEE = LLAMA.without("model.layers.*.mlp.gate_proj").variant("arcee", known_as="AFM 4.5B")

NEMOTRON = ARCEE.variant(
    "nemotron",
    known_as="Nemotron 3 and 4, Minitron",
    tensors=PLUS_ONE_NORMS,
    defaults={"partial_rotary_factor": 0.5},
    norm="layer",
    positions=Rotary(fraction="partial_rotary_factor"),
    heads=HeadRule.FREE,
)

APERTUS = ARCEE.without(*NORMS).variant(
    "apertus",
    known_as="Apertus",
    tensors={
        **qk_norms(SELF_ATTENTION),
        "model.layers.*.mlp.act_fn.alpha_n": parameter("1"),
        "model.layers.*.mlp.act_fn.alpha_p": parameter("1"),
        "model.layers.*.mlp.act_fn.beta": parameter("1"),
        "model.layers.*.mlp.act_fn.eps": parameter("1"),
        **norms("model.layers.*.attention_layernorm", "model.layers.*.feedforward_layernorm", "model.norm"),
    },
    heads=HeadRule.FREE,
)

APERTUS1P5 = APERTUS.variant("apertus1p5_text", known_as="Apertus 1.5 (text)")

FAMILIES = (ARCEE, ARCEE.variant("jais2", known_as="Jais 2", norm="layer"), NEMOTRON, APERTUS, APERTUS1P5)
