"""GPT-Neo: GPT-2 with separate queries, keys and values, scores that are not scaled, and local attention."""

from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.table import Family, Fold
from hyperclone_cli.families.vocabulary import drop, embedding, linear, norm, optional

GPT_NEO = Family(
    model_type="gpt_neo",
    known_as="GPT-Neo",
    tiny={"attention_types": [[["global", "local"], 1]]},
    sizes={
        "embed": "hidden_size",
        "ffn": "intermediate_size",
        "heads": "num_heads",
        "vocab": "vocab_size",
        "layers": "num_layers",
    },
    multiples={"ffn": (4, "embed")},
    aliases={"num_heads": ("num_attention_heads",), "num_layers": ("num_hidden_layers",)},
    tensors={
        "transformer.wte": embedding("vocab", "embed"),
        "transformer.wpe": embedding("*", "embed"),
        "transformer.h.*.ln_1": norm("embed"),
        "transformer.h.*.attn.attention.q_proj": linear("heads query", "embed"),
        "transformer.h.*.attn.attention.k_proj": linear("heads key", "embed"),
        "transformer.h.*.attn.attention.v_proj": linear("heads value", "embed"),
        "transformer.h.*.attn.attention.out_proj": linear("embed", "heads value"),
        "transformer.h.*.attn.attention.bias": drop("causal mask, rebuilt on load"),
        "transformer.h.*.attn.attention.masked_bias": drop("causal mask, rebuilt on load"),
        "transformer.h.*.ln_2": norm("embed"),
        "transformer.h.*.mlp.c_fc": linear("ffn", "embed"),
        "transformer.h.*.mlp.c_proj": linear("embed", "ffn"),
        "transformer.ln_f": norm("embed"),
        "lm_head": optional(linear("vocab", "embed")),
    },
    defaults={"tie_word_embeddings": True},
    norm="layer",
    positions=Learned(constant_scale="1"),
    prefix="transformer",
    embedding="transformer.wte",
    folds=(Fold("transformer.ln_f"),),
)

FAMILIES = (GPT_NEO,)
