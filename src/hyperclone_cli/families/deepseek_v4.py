"""DeepSeek V4: one key for all heads, which is their value too, compressed in some layers; several residual streams.

Groups of heads have a matrix each before the one that all share. The experts of some layers are chosen by the token,
from a table.
"""

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, NORMS, gated_mlp, renamed, sizes, under
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.hy_v4 import mixing
from hyperclone_cli.families.layer_rules import First, Listed
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.qwen_moe import experts
from hyperclone_cli.families.statements import Layout, Limit, NextToken
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import Form, bare, in_some_layers, kept, linear, norm, parameter

_LAYER = "model.layers.*"
_HEADS = "kv_heads group_parts group_part"
_ATTENTION: dict[str, Form] = {
    "q_a_proj": linear("q_latent", "embed"),
    "q_a_norm": norm("q_latent"),
    "q_b_proj": linear(f"{_HEADS} query", "q_latent"),
    "kv_proj": linear("key", "embed"),
    "kv_norm": norm("key"),
    "o_a_proj": linear("*", "group_part value"),
    "o_b_proj": linear("embed", "*"),
    "sinks": parameter(_HEADS),
}
_COMPRESSOR: dict[str, Form] = {
    "kv_proj": linear("*", "embed"),
    "gate_proj": linear("*", "embed"),
    "position_bias": parameter("*", "*"),
    "kv_norm": norm("*"),
}
_INDEXER: dict[str, Form] = {
    **_COMPRESSOR,
    "q_b_proj": linear("*", "q_latent"),
    "scorer.weights_proj": linear("*", "embed"),
}
_SOME = {
    **under(f"{_LAYER}.self_attn.compressor", _COMPRESSOR | under("indexer", _INDEXER)),
    f"{_LAYER}.mlp.gate.tid2eid": kept("experts"),
    f"{_LAYER}.mlp.gate.e_score_correction_bias": parameter("experts"),
}
_IN_MEMORY = {
    **EMBEDDING_AND_HEAD,
    **under(f"{_LAYER}.self_attn", _ATTENTION),
    **experts(f"{_LAYER}.mlp", "ffn"),
    **gated_mlp(f"{_LAYER}.mlp.shared_experts", "ffn"),
    **{module: in_some_layers(form) for module, form in _SOME.items()},
    **mixing(f"{_LAYER}.attn_hc."),
    **mixing(f"{_LAYER}.ffn_hc."),
    **mixing("model.hc_head.hc_"),
    **NORMS,
}
_ON_DISK = {
    "lm_head": "head",
    ".input_layernorm": ".attn_norm",
    ".post_attention_layernorm": ".ffn_norm",
    ".self_attn.compressor.indexer.scorer": ".self_attn.indexer",
    ".self_attn.compressor.indexer.q_b_proj": ".self_attn.indexer.wq_b",
    ".self_attn.compressor.indexer": ".self_attn.indexer.compressor",
    ".self_attn": ".attn",
    ".mlp": ".ffn",
    "_hc.": "_",
    ".attn_base": ".hc_attn_base",
    ".attn_fn": ".hc_attn_fn",
    ".attn_scale": ".hc_attn_scale",
    ".ffn_base": ".hc_ffn_base",
    ".ffn_fn": ".hc_ffn_fn",
    ".ffn_scale": ".hc_ffn_scale",
    ".sinks": ".attn_sink",
    ".position_bias": ".ape",
    ".kv_norm": ".norm",
    ".q_a_norm": ".q_norm",
    ".q_a_proj": ".wq_a",
    ".q_b_proj": ".wq_b",
    ".kv_proj": ".wkv",
    ".o_a_proj": ".wo_a",
    ".o_b_proj": ".wo_b",
    ".e_score_correction_bias": ".bias",
    ".compressor.gate_proj": ".compressor.wgate",
    ".gate_proj": ".w1",
    ".down_proj": ".w2",
    ".up_proj": ".w3",
}


_GATE = f"{_LAYER}.mlp.gate"
# a bias of that name is none of the matrix
_APART = {name: form for name, form in _IN_MEMORY.items() if name != _GATE} | {
    f"{_GATE}.weight": bare(linear("experts", "embed"))
}


def _deepseek_v4(layout: Layout, tensors: dict[str, Form]) -> Family:
    return Family(
        model_type="deepseek_v4",
        layout=layout,
        known_as="DeepSeek V4",
        tiny={
            "num_hidden_layers": 3,
            "num_experts_per_tok": 2,
            "o_lora_rank": 10,
            "index_n_heads": 3,
            "index_head_dim": 16,
            "index_topk": 3,
            "partial_rotary_factor": 0.5,
            "sliding_window": 8,
            "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
            "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
            "mlp_layer_types": ["hash_moe", "moe", "moe"],
        },
        sizes=sizes(
            "kv_heads",
            ffn="moe_intermediate_size",
            experts="n_routed_experts",
            q_latent="q_lora_rank",
            group_parts="o_groups",
            streams="hc_mult",
        ),
        fixed={"kv_heads": 1},
        tensors=tensors,
        defaults={
            "num_hash_layers": 3,
        },
        cache=("key",),
        positions=Rotary("neighbours"),
        next_token=NextToken("num_nextn_predict_layers", "mtp."),
        layer_rules=(
            Listed("layer_types"),
            Listed("mlp_layer_types", (First("num_hash_layers"), "hash_moe", "moe")),
        ),
        limits=(
            Limit("head_dim", "its keys are its values, and are turned back behind attention"),
            Limit("experts", "where a table names the experts of each token"),
            Limit("layers", "where each layer mixes several residual streams, none leaves them as they are"),
        ),
    )


FAMILIES = (fused(_deepseek_v4(Layout(), _IN_MEMORY)), _deepseek_v4(Layout(), renamed(_APART, _ON_DISK)))
