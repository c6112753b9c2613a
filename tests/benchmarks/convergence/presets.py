"""What is compared: the shapes, the arms, and what a preset spends on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hyperclone_cli import Mixing, Request
from hyperclone_cli.growth.strategies import Strategy


@dataclass(frozen=True)
class Shape:
    """The source's architecture; the larger models are wider, deeper, or both.

    config         what AutoConfig.for_model takes; the vocabulary and the context length follow the preset
    source_steps   of the source's own training; None: what the preset says
    random_as      the shape whose random starts are this one's too, since only their sources differ; None: its own
    """

    model_type: str
    config: Mapping[str, Any]
    source_steps: int | None = None
    random_as: str | None = None


@dataclass(frozen=True)
class Preset:
    """One benchmark: every arm on every shape, `seeds` times.

    source_steps   of the source's own training, whose tokens a step are those of the larger model
    source_rate    peak learning rate of that
    steps          of each arm
    rates          peak learning rates: each arm is trained at every one of them on the first seed, and at that which
                   ended with the lowest loss on the others. Shorter trials would favour rates that forget little, so
                   schedules longer than `steps` have the rate that is best on the longest
    warmup         the part of a schedule in which the rate rises
    batch, length  sequences a step, tokens a sequence
    eval_every     steps between evaluations; the first ones are closer together
    eval_windows   held-out sequences that an evaluation reads
    probes         times that the copies are measured in a run, the start apart
    fast           training in bfloat16 by autocast on a CPU too, and compiled, for which a C++ compiler is needed;
                   evaluations stay in float32
    schedules      lengths of complete schedules, as parts of `steps`, on which each arm is trained besides, at its best
                   rate: what a run reaches in half its steps says little of a run of half as many
    longer         more of them for the source that is trained on, a step of which costs a third of a clone's
    keep           the trained models are kept too, which downstream.py can ask
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
    fast: bool = False
    schedules: tuple[float, ...] = ()
    longer: tuple[float, ...] = ()
    keep: bool = False
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

EVEN_HEADS = Shape(
    "llama",
    {"hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
    | {"tie_word_embeddings": True},
)
"""The Llama below with two heads, which can grow to one and a half times as many. 132,432 parameters."""

SHORT, MIDDLE, LONG = (f"llama, {tokens} tokens a parameter" for tokens in (4, 16, 64))
"""One source trained for so long, three times: real ones are trained on far more than would be best for their size."""

SHAPES: dict[str, Shape] = {
    SHORT: replace(EVEN_HEADS, source_steps=517),
    MIDDLE: replace(EVEN_HEADS, source_steps=2069, random_as=SHORT),
    LONG: replace(EVEN_HEADS, source_steps=8277, random_as=SHORT),
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

SOURCE, RANDOM, CONTINUED = "source", "random", "source, trained on"

WIDER, DEEPER = Request(embed_mult=2, ffn_mult=2), Request(depth_mult=4)
LARGER = Request(embed_mult=1.5, ffn_mult=1.5, depth_mult=2)
"""Their FLOPs a token are 3.3, 2.9 and 3.4 times those of the shape that they are compared on, EVEN_HEADS."""

RANDOMS: dict[str, Request] = {RANDOM: WIDER, "random, deeper": DEEPER, "random, larger": LARGER}
"""Random starts, each of the shape that a request makes of the source's."""


def _wider(strategy: Strategy, noise_snr_db: float | None = None) -> Request:
    return replace(WIDER, mixing=Mixing(strategy, noise_snr_db=noise_snr_db))


STRATEGIES: dict[str, Request] = {
    "symmetric": _wider("symmetric"),
    "symmetric + 10 dB": _wider("symmetric", 10.0),
    "uneven 1:2": _wider("uneven"),
    "uneven 1:2 + 10 dB": _wider("uneven", 10.0),
    "diagonal": _wider("diagonal"),
    "diagonal + 10 dB": _wider("diagonal", 10.0),
    "halving": _wider("halving"),
    "halving + 10 dB": _wider("halving", 10.0),
}
"""Arm → the request for its clones, which are wider."""

CLONES: dict[str, Request] = STRATEGIES | {
    "deeper": DEEPER,
    "deeper, top": replace(DEEPER, depth_order="top"),
    "deeper, stack": replace(DEEPER, depth_order="stack"),
    "deeper, copies": replace(DEEPER, depth_order="stack", depth_init="copy"),
    "larger": LARGER,
    "larger, copies": replace(LARGER, depth_order="stack", depth_init="copy"),
}
"""The same of all clones: deeper ones, and ones that are both; "copies" do not keep the function."""

PADDED: dict[str, float] = {"padded, the rest random": 1.0, "shrunk, padded, perturbed": 0.4}
"""Wider starts that do not keep the function, see padded.py: arm → what the source's weights are multiplied by."""

ARMS = (*RANDOMS, CONTINUED, *CLONES, *PADDED)
WIDTH_ARMS = (RANDOM, *STRATEGIES)
BREAK_EVEN_ARMS = (RANDOM, "random, deeper", CONTINUED, "halving", "deeper", "deeper, copies")
GROWTH_ARMS = (
    *BREAK_EVEN_ARMS,
    *("random, larger", "symmetric", "symmetric + 10 dB", "diagonal", *PADDED),
    *("deeper, top", "deeper, stack", "larger", "larger, copies"),
)


def baseline(arm: str) -> str:
    """The random start that an arm is held against: that of its own shape; of the source's shape there is none."""
    request = RANDOMS.get(arm) or CLONES.get(arm) or WIDER
    return next(name for name, shape in RANDOMS.items() if _factors(shape) == _factors(request))


def _factors(request: Request) -> tuple[float | None, ...]:
    return request.embed_mult, request.ffn_mult, request.depth_mult


CPU = Preset(
    shapes=("llama",),
    arms=WIDTH_ARMS,
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

GROWTH = replace(
    CPU,
    shapes=(SHORT, MIDDLE, LONG),
    arms=BREAK_EVEN_ARMS,
    steps=600,
    rates=(1e-3, 2e-3, 4e-3, 8e-3),
    eval_every=100,
    probes=2,
    fast=True,
    schedules=(0.25, 0.5),
    longer=(2.0, 4.0),
    keep=True,
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
        arms=(
            *(*RANDOMS, CONTINUED, "symmetric", "symmetric + 10 dB", "diagonal", "halving", "deeper", "larger, copies"),
            *PADDED,
        ),
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
        schedules=(0.5,),
        longer=(2.0, 4.0),
        keep=True,
    ),
    "cpu": CPU,
    "cpu-shapes": replace(CPU, shapes=("opt-dropout", "opt", "pythia"), seeds=1, source_steps=2000, steps=1000),
    "growth": GROWTH,
    "growth-long": replace(
        GROWTH,
        shapes=(MIDDLE, LONG),
        arms=(RANDOM, CONTINUED, "halving"),
        schedules=(0.25, 0.5, 2.0, 4.0),
        longer=(8.0, 13.1),
    ),
    "growth-arms": replace(GROWTH, shapes=(MIDDLE,), arms=GROWTH_ARMS, rates=CPU.rates, schedules=()),
    "gpu": Preset(
        shapes=("llama-12m",),
        arms=WIDTH_ARMS,
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
