"""Architectures that are refused by name: model_type → the reason."""

_SINUSOIDS = "its positions are sinusoids that the code works out from the width, so a wider model has others"
_ENCODER_DECODER = "it is an encoder and a decoder, no causal language model"
_ENCODER = "it reads text in both directions: no causal language model"
_SPEECH = "it reads or writes sound"
_WRAPPER = "it reads more than text"
_DRAFT = "it drafts tokens for another model, whose embeddings, keys and values it reads: it computes nothing by itself"
_FOUR = "it is four models of bytes and patches, each with a width of its own, and a request names one"
_HASHES = "its attention hashes with random rotations, drawn anew for each number of heads, so a wider model has others"

_ENCODER_DECODERS = (
    "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "encoder-decoder", "fsmt", "led", "longt5", "m2m_100",
    "marian", "mbart", "mt5", "mvp", "nllb-moe", "pegasus", "pegasus_x", "plbart", "prophetnet", "switch_transformers",
    "t5", "t5gemma", "t5gemma2", "udop", "umt5",
)  # fmt: skip
_ENCODERS = (
    "albert", "bert", "bert-generation", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2",
    "cpmant", "distilbert", "electra", "ernie", "esm", "eurobert", "flaubert", "fnet", "funnel", "ibert", "layoutlm",
    "longformer", "luke", "megatron-bert", "mobilebert", "modernbert", "mpnet", "nomic_bert", "nystromformer",
    "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert", "xlm", "xlm-roberta",
    "xlm-roberta-xl", "xlnet", "xmod",
)  # fmt: skip
_SPEECH_MODELS = (
    "canary", "cohere_asr", "dia", "kyutai_speech_to_text", "moonshine", "moshi", "moss_transcribe_diarize", "musicgen",
    "musicgen_melody",
    "pop2piano", "seamless_m4t", "seamless_m4t_v2", "speech-encoder-decoder", "speech_to_text", "speecht5", "whisper",
)  # fmt: skip
_WRAPPERS = {
    "": ("blip chameleon emu3 florence2 git instructblip kosmos-2 pix2struct trocr vision-encoder-decoder"),
    "cohere2": "aya_vision cohere2_vision",
    "dots3_note_text": "dots3_note",
    "ernie4_5_moe": "ernie4_5_vl_moe",
    "exaone4": "exaone4_5",
    "gemma3_text": "shieldgemma2",
    "glm4_moe": "glm4v_moe",
    "granite": "granite_speech",
    "inkling2_loop_text": "inkling2_loop",
    "inkling2_text": "inkling2",
    "inkling_text": "inkling_mm_model",
    "llama": "deepseek_vl idefics janus llava_next_video mllama perception_lm video_llava vipllava voxtral",
    "mistral": "idefics2",
    "opt": "blip-2",
    "persimmon": "fuyu",
    "phi3": "phi4_multimodal",
    "qwen2": "got_ocr2 llava_onevision ovis2 qwen2_5_omni qwen2_audio",
    "qwen3_moe": "qwen3_omni_moe",
    "qwen4_exp_text": "qwen4_exp",
}
"""The supported model_type nearest to the language model inside, or "" for none → architectures, in one string."""

REFUSED: dict[str, str] = {
    "xglm": _SINUSOIDS,
    "ctrl": _SINUSOIDS,
    "gemma4_assistant": _DRAFT,
    "gemma4_unified_assistant": _DRAFT,
    "blt": _FOUR,
    "reformer": _HASHES,
    **dict.fromkeys(_ENCODER_DECODERS, _ENCODER_DECODER),
    **dict.fromkeys(_ENCODERS, _ENCODER),
    **dict.fromkeys(_SPEECH_MODELS, _SPEECH),
    **{
        name: _WRAPPER + (f"; of text alone, the nearest is {sibling!r}" if sibling else "")
        for name, sibling in sorted((name, sibling) for sibling, names in _WRAPPERS.items() for name in names.split())
    },
}
