"""DiffLlama: Llama whose head i and head i + half of them are two attentions of which one is taken from the other."""

from hyperclone_cli.families.llama import LLAMA
from hyperclone_cli.families.statements import HeadRule, Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import linear, parameter

DIFFLLAMA: Family = LLAMA.variant(
    "diffllama",
    known_as="DiffLlama",
    tensors={
        "model.layers.*.self_attn.q_proj": linear("2 kv_pairs group query", "embed"),
        "model.layers.*.self_attn.k_proj": linear("2 kv_pairs key", "embed"),
        "model.layers.*.self_attn.v_proj": linear("2 kv_pairs value", "embed"),
        # a pair reads the values of both of its heads, and writes both of them together
        "model.layers.*.self_attn.o_proj": linear("embed", "kv_pairs group 2 value"),
        "model.layers.*.self_attn.lambda_q1": parameter("*"),
        "model.layers.*.self_attn.lambda_k1": parameter("*"),
        "model.layers.*.self_attn.lambda_q2": parameter("*"),
        "model.layers.*.self_attn.lambda_k2": parameter("*"),
    },
    heads=HeadRule.PAIRED,
    limits=(
        Limit("head_dim", "its λ are products of vectors as long as a head"),
        Limit("between", "where λ depends on the layer's number"),
    ),
)

FAMILIES = (DIFFLLAMA,)
