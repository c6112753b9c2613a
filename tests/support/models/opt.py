"""OPT, in all ways in which Meta published it, and BioGPT."""

from __future__ import annotations

from support.models.config import BASE, UNTIED, Variant

OPT = {key: value for key, value in BASE.items() if key != "intermediate_size"} | {"ffn_dim": 80}

VARIANTS: dict[str, Variant] = {
    "opt-125m": Variant("opt", OPT | {"do_layer_norm_before": True}),
    "opt-350m": Variant("opt", OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 24}),
    "opt-projected-prenorm-untied": Variant("opt", OPT | {"word_embed_proj_dim": 24} | UNTIED),
    "opt-postnorm": Variant("opt", OPT | {"do_layer_norm_before": False}),
    "opt-untied": Variant("opt", OPT | UNTIED),
    "opt-no-bias": Variant("opt", OPT | {"enable_bias": False}),
    "opt-plain-norms": Variant("opt", OPT | {"layer_norm_elementwise_affine": False}),
    "opt-no-final-norm": Variant("opt", OPT | {"_remove_final_layer_norm": True}),
    "biogpt": Variant("biogpt", BASE),
    "biogpt-untied-unscaled": Variant("biogpt", BASE | UNTIED | {"scale_embedding": False}),
}
