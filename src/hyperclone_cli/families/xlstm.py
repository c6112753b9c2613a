"""xLSTM: matrix memories with a norm over each head, gates read by heads, and a feed-forward whose width is rounded."""

from fractions import Fraction

from hyperclone_cli.families.blocks import norms, under
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.statements import Limit, Stated
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import embedding, linear, optional, parameter

_BLOCK = "backbone.blocks.*"
_LAYER = {
    **{name: linear("lstm_keys", "embed") for name in ("q", "k")},
    **{name: linear("lstm_values", "embed") for name in ("v", "ogate_preact")},
    **{name: linear("lstm_heads", "embed") for name in ("igate_preact", "fgate_preact")},
    "multihead_norm.weight": parameter("lstm_values"),
    "multihead_norm.bias": optional(parameter("lstm_values")),
    "out_proj": linear("embed", "lstm_values"),
}

XLSTM = Family(
    model_type="xlstm",
    known_as="xLSTM 7B",
    tiny={"qk_dim_factor": 1.0, "ffn_proj_factor": 1.5, "ffn_round_up_to_multiple_of": 32, "chunk_size": 8},
    sizes={
        "embed": "hidden_size",
        "lstm_heads": "num_heads",
        "vocab": "vocab_size",
        "layers": "num_hidden_layers",
    },
    multiples={
        "ffn": ("ffn_proj_factor", "embed"),
        "lstm_keys": ("qk_dim_factor", "embed"),
        "lstm_values": ("v_dim_factor", "embed"),
    },
    stated={"ffn": Stated(Fraction(1), multiple="ffn_round_up_to_multiple_of")},
    aliases={"hidden_size": ("embedding_dim",), "num_hidden_layers": ("num_blocks",)},
    tensors={
        "backbone.embeddings": embedding("vocab", "embed"),
        **under(f"{_BLOCK}.mlstm_layer", _LAYER),
        f"{_BLOCK}.ffn.proj_up_gate": linear("ffn", "embed"),
        f"{_BLOCK}.ffn.proj_up": linear("ffn", "embed"),
        f"{_BLOCK}.ffn.proj_down": linear("embed", "ffn"),
        **norms(f"{_BLOCK}.norm_mlstm", f"{_BLOCK}.norm_ffn"),
        **{module: optional(form) for module, form in norms("backbone.out_norm").items()},
        "lm_head": optional(linear("vocab", "embed")),
    },
    cache=(),
    positions=Learned(),
    limits=(Limit("pads", "where heads divide the hidden size, so each must be copied equally often"),),
)

FAMILIES = (XLSTM,)
