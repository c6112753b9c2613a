"""GPT-Neo: GPT-2 with separate queries, keys and values, scores that are not scaled, and local attention."""

from hyperclone_cli.families.blocks import attention, causal_mask, mlp, sizes
from hyperclone_cli.families.gpt2 import EMBEDDING_AND_HEAD, NORMS
from hyperclone_cli.families.layer_rules import Listed, Repeats
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import embedding

GPT_NEO = Family(
    model_type="gpt_neo",
    known_as="GPT-Neo",
    tiny={"attention_types": [[["global", "local"], 1]]},
    sizes=sizes("kv_heads", "head_dim", heads="num_heads", layers="num_layers"),
    multiples={"ffn": (4, "embed")},
    aliases={"num_heads": ("num_attention_heads",), "num_layers": ("num_hidden_layers",)},
    tensors={
        **EMBEDDING_AND_HEAD,
        "transformer.wpe": embedding("*", "embed"),
        **attention("transformer.h.*.attn.attention", "heads", "out_proj"),
        **causal_mask("transformer.h.*.attn.attention"),
        **mlp("transformer.h.*.mlp", "c_fc", "c_proj"),
        **NORMS,
    },
    defaults={"attention_types": [[["global", "local"], 12]]},
    layer_rules=(Repeats("attention_types"), Listed("attention_layers")),
    norm="layer",
    positions=Learned(constant_scale="1"),
)

FAMILIES = (GPT_NEO,)
