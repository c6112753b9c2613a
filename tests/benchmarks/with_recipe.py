"""The same clone trained with its recipe and without: rates by kind of tensor, and new coordinates that begin slowly.

A small Llama is trained on Python's own library and grown at 2×2. Its clone is trained at one rate for all parameters,
at the rates of the recipe, and with the re-warm-up besides, on the same data in the same order. Prints a row for each:
`python -m benchmarks.with_recipe` in tests/, some minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, set_seed
from transformers.utils import logging

from benchmarks.convergence.corpus import Corpus, prepare
from benchmarks.convergence.presets import CPU
from benchmarks.convergence.training import make_optimizer, train
from hyperclone_cli import expand
from hyperclone_cli.growth.recipe import Recipe
from hyperclone_cli.training import parameter_groups, read_recipe, rewarm_new

PRESET = replace(CPU, eval_every=100, eval_windows=64)
SOURCE_RATE = CPU.source_rate


def with_one_rate(model: Any, _recipe: Recipe, rate: float, _steps: int) -> torch.optim.Optimizer:
    return make_optimizer(model, rate)


def with_rates(model: Any, recipe: Recipe, rate: float, _steps: int) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameter_groups(model, recipe, rate, 0.1), betas=(0.9, 0.95))


def rewarmed(model: Any, recipe: Recipe, rate: float, steps: int) -> torch.optim.Optimizer:
    optimizer = with_rates(model, recipe, rate, steps)
    rewarm_new(optimizer, model, recipe, max(1, round(recipe.warm_up_of_new * steps)))
    return optimizer


ARMS: dict[str, tuple[Callable[..., torch.optim.Optimizer], float]] = {
    "one rate": (with_one_rate, SOURCE_RATE),
    "half of it": (with_one_rate, SOURCE_RATE / 2),
    "rates of the recipe": (with_rates, SOURCE_RATE),
    "and the re-warm-up": (rewarmed, SOURCE_RATE),
}


def source(work: Path, corpus: Corpus, seed: int, steps: int) -> Path:
    """The trained source, made unless it is there."""
    out = work / f"source-{seed}"
    if not (out / "config.json").exists():
        set_seed(seed)
        config = LlamaConfig(
            vocab_size=corpus.vocab_size, hidden_size=48, intermediate_size=128, num_hidden_layers=3,
            num_attention_heads=3, max_position_embeddings=PRESET.length, tie_word_embeddings=True,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        train(model, corpus, PRESET, steps, SOURCE_RATE, seed + 1000, None)
        model.save_pretrained(out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo/with-recipe"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--source-steps", type=int, default=1000)
    parser.add_argument("--strategies", nargs="+", default=["symmetric", "halving"])
    given = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    corpus = prepare(given.work / "corpus", "stdlib", PRESET.vocab_size, 4_000_000, None)
    ends: dict[tuple[str, str], list[float]] = {}
    for seed in range(given.seeds):
        trained = source(given.work, corpus, seed, given.source_steps)
        for strategy in given.strategies:
            clone = given.work / f"clone-{strategy}-{seed}"
            expand(trained, clone, embed_mult=2, ffn_mult=2, strategy=strategy, overwrite=True)
            for arm, (make, rate) in ARMS.items():
                model = LlamaForCausalLM.from_pretrained(clone, dtype=torch.float32)
                optimizer = make(model, read_recipe(clone), rate, given.steps)
                curve = train(model, corpus, PRESET, given.steps, rate, seed, None, optimizer)
                ends.setdefault((strategy, arm), []).append(curve.losses[-1])
                tenth = min(zip(curve.steps, curve.losses, strict=True), key=lambda one: abs(one[0] - given.steps / 10))
                print(
                    f"seed {seed}, {strategy}, {arm}: {curve.losses[0]:.4f}, {tenth[1]:.4f} after {tenth[0]}"
                    f" → {curve.losses[-1]:.4f}",
                    flush=True,
                )
    print("| strategy | optimizer | final loss |\n|---|---|---|")
    for (strategy, arm), losses in ends.items():
        spread = f" ± {stdev(losses):.3f}" if len(losses) > 1 else ""
        print(f"| `{strategy}` | {arm} | {fmean(losses):.3f}{spread} |")


if __name__ == "__main__":
    main()
