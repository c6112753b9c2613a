"""Falcon: one or several key/value heads fused with their queries, rotary positions or ALiBi."""

from __future__ import annotations

from support.models.config import BASE, UNTIED, Variant

FALCON = {key: BASE[key] for key in BASE if key != "intermediate_size"}
FALCON_40B = FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}
FALCON_MHA = FALCON | {"multi_query": False, "parallel_attn": False, "bias": True}

VARIANTS: dict[str, Variant] = {
    "falcon-7b": Variant("falcon", FALCON),
    "falcon-7b-untied": Variant("falcon", FALCON | UNTIED | {"ffn_hidden_size": 80}),
    "falcon-40b": Variant("falcon", FALCON_40B),
    "falcon-11b": Variant("falcon", FALCON_40B | {"num_ln_in_parallel_attn": 1, "ffn_hidden_size": 80}),
    "falcon-mha-rope": Variant("falcon", FALCON_MHA),
    "falcon-rw": Variant("falcon", FALCON_MHA | {"alibi": True}),
}
