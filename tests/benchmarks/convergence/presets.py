"""What is compared: the shapes, the arms, and what a preset spends on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hyperclone_cli import Mixing


@dataclass(frozen=True)
class Shape:
    """The source's architecture; the larger model has twice its hidden and its feed-forward size.

    config     what AutoConfig.for_model takes; the vocabulary and the context length follow the preset
    """

    model_type: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """One benchmark: every arm on every shape, `seeds` times.

    source_steps   of the source's own training, whose tokens a step are those of the larger model
    source_rate    peak learning rate of that
    steps          of each arm
    rates          peak learning rates: each arm is trained at every one of them on the first seed, and at that which
                   ended with the lowest loss on the others. Shorter trials would favour rates that forget little
    warmup         the part of a schedule in which the rate rises
    batch, length  sequences a step, tokens a sequence
    eval_every     steps between evaluations; the first ones are closer together
    eval_windows   held-out sequences that an evaluation reads
    probes         times that the copies are measured in a run, the start apart
    corpus         "stdlib" or "installed", see corpus.py
    max_bytes      of text that is read; None: all
    """

    shapes: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: int
    source_steps: int
    source_rate: float
    steps: int
    rates: tuple[float, ...]
    batch: int
    length: int
    vocab_size: int
    eval_every: int
    eval_windows: int
    warmup: float = 0.1
    probes: int = 12
    corpus: str = "stdlib"
    max_bytes: int | None = None


PRETRAINED = "pretrained"
"""The shape of a source that is not trained here but given, with its own tokenizer."""

OPT: dict[str, Any] = {
    "hidden_size": 48,
    "word_embed_proj_dim": 48,
    "ffn_dim": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
}

SHAPES: dict[str, Shape] = {
    "llama-tiny": Shape(
        "llama",
        {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"tie_word_embeddings": True},
    ),
    "llama": Shape(
        "llama",
        {"hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 3}
        | {"tie_word_embeddings": True},
    ),
    "opt-dropout": Shape("opt", OPT | {"dropout": 0.1}),
    "opt": Shape("opt", OPT | {"dropout": 0.0}),
    "pythia": Shape(
        "gpt_neox",
        {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3},
    ),
    "llama-12m": Shape(
        "llama",
        {"hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 8, "num_attention_heads": 5}
        | {"tie_word_embeddings": True},
    ),
}

SOURCE, RANDOM = "source", "random"

CLONES: dict[str, Mixing] = {
    "symmetric": Mixing("symmetric"),
    "symmetric + 10 dB": Mixing("symmetric", noise_snr_db=10.0),
    "uneven 1:2": Mixing("uneven"),
    "uneven 1:2 + 10 dB": Mixing("uneven", noise_snr_db=10.0),
    "diagonal": Mixing("diagonal"),
    "diagonal + 10 dB": Mixing("diagonal", noise_snr_db=10.0),
    "halving": Mixing("halving"),
    "halving + 10 dB": Mixing("halving", noise_snr_db=10.0),
}
"""Arm → the strategy and the noise of its clones."""

ARMS = (RANDOM, *CLONES)

CPU = Preset(
    shapes=("llama",),
    arms=ARMS,
    seeds=3,
    source_steps=3000,  # 23 tokens for each of its 132,000 parameters
    source_rate=8e-3,
    steps=1500,
    rates=(2e-3, 4e-3, 8e-3),
    batch=8,
    length=128,
    vocab_size=1024,
    eval_every=50,
    eval_windows=128,
)

SMOLLM2 = Preset(
    shapes=(PRETRAINED,),
    arms=(RANDOM, "symmetric", "symmetric + 10 dB", "uneven 1:2", "halving"),
    seeds=1,
    source_steps=0,
    source_rate=0.0,
    steps=500,
    rates=(1e-4, 3e-4),
    batch=16,
    length=512,
    vocab_size=0,
    eval_every=25,
    eval_windows=128,
    probes=2,
    corpus="installed",
)

PRESETS: dict[str, Preset] = {
    "smoke": Preset(
        shapes=("llama-tiny",),
        arms=ARMS,
        seeds=1,
        source_steps=20,
        source_rate=1e-2,
        steps=10,
        rates=(3e-3, 1e-2),
        batch=4,
        length=32,
        vocab_size=320,
        eval_every=5,
        eval_windows=8,
        probes=1,
        max_bytes=1_000_000,
    ),
    "cpu": CPU,
    "cpu-shapes": replace(CPU, shapes=("opt-dropout", "opt", "pythia"), seeds=1, source_steps=2000, steps=1000),
    "gpu": Preset(
        shapes=("llama-12m",),
        arms=ARMS,
        seeds=1,
        source_steps=7800,  # 20 tokens for each of its 12.5 million parameters
        source_rate=2e-3,
        steps=2000,
        rates=(1e-3, 2e-3),
        batch=64,
        length=512,
        vocab_size=8192,
        eval_every=50,
        eval_windows=256,
        corpus="installed",
    ),
    "smollm2": SMOLLM2,
    "smollm2-cpu": replace(
        SMOLLM2,
        arms=(RANDOM, "symmetric", "halving"),
        steps=40,  # 512 tokens each: enough to see what is forgotten and how the copies begin to part, no more
        batch=2,
        length=256,
        eval_every=10,
        eval_windows=8,
        probes=1,
        corpus="stdlib",
    ),
}
