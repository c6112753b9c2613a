"""OpenAI GPT, the first: LayerNorm after each residual sum, learned positions, no key for the width."""

from hyperclone_cli.families.gpt2 import GPT2, SIZES
from hyperclone_cli.families.statements import Fold, Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import embedding

_ABSENT = ("transformer.wte", "transformer.wpe", "transformer.ln_f", "transformer.h.*.attn.masked_bias")

OPENAI_GPT: Family = GPT2.without(*_ABSENT).variant(
    "openai-gpt",
    known_as="GPT, the first",
    sizes={axis: key for axis, key in SIZES.items() if axis != "ffn"},
    tensors={
        "transformer.tokens_embed": embedding("vocab", "embed"),
        "transformer.positions_embed": embedding("*", "embed"),
    },
    folds=(Fold("transformer.h.-1.ln_2"),),
    limits=(
        Limit("pads", "where norms after the residual sum leave no room for padding in the stream"),
        Limit("layers", "where norms follow the residual sum, so that no layer leaves the stream as it is"),
    ),
)

FAMILIES = (OPENAI_GPT,)
