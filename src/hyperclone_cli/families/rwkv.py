"""RWKV 4: a linear recurrence in place of attention, each unit by itself; LayerNorm, the embeddings' own included."""

from hyperclone_cli.families.blocks import norms, sizes
from hyperclone_cli.families.layer_rules import Halvings
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import embedding, gating, linear, optional, parameter, post_norm

RWKV = Family(
    model_type="rwkv",
    known_as="RWKV 4",
    sizes=sizes("heads", "kv_heads", "head_dim", inner="attention_hidden_size"),
    multiples={"ffn": (4, "embed"), "inner": (1, "embed")},
    tensors={
        "rwkv.embeddings": embedding("vocab", "embed"),
        "rwkv.blocks.0.pre_ln": post_norm("embed"),
        "rwkv.blocks.*.attention.time_decay": parameter("inner"),
        "rwkv.blocks.*.attention.time_first": parameter("inner"),
        "rwkv.blocks.*.attention.time_mix_key": parameter("1", "1", "embed"),
        "rwkv.blocks.*.attention.time_mix_value": parameter("1", "1", "embed"),
        "rwkv.blocks.*.attention.time_mix_receptance": parameter("1", "1", "embed"),
        "rwkv.blocks.*.attention.key": linear("inner", "embed"),
        "rwkv.blocks.*.attention.value": linear("inner", "embed"),
        "rwkv.blocks.*.attention.receptance": linear("inner", "embed"),
        "rwkv.blocks.*.attention.output": linear("embed", "inner"),
        "rwkv.blocks.*.feed_forward.time_mix_key": parameter("1", "1", "embed"),
        "rwkv.blocks.*.feed_forward.time_mix_receptance": parameter("1", "1", "embed"),
        "rwkv.blocks.*.feed_forward.key": linear("ffn", "embed"),
        "rwkv.blocks.*.feed_forward.receptance": gating(linear("embed", "embed")),
        "rwkv.blocks.*.feed_forward.value": linear("embed", "ffn"),
        **norms("rwkv.blocks.*.ln1", "rwkv.blocks.*.ln2", "rwkv.ln_out"),
        "head": optional(linear("vocab", "embed")),
    },
    cache=(),
    layer_rules=(Halvings("rescale_every"),),
    context="context_length",
    norm="layer",
    positions=Learned(),
    limits=(Limit("pads", "where the first norm writes the residual stream and leaves no room for padding"),),
)

FAMILIES = (RWKV,)
