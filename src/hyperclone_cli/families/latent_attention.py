"""Youtu LLM and MiniCPM 3: DeepSeek's latent attention with one gated feed-forward a layer.

MiniCPM 3 divides its logits by hidden_size.
"""

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, GATED_MLP, NORMS
from hyperclone_cli.families.deepseek import DEEPSEEK_V3, LATENT_ATTENTION, LATENT_SIZES
from hyperclone_cli.families.layer_rules import ByRoot
from hyperclone_cli.families.statements import HeadRule, Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import linear, optional

YOUTU = Family(
    model_type="youtu",
    known_as="Youtu LLM 2B",
    sizes=LATENT_SIZES,
    aliases=DEEPSEEK_V3.aliases,
    tensors={**EMBEDDING_AND_HEAD, **LATENT_ATTENTION, **GATED_MLP, **NORMS},
    cache=DEEPSEEK_V3.cache,
    limits=(
        *DEEPSEEK_V3.limits,
        Limit(
            "untie",
            "where transformers zeroes the embedding of that token as it loads, and so its logit",
            {"pad_token_id": ...},
        ),
    ),
)

MINICPM3 = YOUTU.variant(
    "minicpm3",
    known_as="MiniCPM 3",
    # what hidden_size is divided by in turn; null would follow hidden_size
    sizes={**LATENT_SIZES, "logits_base": "dim_model_base"},
    tensors={"lm_head": optional(linear("vocab", "embed", forward_power=-1))},
    layer_rules=(ByRoot("scale_depth"),),
    heads=HeadRule.DIVIDES_EMBED,
    limits=DEEPSEEK_V3.limits,
)

FAMILIES = (MINICPM3, YOUTU)
