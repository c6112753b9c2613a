"""DeepSeek V2 and V3, and the mixtures built like theirs: GLM 4.5 and ERNIE 4.5.

Some experts are chosen, others shared by all tokens and stored as one; the first layers are dense.
DeepSeek's keys and values are read from one narrow vector a token, `kv_latent`, which is all that is cached.
"""

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, GATED_MLP, NORMED_ATTENTION, NORMS, gated_mlp, sizes
from hyperclone_cli.families.layer_rules import Between, First, Listed, windows_from
from hyperclone_cli.families.llama import ERNIE4_5, MISTRAL
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.qwen_moe import EXPERTS
from hyperclone_cli.families.routing import Routing, in_groups
from hyperclone_cli.families.statements import HeadRule, Limit, NextToken
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import in_layers, linear, norm, of_probability, optional, parameter, post_norm

_SHARED = gated_mlp("model.layers.*.mlp.shared_experts", "shared moe_ffn")
SHARED_EXPERTS = {module: optional(form) for module, form in _SHARED.items()}
CORRECTION = in_layers("experts", {"model.layers.*.mlp.gate.e_score_correction_bias": parameter("experts")})
MIXTURE = in_layers("experts", EXPERTS | SHARED_EXPERTS) | in_layers("dense", GATED_MLP)
LATENT_ATTENTION = {
    "model.layers.*.self_attn.q_proj": optional(linear("heads nope+rope", "embed")),
    "model.layers.*.self_attn.q_a_proj": optional(linear("q_latent", "embed")),
    "model.layers.*.self_attn.q_a_layernorm": optional(norm("q_latent")),
    "model.layers.*.self_attn.q_b_proj": optional(linear("heads nope+rope", "q_latent")),
    "model.layers.*.self_attn.kv_a_proj_with_mqa": linear("kv_latent+rope", "embed"),
    "model.layers.*.self_attn.kv_a_layernorm": norm("kv_latent"),
    "model.layers.*.self_attn.kv_b_proj": linear("heads nope+value", "kv_latent"),
    "model.layers.*.self_attn.o_proj": linear("embed", "heads value"),
}

LATENT_SIZES = sizes(
    "kv_heads",
    head_dim="v_head_dim",
    nope="qk_nope_head_dim",
    rope="qk_rope_head_dim",
    q_latent="q_lora_rank",
    kv_latent="kv_lora_rank",
)
DENSE_FIRST = First("first_k_dense_replace")
DENSE_OR_SPARSE = Listed("mlp_layer_types", (DENSE_FIRST, "dense", "sparse"))
MOE_SIZES = {"moe_ffn": "moe_intermediate_size", "experts": "n_routed_experts", "shared": "n_shared_experts"}

DEEPSEEK_V2 = Family(
    model_type="deepseek_v2",
    known_as="DeepSeek V2",
    tiny={"num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    sizes=LATENT_SIZES | MOE_SIZES,
    aliases={"num_attention_heads": ("num_key_value_heads",)},
    tensors={**EMBEDDING_AND_HEAD, **LATENT_ATTENTION, **MIXTURE, **NORMS},
    defaults={"first_k_dense_replace": 0},
    layer_rules=(DENSE_FIRST,),
    routing=Routing(None, groups={"n_group": None, "topk_group": None}),
    cache=("kv_latent+rope",),
    limits=(Limit("head_dim", "its heads are read from latent vectors, whose size stays"),),
    heads=HeadRule.DIVIDES_EMBED,
)

DEEPSEEK_V3 = DEEPSEEK_V2.variant(
    "deepseek_v3",
    known_as="DeepSeek V3 and R1, Moonlight",
    tensors=CORRECTION,
    defaults={
        "first_k_dense_replace": 3,
    },
    heads=HeadRule.FREE,
    routing=in_groups(8, 8, 4),
    next_token=NextToken("num_nextn_predict_layers"),
)

SARVAM_MLA = DEEPSEEK_V3.variant(
    "sarvam_mla",
    known_as="Sarvam 105B",
    aliases={
        **DEEPSEEK_V3.aliases,
        "n_routed_experts": ("num_experts",),
        "n_shared_experts": ("num_shared_experts",),
    },
    defaults={"first_k_dense_replace": 1},
    routing=in_groups(8),
)

GLM4_MOE_LITE = DEEPSEEK_V3.variant(
    "glm4_moe_lite",
    known_as="GLM 4.7 Flash",
    routing=in_groups(4),
    layer_rules=(DENSE_OR_SPARSE,),
    defaults={
        "first_k_dense_replace": 1,
    },
)

GLM4_MOE = MISTRAL.without(*GATED_MLP).variant(
    "glm4_moe",
    known_as="GLM 4.5",
    tiny={"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    sizes=sizes(**MOE_SIZES),
    tensors={
        **MIXTURE,
        "model.layers.*.self_attn.q_norm": optional(post_norm("query")),
        "model.layers.*.self_attn.k_norm": optional(post_norm("key")),
        **CORRECTION,
    },
    defaults={
        "partial_rotary_factor": 0.5,
        "first_k_dense_replace": 1,
    },
    layer_rules=(DENSE_FIRST,),
    routing=in_groups(8),
    positions=Rotary(fraction="partial_rotary_factor"),
    next_token=NextToken("num_nextn_predict_layers"),
    limits=(Limit("head_dim", "the eps of its norms of queries and keys would weigh more", {"use_qk_norm": True}),),
)

DOTS1 = GLM4_MOE.variant(
    "dots1",
    known_as="dots.llm1",
    tensors=NORMED_ATTENTION,
    defaults={
        "partial_rotary_factor": 1.0,
        "first_k_dense_replace": 0,
    },
    layer_rules=(DENSE_FIRST, *windows_from("max_window_layers")),
    positions=Rotary(),
    routing=in_groups(None),
    next_token=NextToken(),
    limits=(),
)

ERNIE4_5_MOE = ERNIE4_5.without(*GATED_MLP).variant(
    "ernie4_5_moe",
    known_as="ERNIE 4.5 21B",
    tiny={"moe_k": 2},
    sizes=sizes(moe_ffn="moe_intermediate_size", experts="moe_num_experts", shared="moe_num_shared_experts"),
    tensors={
        **MIXTURE,
        **in_layers(
            "experts",
            {"model.layers.*.mlp.moe_statics.e_score_correction_bias": of_probability(parameter("1", "experts"))},
        ),
    },
    layer_rules=(Between("moe_layer_start_index", last="moe_layer_end_index", every="moe_layer_interval"),),
    routing=Routing(6, "moe_k"),
    next_token=NextToken("num_nextn_predict_layers", "mtp"),
)

FAMILIES = (DEEPSEEK_V2, DEEPSEEK_V3, SARVAM_MLA, GLM4_MOE_LITE, GLM4_MOE, DOTS1, ERNIE4_5_MOE)
