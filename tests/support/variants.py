"""All variants of all architectures, by name."""

from __future__ import annotations

from support import (
    models,
    models_further,
    models_fused,
    models_fused_experts,
    models_layers,
    models_more,
    models_recurrent,
)

LINEAGES: tuple[dict[str, models.Variant], ...] = (
    models.VARIANTS,
    models_more.VARIANTS,
    models_further.VARIANTS,
    models_fused.VARIANTS,
    models_fused_experts.VARIANTS,
    models_fused_experts.FUSED,
    models_layers.VARIANTS,
    models_recurrent.VARIANTS,
)
VARIANTS = {name: variant for lineage in LINEAGES for name, variant in lineage.items()}
assert len(VARIANTS) == sum(map(len, LINEAGES)), "two variants have the same name"
