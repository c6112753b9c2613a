"""MiniCPM 3: DeepSeek's latent attention with one feed-forward a layer; logits are divided by hidden_size."""

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, GATED_MLP, NORMS
from hyperclone_cli.families.deepseek import DEEPSEEK_V2, LATENT_ATTENTION, LATENT_SIZES
from hyperclone_cli.families.table import Family, HeadRule
from hyperclone_cli.families.vocabulary import linear, optional

MINICPM3 = Family(
    model_type="minicpm3",
    known_as="MiniCPM 3",
    sizes={
        **LATENT_SIZES,
        "logits_base": "dim_model_base",  # what hidden_size is divided by in turn; null would follow hidden_size
    },
    aliases=DEEPSEEK_V2.aliases,
    tensors={
        **EMBEDDING_AND_HEAD,
        "lm_head": optional(linear("vocab", "embed", forward_power=-1)),
        **LATENT_ATTENTION,
        **GATED_MLP,
        **NORMS,
    },
    defaults={
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "q_lora_rank": 768,
        "kv_lora_rank": 256,
        "dim_model_base": 256,
        "tie_word_embeddings": True,
    },
    cache=DEEPSEEK_V2.cache,
    limits=DEEPSEEK_V2.limits,
    heads=HeadRule.DIVIDES_EMBED,
)

FAMILIES = (MINICPM3,)
