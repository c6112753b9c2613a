"""The axes: every number of a model's shape, one record each.

An axis is a width or a count, named as in the field. Tables of architectures (`families/`) say which config key states
it and which dimensions of which tensors it spans; `growth/` says how it grows. A new axis is one line here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """One axis.

    part     the part of the network: "stream", "embedding", "vocabulary", "projector", "feed-forward", "experts",
             "attention" or "recurrent"; "config" for a number of config.json that is no dimension of a tensor
    follows  the axis in proportion to which it grows unless something else is asked for; empty: it is asked for by an
             option of its own, follows from others (see `growth.resolve`), or never grows
    options  names of the request's options for it: its size, its multiplier; either may be empty
    factors  (outer, inner): the axes that this one is the product of
    derived  config.json may omit it: it then follows from the other sizes
    absent   some models of an architecture do without it: their config states 0, null or nothing
    tiny     its units in a tiny model, see `verifier.self_check`; 0 where the table or the other sizes give it
    """

    name: str
    what: str
    part: str
    follows: str = ""
    options: tuple[str, str] = ("", "")
    factors: tuple[str, str] | tuple[()] = ()
    derived: bool = False
    absent: bool = False
    tiny: int = 0

    @property
    def grows(self) -> bool:
        """Whether a request may make it larger."""
        return bool(any(self.options) or self.follows or any(AXES[factor].grows for factor in self.factors))


_TABLE = (
    Axis("embed", "the residual stream", "stream", options=("hidden_size", "embed_mult"), tiny=64),
    Axis("streams", "the residual streams of a token (hyper-connections)", "stream", tiny=4),
    Axis("proj", "the width of the embedding, where it is not that of the residual stream", "embedding",
         follows="embed", derived=True, tiny=64),
    Axis("projector", "the inner width of what projects into the residual stream, where it is as wide as that",
         "projector", follows="embed"),
    Axis("stream_twice", "the residual stream and the embeddings, side by side", "config", follows="embed"),
    Axis("vocab", "the vocabulary", "vocabulary", tiny=96),
    Axis("padded_vocab", "the rows of the embedding, where they are more than the vocabulary", "vocabulary", tiny=96),
    Axis("layers", "the layers", "layers", options=("num_layers", "depth_mult"), tiny=2),
    Axis("ffn", "the feed-forward width", "feed-forward", options=("intermediate_size", "ffn_mult"), tiny=96),
    Axis("moe_ffn", "the width of one expert, where it is not `ffn`", "experts",
         follows="ffn", options=("", "moe_ffn_mult"), absent=True, tiny=24),
    Axis("shared_ffn", "the width of the shared expert", "experts", follows="moe_ffn", absent=True, tiny=40),
    Axis("experts", "the experts of a layer, of which a router chooses some", "experts",
         options=("num_experts", ""), absent=True, tiny=4),
    Axis("zero_experts", "the experts of a layer that hand on what they read", "experts", absent=True, tiny=2),
    Axis("shared", "the shared experts of a layer, stored as one", "experts", absent=True, tiny=2),
    Axis("layer_input", "the embedding that a layer has of its own", "layers", absent=True),
    # products first, and a product before those that it is made of
    Axis("lru", "a recurrent width in blocks", "recurrent", factors=("heads", "block")),
    Axis("ssm_inner", "the inner width of Mamba 2", "recurrent", factors=("ssm_heads", "ssm_value")),
    Axis("mamba_inner", "the inner width of Mamba in heads", "recurrent", factors=("mamba_heads", "mamba_unit")),
    Axis("lstm_keys", "the queries, and the keys, of all heads of xLSTM", "recurrent",
         factors=("lstm_heads", "lstm_key")),
    Axis("lstm_values", "the values of all heads of xLSTM", "recurrent", factors=("lstm_heads", "lstm_value")),
    Axis("heads", "the query heads", "attention",
         options=("num_heads", "heads_mult"), factors=("kv_heads", "group"), tiny=4),
    Axis("ssm_heads", "the heads of Mamba 2", "recurrent", factors=("ssm_groups", "ssm_group")),
    Axis("delta_values", "the value heads of a gated delta net", "recurrent", factors=("delta_heads", "delta_group")),
    Axis("kv_heads", "the key/value heads", "attention",
         options=("num_kv_heads", "kv_heads_mult"), derived=True, tiny=2),
    Axis("group", "the query heads of one key/value head", "attention"),
    Axis("kv_pairs", "half of the key/value heads, where head i works with head i + half", "attention"),
    Axis("group_parts", "the parts that these are in, where each part has something of its own", "attention", tiny=2),
    Axis("group_part", "the query heads of one such part", "attention"),
    Axis("head_dim", "the size of a head", "config", options=("", "head_dim_mult"), derived=True, tiny=16),
    Axis("query", "the query of a head", "attention"),
    Axis("key", "the key of a head", "attention"),
    Axis("value", "the value of a head", "attention"),
    Axis("v_head", "the value of a head, where it has a size of its own", "attention", tiny=12),
    Axis("nope", "the part of a query or key without rotary positions", "attention", tiny=16),
    Axis("rope", "the part of a query or key with rotary positions", "attention", tiny=8),
    Axis("relative", "what a head makes the biases of its distances from", "attention", tiny=5),
    Axis("taps", "the tokens that a convolution reads, where what it multiplies them by is read from a token",
         "attention", tiny=4),
    Axis("rotary", "the units of a head with rotary positions", "config"),
    Axis("q_latent", "the latent rank of queries (MLA, `q_lora_rank`)", "attention", absent=True, tiny=24),
    Axis("kv_latent", "the latent rank of keys and values (MLA, `kv_lora_rank`)", "attention", tiny=16),
    Axis("inner", "the width of a recurrent or convolutional block, each unit by itself", "recurrent", follows="embed"),
    Axis("block", "the part of a recurrent width that belongs to one head", "recurrent"),
    Axis("mamba_heads", "the heads of Mamba, each of which reads itself alone", "recurrent", tiny=2),
    Axis("mamba_unit", "the units of such a head", "recurrent", follows="embed"),
    Axis("lstm_heads", "the heads of xLSTM", "recurrent", follows="embed", tiny=4),
    Axis("lstm_key", "the key of such a head", "recurrent"),
    Axis("lstm_value", "the value of such a head", "recurrent"),
    Axis("dt_rank", "the rank that time steps are read from", "recurrent"),
    Axis("ssm_groups", "the groups of Mamba 2, each with a B and a C of its own", "recurrent"),
    Axis("ssm_group", "the heads in such a group", "recurrent", follows="embed"),
    Axis("ssm_value", "the size of a head of Mamba 2", "recurrent", derived=True),
    Axis("ssm_state", "the size of a unit's state", "recurrent"),
    Axis("delta_heads", "the key heads of a gated delta net", "recurrent", follows="embed"),
    Axis("delta_group", "the value heads of one such key head", "recurrent"),
    Axis("delta_key", "the size of such a key head", "recurrent"),
    Axis("delta_value", "the size of such a value head", "recurrent"),
    Axis("logits_base", "the width by which the hidden size is divided before the head", "config"),
)  # fmt: skip

AXES = {axis.name: axis for axis in _TABLE}
"""Every axis by its name."""

PRODUCTS = {axis.name: axis.factors for axis in _TABLE if axis.factors}
"""Axes that are products, as config.json states them → (outer, inner), which may be a product further down."""
