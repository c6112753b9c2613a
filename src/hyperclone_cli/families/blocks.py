"""Blocks of modules that many tables share, Llama's foremost: names of modules, or of config keys, with their forms."""

from __future__ import annotations

from collections.abc import Mapping

from hyperclone_cli.families.vocabulary import (
    Form,
    drop,
    embedding,
    from_stream,
    linear,
    norm,
    normed,
    optional,
    post_norm,
)


def under(prefix: str, forms: Mapping[str, Form]) -> dict[str, Form]:
    """The same modules, each under `prefix`."""
    return {f"{prefix}.{name}": form for name, form in forms.items()}


def renamed(forms: Mapping[str, Form], names: Mapping[str, str]) -> dict[str, Form]:
    """The same modules with parts of their names replaced: old → new, one after another."""
    found = dict(forms)
    for old, new in names.items():
        found = {module.replace(old, new): form for module, form in found.items()}
    return found


def attention(prefix: str, keys: str = "kv_heads", out: str = "o_proj") -> dict[str, Form]:
    """Attention under `prefix` with queries, keys and values apart. `keys`: the axis that counts keys and values."""
    return {
        f"{prefix}.q_proj": linear("heads query", "embed"),
        f"{prefix}.k_proj": linear(f"{keys} key", "embed"),
        f"{prefix}.v_proj": linear(f"{keys} value", "embed"),
        f"{prefix}.{out}": linear("embed", "heads value"),
    }


def qk_norms(prefix: str, query: str = "q_norm", key: str = "k_norm", plus_one: bool = False) -> dict[str, Form]:
    """Norms over each query and each key, and the projections under `prefix` that they follow."""
    return {
        f"{prefix}.q_proj": normed(linear("heads query", "embed")),
        f"{prefix}.k_proj": normed(linear("kv_heads key", "embed")),
        f"{prefix}.{query}": post_norm("query", plus_one),
        f"{prefix}.{key}": post_norm("key", plus_one),
    }


def mlp(prefix: str, up: str, down: str) -> dict[str, Form]:
    """A feed-forward without a gate, of the modules `up` and `down` under `prefix`."""
    return {f"{prefix}.{up}": linear("ffn", "embed"), f"{prefix}.{down}": linear("embed", "ffn")}


def gated_mlp(prefix: str, width: str = "ffn") -> dict[str, Form]:
    """A gated feed-forward under `prefix`, or an expert, of some width."""
    return {
        f"{prefix}.gate_proj": linear(width, "embed"),
        f"{prefix}.up_proj": linear(width, "embed"),
        f"{prefix}.down_proj": linear("embed", width),
    }


def norms(*modules: str, plus_one: bool = False) -> dict[str, Form]:
    """Norms of the residual stream before a block, or before the head."""
    return {module: norm("embed", plus_one) for module in modules}


def causal_mask(prefix: str) -> dict[str, Form]:
    """The buffers of attention under `prefix` that older releases of transformers saved."""
    return {f"{prefix}.{name}": drop("causal mask, rebuilt on load") for name in ("bias", "masked_bias")}


def without_first_norm(forms: Mapping[str, Form]) -> dict[str, Form]:
    """The same blocks without a norm before them: what reads the residual stream reads it itself."""
    reading = {
        module
        for module, form in forms.items()
        if form.kind == "linear" and form.parameters["weight"][1].axes == ("embed",)
    }
    return {module: from_stream(form) if module in reading else form for module, form in forms.items()}


EMBEDDING_AND_HEAD = {"model.embed_tokens": embedding("vocab", "embed"), "lm_head": optional(linear("vocab", "embed"))}
SCALED_EMBEDDING_AND_HEAD = EMBEDDING_AND_HEAD | {"model.embed_tokens": embedding("vocab", "embed", forward_power=0.5)}
ROTARY_BUFFERS = {
    "model.layers.*.self_attn.rotary_emb.inv_freq": drop("recomputed from the config"),
    "model.rotary_emb.inv_freq": drop("recomputed from the config"),
}
SELF_ATTENTION = "model.layers.*.self_attn"
ATTENTION = attention(SELF_ATTENTION) | ROTARY_BUFFERS
NORMED_ATTENTION = ATTENTION | qk_norms(SELF_ATTENTION)
GATED_MLP = gated_mlp("model.layers.*.mlp")
NORMS = norms("model.layers.*.input_layernorm", "model.layers.*.post_attention_layernorm", "model.norm")
PLUS_ONE_NORMS = norms(*NORMS, plus_one=True)

SIZES = {
    "embed": "hidden_size",
    "ffn": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab": "vocab_size",
    "layers": "num_hidden_layers",
}


def sizes(*absent: str, **others: str) -> dict[str, str]:
    """Axis → config key as in Llama, without the axes that are `absent`, and `others` added or under another key."""
    return {axis: key for axis, key in (SIZES | others).items() if axis not in absent}
