"""OpenAI GPT, the first: LayerNorm after each residual sum, learned positions, no key for the width."""

from hyperclone_cli.families.gpt2 import ALIASES, SIZES
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.table import Family, Fold, Limit
from hyperclone_cli.families.vocabulary import conv1d, drop, embedding, linear, norm, optional

OPENAI_GPT = Family(
    model_type="openai-gpt",
    known_as="GPT, the first",
    sizes={axis: key for axis, key in SIZES.items() if axis != "ffn"},
    multiples={"ffn": (4, "embed")},
    aliases=ALIASES,
    context="n_positions",
    tensors={
        "transformer.tokens_embed": embedding("vocab", "embed"),
        "transformer.positions_embed": embedding("*", "embed"),
        "transformer.h.*.attn.c_attn": conv1d("embed", "heads query | heads key | heads value"),
        "transformer.h.*.attn.c_proj": conv1d("heads value", "embed"),
        "transformer.h.*.attn.bias": drop("causal mask, rebuilt on load"),
        "transformer.h.*.ln_1": norm("embed"),
        "transformer.h.*.mlp.c_fc": conv1d("embed", "ffn"),
        "transformer.h.*.mlp.c_proj": conv1d("ffn", "embed"),
        "transformer.h.*.ln_2": norm("embed"),
        "lm_head": optional(linear("vocab", "embed")),
    },
    defaults={"n_positions": 512, "tie_word_embeddings": True},
    norm="layer",
    positions=Learned(),
    prefix="transformer",
    embedding="transformer.tokens_embed",
    folds=(Fold("transformer.h.-1.ln_2"),),
    limits=(Limit("pads", "where norms after the residual sum leave no room for padding in the stream"),),
)

FAMILIES = (OPENAI_GPT,)
