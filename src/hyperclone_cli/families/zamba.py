"""Zamba and Zamba 2: Mamba in every layer; before it, in some, attention and feed-forward that these layers share.

What they share reads the embeddings too, beside the residual stream, so it is twice as wide. It is stored in the first
of the layers that share it. In Zamba 2 each layer may add an adapter of its own.
"""

from collections.abc import Mapping
from fractions import Fraction

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, gated_mlp, norms, sizes, under
from hyperclone_cli.families.layer_rules import Listed
from hyperclone_cli.families.mamba2 import MIXER, NORMED
from hyperclone_cli.families.positions import Learned, Rotary
from hyperclone_cli.families.statements import HeadRule, Limit, Stated
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import (
    Form,
    bare,
    depthwise,
    from_stream,
    in_layers,
    in_some_layers,
    linear,
    norm,
    numbered,
    parameter,
    stacked,
)

_LAYER = "model.layers.*"
_ATTENTION: dict[str, Form] = {
    "self_attn.q_proj": linear("heads 2 query", "2 embed"),
    "self_attn.k_proj": linear("kv_heads 2 key", "2 embed"),
    "self_attn.v_proj": linear("kv_heads 2 value", "2 embed"),
    "self_attn.o_proj": linear("embed", "heads 2 value"),
    "input_layernorm": norm("2 embed"),
    "pre_ff_layernorm": norm("embed"),
}
_HEADS = {"head_dim": "attention_head_dim", "stream_twice": "attention_hidden_size"}
_HALF = {"head_dim": Stated(Fraction(1, 2))}
_TWICE: dict[str, tuple[int | Fraction | str, str]] = {"stream_twice": (2, "embed")}
_SHARING = Limit("layers", "where layers share the modules of one another in turn")


def _tensors(mixer: Mapping[str, Form], name: str, shared: Mapping[str, Form]) -> dict[str, Form]:
    own = {**under("mamba", mixer), "input_layernorm": norm("embed")}
    hybrid = {**under("mamba_decoder", own), "linear": from_stream(linear("embed", "embed"))}
    common = {module: in_some_layers(form) for module, form in under(name, _ATTENTION | dict(shared)).items()}
    return {
        **EMBEDDING_AND_HEAD,
        **in_layers("mamba", under(_LAYER, own)),
        **in_layers("hybrid", under(_LAYER, hybrid | common)),
        **norms("model.final_layernorm"),
    }


_MAMBA: dict[str, Form] = {
    "in_proj": linear("mamba_inner 2", "embed"),
    "conv1d": depthwise("mamba_inner"),
    "x_proj_weight": stacked(bare(linear("mamba_heads dt_rank+ssm_state+ssm_state", "mamba_unit"))),
    "dt_proj_weight": parameter("mamba_heads", "mamba_unit", "dt_rank"),
    "dt_proj_bias": parameter("mamba_heads", "mamba_unit"),
    "A_log": parameter("mamba_heads", "mamba_unit", "ssm_state"),
    "D": parameter("mamba_heads", "mamba_unit"),
    "out_proj": linear("embed", "mamba_inner"),
}

ZAMBA = Family(
    model_type="zamba",
    known_as="Zamba 7B",
    tiny={
        "num_hidden_layers": 3,
        "mamba_d_state": 8,
        "mamba_dt_rank": 5,
        "layers_block_type": ["mamba", "hybrid", "hybrid"],
        "use_mamba_kernels": False,
        "attention_head_dim": 32,
        "attention_hidden_size": 128,
    },
    sizes=sizes(**_HEADS, mamba_heads="n_mamba_heads", ssm_state="mamba_d_state", dt_rank="mamba_dt_rank"),
    multiples={**_TWICE, "mamba_inner": ("mamba_expand", "embed")},
    stated=_HALF,
    heads=HeadRule.FILLS_EMBED,
    tensors=_tensors(_MAMBA, "shared_transf", gated_mlp("feed_forward")),
    cache=("kv_heads 2 key", "kv_heads 2 value"),
    positions=Learned(),
    layer_rules=(Listed("layers_block_type"),),
    limits=(_SHARING,),
)


def _adapters(prefix: str, rows: str, columns: str) -> dict[str, Form]:
    """For each layer that shares a module a matrix of low rank, which is added to it."""
    return {
        f"{prefix}.*.0": numbered("*", linear("*", columns)),
        f"{prefix}.*.1": numbered("*", linear(rows, "*")),
    }


_FEED_FORWARD = {
    "feed_forward.gate_up_proj": linear("ffn | ffn", "embed"),
    "feed_forward.down_proj": linear("embed", "ffn"),
    **_adapters("feed_forward.gate_up_proj_adapter_list", "ffn | ffn", "embed"),
    **_adapters("self_attn.linear_q_adapter_list", "heads 2 query", "2 embed"),
    **_adapters("self_attn.linear_k_adapter_list", "kv_heads 2 key", "2 embed"),
    **_adapters("self_attn.linear_v_adapter_list", "kv_heads 2 value", "2 embed"),
}

ZAMBA2 = Family(
    model_type="zamba2",
    known_as="Zamba 2",
    tiny={
        "n_mamba_heads": 8,
        "mamba_ngroups": 2,
        "mamba_d_state": 8,
        "chunk_size": 8,
        "adapter_rank": 3,
        "attention_head_dim": 32,
        "attention_hidden_size": 128,
        "layers_block_type": ["mamba", "hybrid"],
        "use_mem_rope": True,
        "use_shared_attention_adapter": True,
        "num_key_value_heads": 4,
    },
    sizes=sizes(**_HEADS, ssm_heads="n_mamba_heads", ssm_groups="mamba_ngroups", ssm_state="mamba_d_state"),
    multiples={**_TWICE, "ssm_inner": ("mamba_expand", "embed"), "ffn": (4, "embed")},
    stated=_HALF,
    heads=HeadRule.FILLS_EMBED,
    tensors=_tensors(MIXER, "shared_transformer", _FEED_FORWARD),
    cache=("kv_heads 2 key", "kv_heads 2 value"),
    positions=Rotary(),
    layer_rules=(Listed("layers_block_type"),),
    limits=(NORMED, _SHARING),
)

FAMILIES = (ZAMBA, ZAMBA2)
