"""Growth in the middle of a run: a small Llama is trained by the Trainer, grown at half-way, and trained to the end.

What the optimizer of the clone begins with is compared: nothing, nothing with the rate warmed up again, or the grown
moments. All see the same data in the same order, and go on along the same schedule. Prints the table of
docs/training.md, and draws its plot: `python -m benchmarks.midrun` in tests/, half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from matplotlib import rcParams
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.utils import logging

from benchmarks.convergence.corpus import Corpus, prepare
from hyperclone_cli import expand

STEPS, GROWN_AT, WARM_UP, AGAIN, RATE = 800, 400, 80, 40, 4e-3
BATCH, LENGTH, VOCABULARY = 8, 128, 1024
ARMS = ("weights only", "fresh, warmed up again", "grown moments")
BEFORE = "before the growth"
Curve = dict[int, float]


def schedule(step: int) -> float:
    """Warm-up and a cosine: the part of the peak rate after so many steps."""
    return min(step / WARM_UP, 0.5 * (1 + math.cos(math.pi * step / STEPS)))


class Held(TrainerCallback):  # type: ignore[misc]
    """The held-out loss after every tenth step, every one of the first twenty after the growth, and the last."""

    def __init__(self, windows: torch.Tensor) -> None:
        self.windows, self.curve = windows, Curve()

    def measure(self, model: Any, step: int) -> None:
        with torch.no_grad():
            logits = model(self.windows[:, :-1]).logits
            self.curve[step] = float(cross_entropy(logits.flatten(0, 1), self.windows[:, 1:].flatten()))

    def on_step_end(self, _args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step % 10 == 0 or GROWN_AT < state.global_step <= GROWN_AT + 20:
            self.measure(model, state.global_step)


class Stop(TrainerCallback):  # type: ignore[misc]
    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= GROWN_AT


def train(
    model: Any, corpus: Corpus, out: Path, seed: int, rate: Callable[[int], float], resume: Path | None = None
) -> Curve:
    """Train to the end, or without `resume` to the growth, where a checkpoint is left; returns the held-out losses."""
    starts = corpus.order(1, STEPS * BATCH, LENGTH, seed)[0]
    data = [{"input_ids": one[:-1], "labels": one[:-1]} for one in corpus.windows(starts, LENGTH)]
    held = Held(corpus.validation(32, LENGTH))
    arguments = TrainingArguments(
        str(out), max_steps=STEPS, per_device_train_batch_size=BATCH, save_steps=GROWN_AT, seed=seed, use_cpu=True,
        report_to=[], disable_tqdm=True, logging_strategy="no", max_grad_norm=1.0, dataloader_pin_memory=False,
        save_strategy="no" if resume else "steps",
    )  # fmt: skip
    decays = Trainer.get_decay_parameter_names(None, model)
    groups = [
        {"params": [one for name, one in model.named_parameters() if (name in decays) is wanted], "weight_decay": decay}
        for wanted, decay in ((True, 0.1), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    callbacks = [held, *([] if resume else [Stop()])]
    trainer = Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, scheduler), callbacks=callbacks)
    if resume:
        held.measure(model, GROWN_AT)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return held.curve


def begin(arm: str, clone: Path, out: Path) -> tuple[Path, Callable[[int], float]]:
    """The checkpoint that an arm goes on from, and its schedule; a fresh one counts its steps from the growth."""
    if arm == "grown moments":
        return clone, schedule
    shutil.copytree(clone, out, dirs_exist_ok=True)  # of a run that was cut
    for name in ("optimizer.pt", "scheduler.pt"):
        (out / name).unlink()
    if arm == "weights only":
        return out, lambda step: schedule(GROWN_AT + step)
    return out, lambda step: schedule(GROWN_AT + step) * min(1.0, (step + 1) / AGAIN)


def run(work: Path, strategy: str, seed: int) -> dict[str, Curve]:
    """The curve of the source, under BEFORE, and of every arm."""
    stored = work / f"{strategy}-{seed}.json"
    before = work / f"source-{seed}.json"
    if stored.exists():
        return _curves(before) | _curves(stored)
    corpus = prepare(work / "corpus", "stdlib", VOCABULARY, 4_000_000, None)
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=corpus.vocab_size, hidden_size=48, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=LENGTH, tie_word_embeddings=True,
    )  # fmt: skip
    source = work / f"source-{seed}"
    if not before.exists():
        before.write_text(json.dumps({BEFORE: train(LlamaForCausalLM(config), corpus, source, seed, schedule)}))
    clone = work / f"clone-{strategy}-{seed}"
    expand(
        source / f"checkpoint-{GROWN_AT}", clone, embed_mult=2, ffn_mult=2, strategy=strategy, optimizer=True,
        overwrite=True,
    )  # fmt: skip
    curves: dict[str, Curve] = {}
    for number, arm in enumerate(ARMS):
        resume, rate = begin(arm, clone, work / f"begin-{strategy}-{seed}-{number}")
        model = LlamaForCausalLM.from_pretrained(clone, dtype=torch.float32)
        curves[arm] = train(model, corpus, work / f"out-{strategy}-{seed}-{number}", seed, rate, resume)
    stored.write_text(json.dumps(curves))
    return _curves(before) | curves


def draw(strategies: dict[str, list[dict[str, Curve]]], path: Path) -> None:
    """The held-out loss around the growth, a panel for each strategy: means of the seeds, less that at the growth."""
    drawing = Figure(figsize=(9, 3.6), layout="constrained")
    panels = drawing.subplots(1, len(strategies), sharey=True, squeeze=False)[0]
    for axes, (strategy, curves) in zip(panels, strategies.items(), strict=True):
        for arm, colour in zip((BEFORE, *ARMS), ("black", "C0", "C1", "C2"), strict=True):
            steps = [step for step in curves[0][arm] if GROWN_AT - 60 <= step <= GROWN_AT + 160]
            rises = [[one[arm][step] - one[ARMS[0]][GROWN_AT] for one in curves] for step in steps]
            axes.plot(steps, [fmean(one) for one in rises], color=colour, label=arm, linewidth=1.2)
            axes.fill_between(steps, [min(one) for one in rises], [max(one) for one in rises], color=colour, alpha=0.15)
        axes.axvline(GROWN_AT, color="grey", linewidth=0.8, linestyle=":")
        axes.set_title(f"{strategy}: {len(curves)} seeds", loc="left")
        axes.set_xlabel("steps")
    panels[0].set_ylabel("held-out loss, less that at the growth")
    panels[-1].legend(frameon=False)
    rcParams.update({"svg.hashsalt": "midrun", "svg.fonttype": "none"})  # the same file from the same figures
    drawing.savefig(path, metadata={"Date": None})


def _curves(path: Path) -> dict[str, Curve]:
    return {
        arm: {int(step): loss for step, loss in of_arm.items()} for arm, of_arm in json.loads(path.read_text()).items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo/midrun"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", nargs="+", default=["halving", "symmetric"])
    given = parser.parse_args()
    logging.set_verbosity_error()
    given.work.mkdir(parents=True, exist_ok=True)
    marks = [GROWN_AT + more for more in (1, 5, 20, 100)]
    print(f"| strategy | optimizer | {' | '.join(f'after {mark - GROWN_AT}' for mark in marks)} | worst | end |")
    found: dict[str, list[dict[str, Curve]]] = {}
    for strategy in given.strategies:
        curves = found[strategy] = [run(given.work, strategy, seed) for seed in range(given.seeds)]
        for arm in ARMS:
            of_arm = [one[arm] for one in curves]
            columns = [[curve[mark] - curve[GROWN_AT] for curve in of_arm] for mark in marks]
            columns.append([max(curve.values()) - curve[GROWN_AT] for curve in of_arm])
            ends = [curve[STEPS] for curve in of_arm]
            spread = f" ± {stdev(ends):.3f}" if len(ends) > 1 else ""
            cells = [f"{fmean(column):+.3f}" for column in columns]
            print(f"| `{strategy}` | {arm} | {' | '.join(cells)} | {fmean(ends):.3f}{spread} |", flush=True)
    draw(found, given.work / "midrun.svg")


if __name__ == "__main__":
    main()
