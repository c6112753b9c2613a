"""The architectures: data only, one lineage a file.

`FAMILIES` maps a `model_type` from config.json to the table that describes its checkpoints.
"""

from __future__ import annotations

from difflib import get_close_matches

from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.families import (
    bitnet,
    cohere,
    deepseek,
    exaone,
    gemma,
    gpt_neox,
    llama,
    minicpm3,
    mixtral,
    nanochat,
    olmo,
    opt,
    qwen_moe,
    ungated,
)
from hyperclone_cli.families.table import Family, Fold, Limit

__all__ = ["FAMILIES", "Family", "Fold", "Limit", "find_family"]

_LINEAGES = (
    *(llama, ungated, exaone, cohere, gemma, olmo, nanochat, bitnet, opt, gpt_neox),
    *(mixtral, qwen_moe, deepseek, minicpm3),  # mixtures of experts, and latent attention
)

FAMILIES: dict[str, Family] = {family.model_type: family for lineage in _LINEAGES for family in lineage.FAMILIES}


def find_family(model_type: str) -> Family:
    """The table for a `model_type`.

    Raises CheckpointError for an unknown one, naming the nearest that is known.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    nearest = get_close_matches(model_type, FAMILIES, n=1, cutoff=0.5)
    raise CheckpointError(
        f"config.json: model_type {model_type!r} is not supported.",
        (f"The nearest that is supported is {nearest[0]!r}. " if nearest else "")
        + "`hyperclone families` lists them all.",
    )
