"""Sarvam 30B: GLM 4.5's mixture under Bailing's names, with queries, keys and values in one matrix."""

from hyperclone_cli.families.blocks import ROTARY_BUFFERS
from hyperclone_cli.families.deepseek import GLM4_MOE
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.routing import in_groups
from hyperclone_cli.families.vocabulary import linear, normed, post_norm

_LAYER = "model.layers.*"

_AS_LOADED = GLM4_MOE.without(*ROTARY_BUFFERS).variant(
    "sarvam_moe",
    known_as="Sarvam 30B",
    tensors={f"{_LAYER}.self_attn.{name}_norm": post_norm(width) for name, width in (("q", "query"), ("k", "key"))},
    defaults={
        "partial_rotary_factor": 1.0,
    },
    positions=Rotary(fraction="partial_rotary_factor"),
    routing=in_groups(6),
    aliases={"n_routed_experts": ("num_experts",), "n_shared_experts": ("num_shared_experts",)},
)
_RENAMED = {
    "model.embed_tokens": "model.word_embeddings",
    f"{_LAYER}.self_attn.o_proj": f"{_LAYER}.attention.dense",
    f"{_LAYER}.self_attn.q_norm": f"{_LAYER}.attention.query_layernorm",
    f"{_LAYER}.self_attn.k_norm": f"{_LAYER}.attention.key_layernorm",
    f"{_LAYER}.mlp.gate.e_score_correction_bias": f"{_LAYER}.mlp.gate.expert_bias",
}
SARVAM_MOE = _AS_LOADED.without(*_RENAMED, *(f"{_LAYER}.self_attn.{name}_proj" for name in ("q", "k", "v"))).variant(
    "sarvam_moe",
    known_as="Sarvam 30B",
    tensors={
        **{name: _AS_LOADED.tensors[module] for module, name in _RENAMED.items()},
        f"{_LAYER}.attention.query_key_value": normed(linear("heads query | kv_heads key | kv_heads value", "embed")),
    },
)

FAMILIES = (fused(_AS_LOADED), SARVAM_MOE)
