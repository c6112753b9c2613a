"""GPT-J: parallel blocks, rotary positions on neighbouring pairs in the first part of a head, a head with a bias."""

from hyperclone_cli.axes import drop, embedding, linear, norm, optional
from hyperclone_cli.families.gpt2 import ALIASES, SIZES
from hyperclone_cli.families.table import Family, Fold

GPTJ = Family(
    model_type="gptj",
    sizes={**SIZES, "rotary": "rotary_dim"},
    multiples={"ffn": (4, "embed")},
    aliases=ALIASES,
    context="n_positions",
    tensors={
        "transformer.wte": embedding("vocab", "embed"),
        "transformer.h.*.ln_1": norm("embed"),
        "transformer.h.*.attn.q_proj": linear("heads query", "embed"),
        "transformer.h.*.attn.k_proj": linear("heads key", "embed"),
        "transformer.h.*.attn.v_proj": linear("heads value", "embed"),
        "transformer.h.*.attn.out_proj": linear("embed", "heads value"),
        "transformer.h.*.attn.bias": drop("causal mask, rebuilt on load"),
        "transformer.h.*.attn.masked_bias": drop("causal mask, rebuilt on load"),
        "transformer.h.*.mlp.fc_in": linear("ffn", "embed"),
        "transformer.h.*.mlp.fc_out": linear("embed", "ffn"),
        "transformer.ln_f": norm("embed"),
        "lm_head": optional(linear("vocab", "embed")),
    },
    defaults={"n_positions": 2048, "rotary_dim": 64, "tie_word_embeddings": False},
    norm="layer",
    rotary="pairs",
    prefix="transformer",
    embedding="transformer.wte",
    folds=(Fold("transformer.ln_f"),),
)

FAMILIES = (GPTJ,)
