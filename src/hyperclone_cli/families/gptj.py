"""GPT-J and CodeGen: parallel blocks, rotary positions on neighbouring pairs, an output head with a bias."""

from dataclasses import replace

from hyperclone_cli.families.gpt2 import ALIASES, SIZES
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.table import Family, Fold
from hyperclone_cli.families.vocabulary import drop, embedding, linear, norm, optional

GPTJ = Family(
    model_type="gptj",
    known_as="GPT-J",
    tiny={"rotary_dim": 8},
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
    positions=Rotary("neighbours"),
    prefix="transformer",
    embedding="transformer.wte",
    folds=(Fold("transformer.ln_f"),),
)

_GPTJ_ONLY = ("transformer.h.*.attn.q_proj", "transformer.h.*.attn.k_proj", "transformer.h.*.attn.v_proj")

CODEGEN = replace(
    GPTJ,
    model_type="codegen",
    known_as="CodeGen",
    # Heads lie in four blocks, one for each accelerator that it was trained on: queries, values, keys of a
    # quarter of the heads. A block is what elsewhere is a key/value head: it keeps its place, and its group grows.
    fixed={"kv_heads": 4},
    cache=("heads key", "heads value"),
    tensors={
        **{module: form for module, form in GPTJ.tensors.items() if module not in _GPTJ_ONLY},
        "transformer.h.*.attn.qkv_proj": linear("kv_heads group.query+group.value+group.key", "embed"),
        "transformer.h.*.attn.causal_mask": drop("causal mask, rebuilt on load"),
    },
)

FAMILIES = (GPTJ, CODEGEN)
