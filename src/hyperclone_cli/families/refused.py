"""Architectures that are refused by name: model_type → the reason."""

_SINUSOIDS = "its positions are sinusoids that the code works out from the width, so a wider model has others"
_ENCODER_DECODER = "it is an encoder and a decoder, no causal language model"
_ENCODER = "it reads text in both directions: no causal language model"
_SPEECH = "it reads or writes sound"
_WRAPPER = "it reads more than text"

_ENCODER_DECODERS = (
    "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "encoder-decoder", "fsmt", "led", "longt5", "m2m_100",
    "marian", "mbart", "mt5", "mvp", "nllb-moe", "pegasus", "pegasus_x", "plbart", "prophetnet", "switch_transformers",
    "t5", "t5gemma", "t5gemma2", "udop", "umt5",
)  # fmt: skip
_ENCODERS = (
    "albert", "bert", "bert-generation", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2",
    "distilbert", "electra", "ernie", "esm", "eurobert", "flaubert", "fnet", "funnel", "ibert", "layoutlm",
    "longformer", "luke", "megatron-bert", "mobilebert", "modernbert", "mpnet", "nomic_bert", "nystromformer",
    "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert", "xlm", "xlm-roberta",
    "xlm-roberta-xl", "xlnet", "xmod",
)  # fmt: skip
_SPEECH_MODELS = (
    "canary", "cohere_asr", "dia", "kyutai_speech_to_text", "moonshine", "moshi", "musicgen", "musicgen_melody",
    "pop2piano", "seamless_m4t", "seamless_m4t_v2", "speech-encoder-decoder", "speech_to_text", "speecht5", "whisper",
)  # fmt: skip
_WRAPPERS = {
    "aya_vision": "cohere2",
    "blip": "",
    "blip-2": "opt",
    "chameleon": "",
    "cohere2_vision": "cohere2",
    "deepseek_vl": "llama",
    "emu3": "",
    "ernie4_5_vl_moe": "ernie4_5_moe",
    "exaone4_5": "exaone4",
    "florence2": "",
    "fuyu": "persimmon",
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
    "git": "",
    "glm4v": "glm4",
    "glm4v_moe": "glm4_moe",
    "granite_speech": "granite",
    "idefics": "llama",
    "idefics2": "mistral",
    "idefics3": "llama",
    "instructblip": "",
    "internvl": "qwen2",
    "janus": "llama",
    "kosmos-2": "",
    "llava": "llama",
    "llava_next": "mistral",
    "llava_next_video": "llama",
    "llava_onevision": "qwen2",
    "mistral3": "mistral",
    "mllama": "llama",
    "ovis2": "qwen2",
    "paligemma": "gemma",
    "perception_lm": "llama",
    "phi4_multimodal": "phi3",
    "pix2struct": "",
    "qwen2_5_omni": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_audio": "qwen2",
    "qwen2_vl": "qwen2",
    "qwen3_omni_moe": "qwen3_moe",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "shieldgemma2": "gemma3_text",
    "smolvlm": "llama",
    "trocr": "",
    "video_llava": "llama",
    "vipllava": "llama",
    "vision-encoder-decoder": "",
    "voxtral": "llama",
}
"""model_type → the supported model_type nearest to its language model; empty where there is none."""

REFUSED: dict[str, str] = {
    "xglm": _SINUSOIDS,
    "ctrl": _SINUSOIDS,
    **dict.fromkeys(_ENCODER_DECODERS, _ENCODER_DECODER),
    **dict.fromkeys(_ENCODERS, _ENCODER),
    **dict.fromkeys(_SPEECH_MODELS, _SPEECH),
    **{
        name: _WRAPPER + (f"; of text alone, the nearest is {sibling!r}" if sibling else "")
        for name, sibling in _WRAPPERS.items()
    },
}
