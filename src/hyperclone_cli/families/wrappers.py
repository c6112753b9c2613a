"""The wrappers: models of text, pictures and sound, each around a text model that has a table of its own."""

from dataclasses import replace
from typing import Any

from hyperclone_cli.families.blocks import sizes
from hyperclone_cli.families.glm import GLM4
from hyperclone_cli.families.llama import QWEN2, QWEN3
from hyperclone_cli.families.qwen_moe import QWEN3_MOE
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.vocabulary import (
    bare,
    conv1d,
    convolution,
    either_way,
    in_layers,
    linear,
    norm,
    optional,
    parameter,
    stacked,
)
from hyperclone_cli.families.wrapper import CURRENT, PUBLISHED, Naming, Wrapper

_PICTURES = ("vision_tower", "multi_modal_projector")
_TWO_LINEAR = {
    "multi_modal_projector.linear_1": linear("projector", "*"),
    "multi_modal_projector.linear_2": linear("embed", "projector"),
}
_SECTIONS = Limit("head_dim", "its rotary positions come in sections, for time, height and width")

_PLAIN_HEAD: dict[str, dict[str, Any]] = {
    "gemma2": {"final_logit_softcapping": None},
    "granite": {"logits_scaling": 1.0},
    "cohere": {"logit_scale": 1.0},
    "cohere2": {"logit_scale": 1.0},
}
"""Text models whose logits are scaled or capped, but not in a wrapper."""

LLAVA = Wrapper(
    "llava",
    known_as="LLaVA 1.5",
    text="llama",
    towers=_PICTURES,
    joins=_TWO_LINEAR,
    tie_inside=True,
    alone=_PLAIN_HEAD,
)
LLAVA_NEXT = replace(
    LLAVA,
    model_type="llava_next",
    pixels="tiles",
    known_as="LLaVA 1.6",
    joins={**_TWO_LINEAR, "image_newline": parameter("embed")},
    tie_inside=False,
)
MISTRAL3 = replace(
    LLAVA,
    model_type="mistral3",
    pixels="sized",
    known_as="Mistral Small 3.1 and 3.2",
    text="mistral",
    tied=True,
    tie_inside=False,
)
INTERNVL = replace(
    LLAVA,
    model_type="internvl",
    known_as="InternVL 3, in transformers' layout",
    text="qwen2",
    tied=True,
    tie_inside=False,
)
LLAMA4 = Wrapper(
    "llama4",
    known_as="Llama 4 Scout and Maverick",
    text="llama4_text",
    towers=("vision_model", "multi_modal_projector"),
    joins={"multi_modal_projector.linear_1": linear("embed", "*")},
    namings=(PUBLISHED,),
)
PALIGEMMA = Wrapper(
    "paligemma",
    known_as="PaliGemma 1 and 2",
    text="gemma",
    towers=_PICTURES,
    joins={"multi_modal_projector.linear": linear("embed", "*")},
    widths=("projection_dim", "vision_config.projection_dim", "hidden_size"),
    tied=True,
)
GEMMA3 = Wrapper(
    "gemma3",
    known_as="Gemma 3 4B to 27B",
    text="gemma3_text",
    towers=_PICTURES,
    joins={"multi_modal_projector.mm_input_projection_weight": bare(conv1d("*", "embed"))},
    tied=True,
)
GEMMA3N = Wrapper(
    "gemma3n",
    known_as="Gemma 3n E2B and E4B",
    reads_text=True,
    text="gemma3n_text",
    towers=("vision_tower", "embed_vision", "audio_tower", "embed_audio"),
    joins={f"{name}.embedding_projection": linear("embed", "*") for name in ("embed_vision", "embed_audio")},
    namings=(CURRENT,),
    tied=True,
)
GEMMA4 = replace(
    GEMMA3N,
    model_type="gemma4",
    pixels="placed",
    known_as="Gemma 4 E2B to 31B",
    text="gemma4_text",
    reads_text=False,
    joins={module: optional(form) for module, form in GEMMA3N.joins.items()},
)
GEMMA4_UNIFIED = replace(
    GEMMA4,
    model_type="gemma4_unified",
    known_as="Gemma 4 Unified",
    text="gemma4_unified_text",
    towers=("vision_embedder", "embed_vision", "embed_audio"),
    joins={**GEMMA4.joins, "embed_vision.multimodal_embedder.embedding_projection": optional(linear("embed", "*"))},
)
IDEFICS3 = Wrapper(
    "idefics3",
    pixels="frames",
    known_as="Idefics 3, SmolVLM",
    text="llama",
    towers=("vision_model", "connector"),
    joins={"connector.modality_projection.proj": linear("embed", "*")},
    namings=(Naming("model.text_model", others="model."),),
    alone=_PLAIN_HEAD,
)
SMOLVLM = replace(IDEFICS3, model_type="smolvlm", known_as="SmolVLM 2")

_VISUAL = Naming("model", others="")
"""The text model as if it were alone, and its tower beside it."""
_IMPLIED_HEADS = sizes("head_dim")

QWEN2_VL = Wrapper(
    "qwen2_vl",
    pixels="grid",
    known_as="Qwen2-VL",
    text="qwen2_vl_text",
    texts={"qwen2_vl_text": (replace(QWEN2, sizes=_IMPLIED_HEADS),)},
    towers=("visual",),
    joins={"visual.merger.mlp.2": linear("embed", "*")},
    namings=(CURRENT, _VISUAL),
    flat=True,
    widths=("vision_config.hidden_size",),
    tie_inside=True,
    limits=(_SECTIONS,),
)
QWEN2_5_VL = replace(
    QWEN2_VL,
    model_type="qwen2_5_vl",
    known_as="Qwen2.5-VL",
    text="qwen2_5_vl_text",
    texts={"qwen2_5_vl_text": QWEN2_VL.texts["qwen2_vl_text"]},
    widths=("vision_config.out_hidden_size",),
)
_MERGER = {"visual.merger.linear_fc2": linear("embed", "*")}
_DEEPSTACK = {f"visual.deepstack_merger_list.{n}.linear_fc2": optional(linear("embed", "*")) for n in range(8)}
QWEN3_VL = replace(
    QWEN2_5_VL,
    model_type="qwen3_vl",
    known_as="Qwen3-VL",
    text="qwen3_vl_text",
    texts={"qwen3_vl_text": (QWEN3,)},
    joins=_MERGER | _DEEPSTACK,
    namings=(CURRENT,),
    flat=False,
    tie_inside=False,
    limits=(_SECTIONS, Limit("between", "where features of a picture are added after the first layers")),
)
_EXPERTS = "model.layers.*.mlp.experts"
_QWEN3_VL_MOE_TEXT = QWEN3_MOE.without(
    *(module for module in QWEN3_MOE.tensors if module.startswith(_EXPERTS))
).variant(
    "qwen3_moe",
    tensors=in_layers(
        "experts",
        {
            f"{_EXPERTS}.gate_up_proj": either_way(stacked(bare(linear("experts moe_ffn+moe_ffn", "embed")))),
            f"{_EXPERTS}.down_proj": either_way(stacked(bare(linear("experts embed", "moe_ffn")))),
        },
    ),
)
QWEN3_VL_MOE = replace(
    QWEN3_VL,
    model_type="qwen3_vl_moe",
    known_as="Qwen3-VL 30B-A3B and 235B-A22B",
    text="qwen3_vl_moe_text",
    texts={"qwen3_vl_moe_text": (_QWEN3_VL_MOE_TEXT,)},
    alone={"qwen3_moe": {"norm_topk_prob": True}},
)
QWEN3_5 = replace(
    QWEN3_VL,
    model_type="qwen3_5",
    known_as="Qwen 3.5 and 3.6",
    text="qwen3_5_text",
    texts={},
    joins=_MERGER,
    reads_text=True,
    limits=(_SECTIONS,),
)
QWEN3_5_MOE = replace(QWEN3_5, model_type="qwen3_5_moe", known_as="Qwen 3.5 MoE", text="qwen3_5_moe_text")
_GATE_UP = ("gate_proj", "up_proj")
GLM4V = replace(
    QWEN2_5_VL,
    model_type="glm4v",
    known_as="GLM-4.1V 9B",
    text="glm4v_text",
    texts={"glm4v_text": (replace(GLM4, sizes=_IMPLIED_HEADS),)},
    joins={
        "visual.downsample": convolution("projector", 4),
        # its blocks' feed-forward, too, has the width of the text model
        **{f"visual.blocks.{n}.mlp.{name}": optional(linear("projector", "*")) for n in range(64) for name in _GATE_UP},
        **{f"visual.blocks.{n}.mlp.down_proj": optional(linear("*", "projector")) for n in range(64)},
        "visual.merger.proj": linear("projector", "projector"),
        "visual.merger.post_projection_norm": norm("projector"),
        **{f"visual.merger.{name}": linear("*", "projector") for name in _GATE_UP},
        "visual.merger.down_proj": linear("embed", "*"),
    },
    namings=(CURRENT,),
    flat=False,
    alone={"glm4": {"attention_bias": True}},
    limits=(_SECTIONS, Limit("pads", "where a norm spans the width of the text model in what joins pictures to it")),
)

WRAPPERS = {
    wrapper.model_type: wrapper
    for wrapper in (
        *(LLAVA, LLAVA_NEXT, MISTRAL3, INTERNVL, LLAMA4, PALIGEMMA, IDEFICS3, SMOLVLM),
        *(GEMMA3, GEMMA3N, GEMMA4, GEMMA4_UNIFIED),
        *(QWEN2_VL, QWEN2_5_VL, QWEN3_VL, QWEN3_VL_MOE, QWEN3_5, QWEN3_5_MOE, GLM4V),
    )
}
"""model_type → wrapper."""
