"""The kinds of growth that every variant is tried at, and which of them it cannot have."""

from __future__ import annotations

import pytest

from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from support.models import EACH, VARIANTS, newer_mixtures

GROWTHS = {
    "twice": Request(embed_mult=2, ffn_mult=2),
    "three times": Request(embed_mult=3, ffn_mult=3),
    "twice, uneven and noisy": Request(embed_mult=2, ffn_mult=2, mixing=Mixing("uneven", noise_snr_db=10)),
    "half as wide again": Request(embed_mult=1.5, ffn_mult=1.5),
    "larger heads": Request(embed_mult=2, ffn_mult=2, head_dim_mult=2),
    "feed-forward alone": Request(ffn_mult=2.5),
}

ALIBI = ["bloom", "bloom-untied-six-heads", "mpt", "mpt-untied-six-heads-clipped", "mpt-scaled"]
MAMBA = ["mamba", "mamba-untied", "falcon_mamba", "falcon_mamba-untied", "mamba2", "mamba2-groups-tied"]

HALF_AS_WIDE_AGAIN = {
    "its norms have no weights": [
        "olmo",
        "olmo-tied",
        "olmo-clip",
        "nanochat",
        "nanochat-tied",
        "hrm_text",
        "hrm_text-tied",
    ],
    "norms after the residual sum leave no room": ["opt-350m", "opt-postnorm", "openai-gpt", "openai-gpt-untied"],
    "norms without weights": ["opt-plain-norms"],
    "without its final norm": ["opt-no-final-norm"],
    "writes the residual stream": ["rwkv", "rwkv-tied"],
    "stands before a block in some layers|a norm spans all heads": ["olmo_hybrid"],
    "a norm spans all heads": [
        *("bitnet", "bitnet-tied", "olmoe", "olmoe-tied"),
        *("olmoe (fused experts)", "olmoe-tied (fused experts)"),
    ],
    "padding would move its mean": ["modernbert-decoder", "modernbert-decoder-untied-biases"],
    "a norm spans the state space's heads": [
        "nemotron_h",
        *("mamba2", "mamba2-groups-tied", "bamba", "bamba-tied", "falcon_h1"),
        *("granitemoehybrid", "granitemoehybrid-experts", "granitemoehybrid-tied"),
    ],
    "so each must be copied equally often": ["zamba2", "zamba2-untied", "xlstm", "xlstm-tied"],
    "heads grow in size alone": ALIBI,
    "heads come in 4 blocks": ["codegen-tied"],
    "a threshold is worked out from the mean and the spread": ["gemma3n-sparse"],
    "embeddings of word groups pass a silu": ["qwen4_exp"],
    "a norm spans it": ["dory", "dory-tied"],
}
LARGER_HEADS = {
    "rotary positions of type 'proportional'": ["lfm3", "lfm3-plain-untied"],
    "pairs do not stay pairs": ["pythia", "pythia-tied", "gpt_neox-sequential", "gpt_neox-no-attention-bias"],
    "clip_qkv would clip": [
        *("olmo-clip", "olmoe", "olmoe (fused experts)", "dbrx", "dbrx-one-expert-of-four"),
    ],
    "rotary positions of type 'yarn'": ["ministral3-yarn-tied", "gpt_oss"],
    "rotary positions of type 'longrope'": ["phi3-longrope"],
    "its LayerNorm of each key": ["cohere-qk-norm"],
    "LayerNorm of queries and keys leaves no room": [
        *("persimmon", "phi-gqa-tied-qk-norms", "stablelm-12b", "stablelm-12b-tied-mha"),
    ],
    "the eps of its norms": ["sarvam_moe-tied", "glm4_moe", "glm4_moe (fused experts)"],
    "read from latent vectors": [
        *("deepseek_v2", "deepseek_v2-lite-tied", "deepseek_v3", "deepseek_v3-tied", "minicpm3", "minicpm3-untied"),
        *("youtu", "youtu-untied"),
        *("deepseek_v2 (fused experts)", "deepseek_v2-lite-tied (fused experts)"),
        *("deepseek_v3 (fused experts)", "deepseek_v3-tied (fused experts)"),
        *("sarvam_mla", "glm4_moe_lite-tied", "axk1", "axk2", "hy_v4", "deepseek_v32", "glm_moe_dsa-tied"),
        *("dots3_note", "dots3_note-tied"),
        *("kimi_linear-tied", "bailing_hybrid", "longcat_flash", "longcat_flash-tied"),
    ],
    "convolutions read all units of a head": ["zaya", "zaya-untied"],
    "its indexer takes the rotary positions": ["qwen4_exp", "qwen4_exp-tied"],
    "queries and keys have length 1": ["dory", "dory-tied"],
    "its keys are its values": ["deepseek_v4", "deepseek_v4-tied"],
    "lightning attention does not divide": ["minimax", "minimax-tied"],
    "its λ are products": ["diffllama", "diffllama-gqa-tied"],
    "no head size scales the scores": ["gpt2-unscaled"],
    "slopes are divided by the root of the head size": ["falcon-rw"],
    "two types of layer have heads of two sizes": [name for name in VARIANTS if name.startswith(("gemma4", "inkling"))],
    "no attention heads": [*MAMBA, "xlstm", "xlstm-tied", "rwkv", "rwkv-tied"],
}
FEED_FORWARD_ALONE = {
    "it is 4 × ": ["openai-gpt", "openai-gpt-untied", "gpt_neox_japanese", *ALIBI],
    "it is 1.5 × hidden_size": ["xlstm", "xlstm-tied"],
    "a norm spans it": ["dory", "dory-tied"],
    "it is 2 × hidden_size": ["gpt_neox_japanese-untied-twofold", "mamba2", "mamba2-groups-tied"],
    "a norm over ffn": ["bitnet", "bitnet-tied"],
    "a threshold is worked out from the mean and the spread": ["gemma3n-sparse"],
}


ONE_UNIT_WIDER = {
    "embeddings of word groups pass a silu": ["qwen4_exp"],
    "every query head has a key and value head of its own": [
        *("modernbert-decoder", "modernbert-decoder-untied-biases"),
        *("opt-125m", "opt-350m", "opt-projected-prenorm-untied", "opt-postnorm", "opt-untied", "opt-no-bias"),
        *("opt-plain-norms", "opt-no-final-norm", "openai-gpt", "openai-gpt-untied", *ALIBI),
        *("pythia", "pythia-tied", "gpt_neox-sequential", "gpt_neox-full-rotary", "gpt_neox-no-attention-bias"),
        *("gpt_neox_japanese", "gpt_neox_japanese-untied-twofold", "gpt_neo", "gpt_neo-untied", "gptj", "gptj-tied"),
        *("gpt2", "gpt2-untied-n_inner", "gpt2-scaled-by-layer", "gpt2-unscaled", "gpt_bigcode-mha-untied"),
        *("falcon-mha-rope", "falcon-rw", "persimmon", "persimmon-tied-no-qk-norms"),
        *("biogpt", "biogpt-untied-unscaled"),
    ],
    "every key/value head serves the same number of query heads": [
        *("gemma2", "gemma3-gqa", "gemma3n", "gemma3n-untied-shared-kv", "gemma3n-widths", "gemma3n-sparse"),
        *("llama-gqa-tied", "llama-head_dim-biases", "llama3-rope", "arcee", "cwm", "helium", "helium-tied", "jais2"),
        *("internlm3-tied", "hyperclovax", "hyperclovax-tied"),
        *("doge", "doge-experts-tied", "olmo_hybrid", "olmo_hybrid (in memory)"),
        *("aria_text", "aria_text (in memory)", "exaone-tied", "exaone-tied (in memory)"),
        *("vaultgemma", "bitnet", "bitnet-tied", "phi3-longrope", "phi-gqa-tied-qk-norms", "falcon-40b", "falcon-11b"),
        *("stablelm", "stablelm-parallel-tied-biases", "stablelm-12b", "stablelm-12b-tied-mha", "zamba", "zamba2"),
        *("olmoe", "olmoe-tied", "olmoe (fused experts)", "olmoe-tied (fused experts)"),
        *("dbrx", "dbrx-one-expert-of-four"),
    ],
    "the number of key/value heads is fixed": [
        *("gpt_bigcode-mqa", "codegen", "codegen-tied", "falcon-7b", "falcon-7b-untied"),
    ],
    "its norms have no weights": HALF_AS_WIDE_AGAIN["its norms have no weights"],
    "so each must be copied equally often": ["xlstm", "xlstm-tied"],
    "a norm spans the state space's heads": HALF_AS_WIDE_AGAIN["a norm spans the state space's heads"],
    "writes the residual stream": HALF_AS_WIDE_AGAIN["writes the residual stream"],
}
"""Words of a refusal → variants whose residual stream cannot become one unit wider while nothing else is said."""

REFUSED: dict[tuple[str, str], str] = {
    (variant, growth): reason
    for growth, reasons in (
        ("half as wide again", HALF_AS_WIDE_AGAIN),
        ("larger heads", LARGER_HEADS),
        ("feed-forward alone", FEED_FORWARD_ALONE),
    )
    for reason, variants in reasons.items()
    for variant in variants
}
"""(variant, growth) that an architecture cannot have → words of the reason it gives. Everything else is exact."""

FURTHER = (VARIANTS.keys() - EACH.values()) | newer_mixtures.SEPARATE.keys() | newer_mixtures.OTHERS.keys()
"""Variants whose every mechanism is another's too: three kinds of growth of each are tried, all by `make stress`."""

ALWAYS = {"three times", "half as wide again", "larger heads"}

SAMPLED = {"phimoe (fused experts)", "qwen2_moe (fused experts)"}
"""Mixtures that have every growth tried in their fused form too; the others grow twofold and threefold in it."""

CROSSED_TYPES = {"llama", "mistral", "qwen2", "qwen3", "olmo", "olmo2", "olmo3", "gemma", "gemma2", "gemma3_text"}
CROSSED_TYPES |= {"opt", "gpt_neox"}

CROSSED = [name for name, variant in VARIANTS.items() if variant.model_type in CROSSED_TYPES]
"""Variants that are tried at several strategies, with and without noise, and at several pairs of factors."""

TRIED = [
    pytest.param(
        variant,
        growth,
        marks=pytest.mark.stress if variant in FURTHER and growth not in ALWAYS and not refused else (),
    )
    for variant in VARIANTS
    for growth in GROWTHS
    for refused in [(variant, growth) in REFUSED]
    if not VARIANTS[variant].fused_experts
    or variant in SAMPLED
    or growth == "three times"
    or (growth == "twice" and variant not in newer_mixtures.IN_MEMORY)
]
