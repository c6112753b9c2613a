"""Towers and tokens of the tiny models that tables of wrappers are checked on; see `verifier.self_check`."""

from typing import Any

_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
_PIXELS = {**_TOWER, "image_size": 16, "patch_size": 8, "num_channels": 3}
_IMAGE = {"image_token_index": 90}
_IMAGE_ID = {"image_token_id": 90}
_LAST_LAYER = {"vision_feature_layer": -1}
_GEMMA_TOKENS = {"audio_token_id": 91, "video_token_id": 92, "boi_token_id": 93, "eoi_token_id": 94}
_SECTIONS = {"text_config.rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}}
_PATCHES = {"patch_size": 8, "spatial_merge_size": 1, "temporal_patch_size": 1}
_GRID = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, **_PATCHES}
_CLIP = {"model_type": "clip_vision_model", **_PIXELS, "projection_dim": 32}
_SIGLIP = {"model_type": "siglip_vision_model", **_PIXELS}

TINY_TOWERS: dict[str, dict[str, Any]] = {
    "llava": {**_IMAGE, **_LAST_LAYER, "vision_config": _CLIP},
    "llava_next": {**_IMAGE, **_LAST_LAYER, "vision_config": _CLIP, "image_grid_pinpoints": [[16, 16]]},
    "mistral3": {
        **_IMAGE,
        **_LAST_LAYER,
        "spatial_merge_size": 1,
        "vision_config": {"model_type": "pixtral", **_PIXELS, "head_dim": 16},
    },
    "internvl": {
        **_IMAGE_ID,
        **_LAST_LAYER,
        "downsample_ratio": 1.0,
        "vision_config": {**_PIXELS, "image_size": [16, 16], "patch_size": [8, 8]},
    },
    "llama4": {
        **_IMAGE,
        "vision_config": {
            **{**_PIXELS, "intermediate_size": 128, "vision_output_dim": 48},
            **{"projector_input_dim": 48, "projector_output_dim": 48},
        },
    },
    "paligemma": {**_IMAGE, "vocab_size": 96, "vision_config": {**_SIGLIP, "vision_use_head": False}},
    "idefics3": {**_IMAGE_ID, "scale_factor": 1, "vision_config": _PIXELS},
    "smolvlm": {**_IMAGE_ID, "scale_factor": 1, "vision_config": _PIXELS},
    "gemma3": {
        **_IMAGE,
        **{"boi_token_index": 91, "eoi_token_index": 92, "mm_tokens_per_image": 4, "vision_config": _SIGLIP},
        "text_config.query_pre_attn_scalar": 16,
    },
    "gemma4": {
        **_IMAGE_ID,
        **_GEMMA_TOKENS,
        "vision_config": {
            **{**_TOWER, "num_key_value_heads": 2, "head_dim": 16, "patch_size": 4, "pooling_kernel_size": 2},
            "position_embedding_size": 16,
        },
    },
    "gemma4_unified": {
        **_IMAGE_ID,
        **_GEMMA_TOKENS,
        "vision_config": {
            **{"patch_size": 4, "pooling_kernel_size": 1, "mm_embed_dim": 32, "mm_posemb_size": 16},
            "output_proj_dims": 32,
        },
    },
    "qwen2_vl": {
        **_IMAGE_ID,
        **_SECTIONS,
        "vision_config": {"depth": 2, "embed_dim": 32, "num_heads": 2, **_PATCHES},
    },
    "qwen2_5_vl": {
        **_IMAGE_ID,
        **_SECTIONS,
        "vision_config": {**_GRID, "window_size": 16, "fullatt_block_indexes": [1]},
    },
    "qwen3_vl": {
        **_IMAGE_ID,
        **_SECTIONS,
        "vision_config": {**_GRID, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    },
    "qwen3_5": {**_IMAGE_ID, **_SECTIONS, "vision_config": {**_GRID, "num_position_embeddings": 16}},
    "glm4v": {
        **_IMAGE_ID,
        "text_config.rope_parameters": {**_SECTIONS["text_config.rope_parameters"], "partial_rotary_factor": 1.0},
        "vision_config": {**_GRID, "image_size": 16},
    },
}
"""model_type of the wrapper → config key → value, "a.b" for b inside a."""
TINY_TOWERS["qwen3_vl_moe"] = TINY_TOWERS["qwen3_vl"]
TINY_TOWERS["qwen3_5_moe"] = TINY_TOWERS["qwen3_5"]
TINY_TOWERS["gemma3n"] = {
    **{"image_token_id": 90, "audio_token_id": 91, "boi_token_id": 92, "eoi_token_id": 93},
    **{"boa_token_id": 94, "eoa_token_id": 95},
}
