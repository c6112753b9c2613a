"""Every run of a preset, each kept as one JSON file, so that a benchmark that was interrupted goes on where it stopped.

Below the work directory: corpus/, sources/, clones/ and trained/ hold checkpoints, runs/ the records.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from benchmarks.convergence.copies import make_probe
from benchmarks.convergence.corpus import Corpus, prepare
from benchmarks.convergence.padded import pad_into
from benchmarks.convergence.presets import (
    CLONES,
    CONTINUED,
    PADDED,
    PRETRAINED,
    RANDOM,
    RANDOMS,
    SHAPES,
    SOURCE,
    STRATEGIES,
    Preset,
)
from benchmarks.convergence.training import Curve, train
from hyperclone_cli import Request, expand, plan

Log = Callable[[str], None]


_MAY_GROW = ("shapes", "arms", "rates", "seeds", "schedules", "longer", "keep")
"""Settings of which a work directory may get more."""


@dataclass(frozen=True)
class Bench:
    """A preset, where it works, and what it runs on. `source` is the given checkpoint of the shape "pretrained"."""

    preset: Preset
    work: Path
    device: str
    source: Path | None = None

    def corpus(self) -> Corpus:
        tokenizer = self.source / "tokenizer.json" if self.source else None
        preset = self.preset
        return prepare(self.work / "corpus", preset.corpus, preset.vocab_size, preset.max_bytes, tokenizer)

    def source_of(self, shape: str, seed: int) -> Path:
        if shape == PRETRAINED:
            assert self.source is not None
            return self.source
        return self.work / "sources" / f"{_slug(shape)}-seed{seed}"

    def clone_of(self, shape: str, arm: str, seed: int) -> Path:
        return self.work / "clones" / f"{_slug(shape)}-{_slug(arm)}-seed{seed}"


@dataclass(frozen=True)
class Run:
    """One model trained once, at the peak `rate`."""

    shape: str
    arm: str
    seed: int
    rate: float
    steps: int

    @property
    def name(self) -> str:
        return f"{_slug(self.shape)}-{_slug(self.arm)}-seed{self.seed}-rate{self.rate:g}-steps{self.steps}"

    def path(self, work: Path) -> Path:
        """Of the record."""
        return work / "runs" / f"{self.name}.json"


def complete(bench: Bench, jobs: int, log: Log) -> None:
    """Do every run of the preset that has no record yet: sources, then clones of them, then the arms.

    `jobs` runs at a time, each in a process of its own with its part of the processors.
    Raises SystemExit if the work directory holds records of other settings.
    """
    preset = bench.preset
    check_settings(bench, bench.corpus())
    execute_all(bench, [run for shape in preset.shapes for run in runs_of(bench, shape, SOURCE)], jobs, log)
    make_clones(bench, log)
    for wanted in (all_trials, scheduled):  # the trials are runs of the first seed too
        execute_all(
            bench,
            [run for shape in preset.shapes for arm in preset.arms for run in wanted(bench, shape, arm)],
            jobs,
            log,
        )


def check_settings(bench: Bench, corpus: Corpus) -> None:
    """Write down what the records depend on, or refuse to mix them with those of something else."""
    preset = {key: value for key, value in asdict(bench.preset).items() if key not in _MAY_GROW}
    shapes = {name: asdict(shape) for name, shape in SHAPES.items()}
    settings = {"preset": preset, "shapes": shapes, "corpus": corpus.digest, "device": bench.device}
    path = bench.work / "settings.json"
    if not path.exists():
        _write(path, settings)
    elif json.loads(path.read_text()) != json.loads(json.dumps(settings)):
        raise SystemExit(f"{path}: other settings or another corpus than now. Delete {bench.work}, or choose a --work.")


def trials(bench: Bench, shape: str, arm: str, steps: int) -> list[Run]:
    """An arm at every rate, on the first seed."""
    return [Run(_trained_as(shape, arm), arm, 0, rate, steps) for rate in bench.preset.rates]


def all_trials(bench: Bench, shape: str, arm: str) -> list[Run]:
    """Those of every length that rates are tried on: the preset's own, and the longest, which asks for other rates."""
    return [run for steps in tried_lengths(bench, arm) for run in trials(bench, shape, arm, steps)]


def tried_lengths(bench: Bench, arm: str) -> list[int]:
    """Steps of the schedules that every rate is tried on, the shorter first."""
    return sorted({bench.preset.steps, lengths(bench, arm)[-1]})


def lengths(bench: Bench, arm: str) -> list[int]:
    """Steps of the complete schedules that an arm is trained on, the shortest first."""
    preset = bench.preset
    parts = (*preset.schedules, *preset.longer) if arm == CONTINUED else preset.schedules
    return sorted({preset.steps, *(round(part * preset.steps) for part in parts)})


def runs_of(bench: Bench, shape: str, arm: str, steps: int | None = None) -> list[Run]:
    """The runs of a source, or of an arm at its best rate; one a seed.

    steps   of an arm: None are those of the preset
    """
    preset = bench.preset
    if arm == SOURCE:
        return [Run(shape, arm, seed, preset.source_rate, source_steps(bench, shape)) for seed in range(preset.seeds)]
    steps = steps or preset.steps
    rate = best_rate(bench, shape, arm, steps)
    return [Run(_trained_as(shape, arm), arm, seed, rate, steps) for seed in range(preset.seeds)]


def source_steps(bench: Bench, shape: str) -> int:
    """Steps of the source's own training; 0 where it was given."""
    own = SHAPES[shape].source_steps if shape in SHAPES else None
    return bench.preset.source_steps if own is None else own


def _trained_as(shape: str, arm: str) -> str:
    """The shape that an arm is recorded under: random starts are those of all sources of one architecture."""
    return (SHAPES[shape].random_as if arm in RANDOMS and shape in SHAPES else None) or shape


def scheduled(bench: Bench, shape: str, arm: str) -> list[Run]:
    """The runs on complete schedules of every length, the shortest first, those of all seeds together."""
    return [run for steps in lengths(bench, arm) for run in runs_of(bench, shape, arm, steps)]


def best_rate(bench: Bench, shape: str, arm: str, steps: int) -> float:
    """The rate whose trial ended with the lowest loss, of the trials as long as `steps` or the next longer ones."""
    tried = min(length for length in tried_lengths(bench, arm) if length >= steps)
    runs = trials(bench, shape, arm, tried)
    return min(runs, key=lambda run: _or_infinity(read_curve(run.path(bench.work)).losses[-1])).rate


def make_clones(bench: Bench, log: Log) -> None:
    """Every clone that is not there yet, by hyperclone's own `expand`."""
    for shape in bench.preset.shapes:
        for arm in bench.preset.arms:
            for seed in range(bench.preset.seeds):
                out = bench.clone_of(shape, arm, seed)
                if arm in CLONES and not out.exists():
                    log(f"Expanding {out}")
                    out.parent.mkdir(exist_ok=True)
                    expand(bench.source_of(shape, seed), out, clone_request(arm, seed))


def clone_request(arm: str, seed: int) -> Request:
    """What makes an arm's clone. In float32 also where the source is not: there noise costs no precision."""
    request = CLONES[arm]
    return replace(request, mixing=replace(request.mixing, seed=seed), dtype="float32")


def execute_all(bench: Bench, runs: list[Run], jobs: int, log: Log) -> None:
    """Execute the runs that have no record, `jobs` at a time."""
    waiting = [run for run in dict.fromkeys(runs) if not run.path(bench.work).exists()]

    def report(number: int, run: Run) -> None:
        curve = read_curve(run.path(bench.work))
        log(
            f"{number} of {len(waiting)}: {run.shape}, {run.arm}, seed {run.seed}, rate {run.rate:g}, {run.steps} steps"
            f": {curve.losses[0]:.4f} → {curve.losses[-1]:.4f} in {curve.seconds:.0f} s"
        )

    if jobs == 1:
        for number, run in enumerate(waiting, 1):
            execute(bench, run)
            report(number, run)
    elif waiting:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context, begin_worker, (threads,)) as pool:
            futures = {pool.submit(execute, bench, run): run for run in waiting}
            try:
                for number, future in enumerate(as_completed(futures), 1):
                    future.result()
                    report(number, futures[future])
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # what runs may finish, and is kept
                raise


def begin_worker(threads: int) -> None:
    """Give a process its part of the processors, and let Ctrl-C end it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)


def execute(bench: Bench, run: Run) -> None:
    """Build the run's model, train it and write its record; keep the model if it is a source, or all are kept."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    preset, corpus = bench.preset, bench.corpus()
    source = bench.source_of(run.shape, run.seed)
    model = build(bench, run, corpus).to(bench.device)
    if preset.fast:
        torch._dynamo.config.recompile_limit = 64  # shapes of models are more than the 8 that a function may have
        model.set_attn_implementation(
            "eager"
        )  # matrix products, which compilers know, rather than a kernel for long texts
    probe = None
    if run.arm in STRATEGIES:
        ids = corpus.validation(preset.batch, preset.length)[:, :-1]
        probe = make_probe(plan(source, clone_request(run.arm, run.seed)), ids)
    order = run.seed + (1000 if run.arm == SOURCE else 0)  # the larger models do not see the source's batches again
    curve = train(model, corpus, preset, run.steps, run.rate, order, probe)
    if run.arm == SOURCE and run.shape != PRETRAINED:
        _save(model, corpus.tokenizer, source)
    elif preset.keep:
        _save(model, corpus.tokenizer, bench.work / "trained" / run.name)
    _write(run.path(bench.work), {"run": asdict(run), "curve": asdict(curve)})


def build(bench: Bench, run: Run, corpus: Corpus) -> PreTrainedModel:
    """The model that the run starts from, in float32."""
    source = bench.source_of(run.shape, run.seed)
    if run.arm in CLONES:
        return AutoModelForCausalLM.from_pretrained(bench.clone_of(run.shape, run.arm, run.seed), dtype=torch.float32)
    if run.arm == CONTINUED or (run.arm == SOURCE and run.shape == PRETRAINED):
        return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    if run.arm == SOURCE:
        config = source_config(bench, run.shape, corpus)
    else:
        config = dict(plan(source, RANDOMS.get(run.arm, RANDOMS[RANDOM])).config)
    torch.manual_seed(run.seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32)
    if run.arm in PADDED:
        pad_into(model, AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), PADDED[run.arm])
    return model


def source_config(bench: Bench, shape: str, corpus: Corpus) -> dict[str, Any]:
    """The source's config.json, as far as it differs from its architecture's defaults."""
    return {
        "model_type": SHAPES[shape].model_type,
        **SHAPES[shape].config,
        "vocab_size": corpus.vocab_size,
        "max_position_embeddings": bench.preset.length,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,  # a padding token would not be trained
    }


def read_curve(path: Path) -> Curve:
    curve = Curve(**json.loads(path.read_text())["curve"])
    curve.copies = {int(step): figures for step, figures in curve.copies.items()}
    return curve


def _save(model: PreTrainedModel, tokenizer: Path, directory: Path) -> None:
    """Replaces what a run left that was stopped before it wrote its record."""
    partial = directory.with_suffix(".partial")
    for old in (partial, directory):
        shutil.rmtree(old, ignore_errors=True)
    model.save_pretrained(partial)
    shutil.copy(tokenizer, partial)
    partial.rename(directory)


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, path)


def _slug(arm: str) -> str:
    return "".join(letter for letter in arm.replace(":", "-") if letter not in " +")


def _or_infinity(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss
