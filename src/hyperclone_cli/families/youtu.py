"""Youtu LLM: DeepSeek V3's latent attention with one gated feed-forward a layer, tied embeddings."""

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, GATED_MLP, NORMS
from hyperclone_cli.families.deepseek import DEEPSEEK_V3, LATENT_ATTENTION, LATENT_DEFAULTS, LATENT_SIZES
from hyperclone_cli.families.table import Family

YOUTU = Family(
    model_type="youtu",
    known_as="Youtu LLM 2B",
    sizes=LATENT_SIZES,
    aliases=DEEPSEEK_V3.aliases,
    tensors={**EMBEDDING_AND_HEAD, **LATENT_ATTENTION, **GATED_MLP, **NORMS},
    defaults=LATENT_DEFAULTS | {"tie_word_embeddings": True},
    cache=DEEPSEEK_V3.cache,
    limits=DEEPSEEK_V3.limits,
)

FAMILIES = (YOUTU,)
