"""GPT-J and CodeGen: parallel blocks, rotary positions on neighbouring pairs, an output head with a bias."""

from hyperclone_cli.families.blocks import attention, causal_mask, mlp, norms
from hyperclone_cli.families.gpt2 import ALIASES, EMBEDDING_AND_HEAD, SIZES
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import drop, linear

GPTJ = Family(
    model_type="gptj",
    known_as="GPT-J",
    tiny={"rotary_dim": 8},
    sizes={**SIZES, "rotary": "rotary_dim"},
    multiples={"ffn": (4, "embed")},
    aliases=ALIASES,
    context="n_positions",
    tensors={
        **EMBEDDING_AND_HEAD,
        **attention("transformer.h.*.attn", "heads", "out_proj"),
        **causal_mask("transformer.h.*.attn"),
        **mlp("transformer.h.*.mlp", "fc_in", "fc_out"),
        **norms("transformer.h.*.ln_1", "transformer.ln_f"),
    },
    norm="layer",
    positions=Rotary("neighbours"),
)

CODEGEN = GPTJ.without(*(f"transformer.h.*.attn.{name}_proj" for name in ("q", "k", "v"))).variant(
    "codegen",
    known_as="CodeGen",
    # Heads lie in four blocks, one for each accelerator that it was trained on: queries, values, keys of a
    # quarter of the heads. A block is what elsewhere is a key/value head: it keeps its place, and its group grows.
    fixed={"kv_heads": 4},
    cache=("heads key", "heads value"),
    tensors={
        "transformer.h.*.attn.qkv_proj": linear("kv_heads group.query+group.value+group.key", "embed"),
        "transformer.h.*.attn.causal_mask": drop("causal mask, rebuilt on load"),
    },
)

FAMILIES = (GPTJ, CODEGEN)
