"""The architectures: data only, one lineage a file.

`FAMILIES` maps a family's name to the table that describes its checkpoints: the `model_type` from
config.json, and where checkpoints of one model_type come in several layouts, the layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.families import (
    biogpt,
    bitnet,
    bloom,
    cohere,
    dbrx,
    deepseek,
    diffllama,
    exaone,
    falcon,
    fused,
    gemma,
    glm,
    gpt2,
    gpt_neo,
    gpt_neox,
    gpt_neox_japanese,
    gpt_oss,
    gptj,
    granite_moe,
    llama,
    minicpm3,
    mixtral,
    nanochat,
    olmo,
    openai_gpt,
    opt,
    persimmon,
    phi,
    qwen_moe,
    stablelm,
    starcoder2,
    ungated,
)
from hyperclone_cli.families.refused import REFUSED
from hyperclone_cli.families.table import Family, Fold, Limit, stated_value

__all__ = ["FAMILIES", "REFUSED", "Family", "Fold", "Limit", "find_family", "stated_value"]

_LINEAGES = (
    *(llama, ungated, exaone, cohere, gemma, olmo, nanochat, bitnet, opt, gpt_neox, phi, starcoder2, stablelm, glm),
    *(diffllama, gpt_neox_japanese),
    *(persimmon, bloom, falcon, gptj, gpt_neo, gpt2, openai_gpt, biogpt),  # fused or transposed tensors
    fused,  # before those that have the same config, and are told by nothing
    *(mixtral, qwen_moe, granite_moe, gpt_oss, dbrx, deepseek, minicpm3),  # mixtures of experts, and latent attention
)

FAMILIES: dict[str, Family] = {family.name: family for lineage in _LINEAGES for family in lineage.FAMILIES}


def find_family(config: Mapping[str, Any], names: Iterable[str] = ()) -> Family:
    """The table for the model that a config.json describes: the first of its model_type that fits.

    `names` are those of the checkpoint's tensors, which tell layouts that have one config apart.
    Raises CheckpointError for an architecture or a layout that is refused by name, with the reason, and for an unknown
    model_type, naming the nearest known.
    """
    model_type = config["model_type"]
    for family in FAMILIES.values():
        if family.model_type == model_type and family.fits(config, family.when) and family.is_stored_in(names):
            if family.refused:
                raise CheckpointError(f"config.json: {family.name} is not supported: {family.refused}.")
            return family
    if model_type in REFUSED:
        raise CheckpointError(
            f"config.json: model_type {model_type!r} is not supported: {REFUSED[model_type]}.",
            "`hyperclone families` lists those that are.",
        )
    nearest = get_close_matches(model_type, [family.model_type for family in FAMILIES.values()], n=1, cutoff=0.5)
    raise CheckpointError(
        f"config.json: model_type {model_type!r} is not supported.",
        (f"The nearest that is supported is {nearest[0]!r}. " if nearest else "")
        + "`hyperclone families` lists them all.",
    )
