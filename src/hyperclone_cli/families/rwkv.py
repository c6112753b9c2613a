"""RWKV 4: a linear recurrence in place of attention, each unit by itself; LayerNorm, the embeddings' own included."""

from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.table import Family, Fold, Limit
from hyperclone_cli.families.vocabulary import embedding, linear, norm, optional, parameter, post_norm

RWKV = Family(
    model_type="rwkv",
    known_as="RWKV 4",
    sizes={
        "embed": "hidden_size",
        "ffn": "intermediate_size",
        "inner": "attention_hidden_size",
        "vocab": "vocab_size",
        "layers": "num_hidden_layers",
    },
    multiples={"ffn": (4, "embed"), "inner": (1, "embed")},
    tensors={
        "rwkv.embeddings": embedding("vocab", "embed"),
        "rwkv.blocks.0.pre_ln": post_norm("embed"),
        "rwkv.blocks.*.ln1": norm("embed"),
        "rwkv.blocks.*.ln2": norm("embed"),
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
        "rwkv.blocks.*.feed_forward.receptance": linear("embed", "embed"),  # a gate on what is added to the stream
        "rwkv.blocks.*.feed_forward.value": linear("embed", "ffn"),
        "rwkv.ln_out": norm("embed"),
        "head": optional(linear("vocab", "embed")),
    },
    defaults={"tie_word_embeddings": False},
    cache=(),
    context="context_length",
    prefix="rwkv",
    embedding="rwkv.embeddings",
    head="head",
    norm="layer",
    positions=Learned(),
    folds=(Fold("rwkv.ln_out"),),
    limits=(Limit("pads", "where the first norm writes the residual stream and leaves no room for padding"),),
)

FAMILIES = (RWKV,)
