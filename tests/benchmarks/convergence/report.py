"""The figures for people, and all there is for programs."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from benchmarks.convergence.presets import PRETRAINED, SHAPES, SOURCE
from benchmarks.convergence.runs import Bench
from benchmarks.convergence.summary import ArmFigures, Spread, curves, summarise

SCHEMA_VERSION = 1


def results(bench: Bench) -> dict[str, Any]:
    """Settings, machine, the source's and every arm's curves, and the figures that follow from them."""
    preset = bench.preset
    return {
        "schema_version": SCHEMA_VERSION,
        "preset": asdict(preset),
        "shapes": {shape: asdict(SHAPES[shape]) for shape in preset.shapes if shape != PRETRAINED},
        "corpus": {"digest": bench.corpus().digest, "training_tokens": len(bench.corpus().train)},
        "machine": {
            "device": torch.cuda.get_device_name() if bench.device == "cuda" else platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "summary": [asdict(figures) for figures in summarise(bench)],
        "curves": {
            shape: {arm: [asdict(curve) for curve in curves(bench, shape, arm)] for arm in (SOURCE, *preset.arms)}
            for shape in preset.shapes
        },
    }


def write_results(bench: Bench) -> Path:
    path = bench.work / "results.json"
    path.write_text(json.dumps(results(bench), indent=1) + "\n")
    return path


def print_tables(bench: Bench, console: Console) -> None:
    """One table a shape; of several seeds the mean ± the sample standard deviation."""
    figures = summarise(bench)
    for shape in bench.preset.shapes:
        rows = [row for row in figures if row.shape == shape]
        source = curves(bench, shape, SOURCE)
        losses = " ".join(f"{curve.losses[-1]:.4f}" for curve in source)
        console.print(
            f"{shape}: {source[0].parameters:,} → {rows[0].parameters:,} parameters,"
            f" the source's loss by seed: {losses}",
            highlight=False,
        )
        table = Table(*COLUMNS)
        for row in rows:
            table.add_row(*cells(row, bench.preset.seeds))
        console.print(table)
    console.print(NOTES, highlight=False)


COLUMNS = (
    "arm",
    "peak rate",
    "start",
    "worst",
    "regained",
    "final loss",
    "gain",
    "steps to random's",
    "speed-up",
    "with source",
    "by schedule",
    "ahead of source",
    "break-even",
    "cosine",
    "rank",
)

NOTES = """\
losses       nats a token on held-out files; gain: the final loss, of the same seed, of the random arm of that shape (of
             the wider shape for the source itself) minus this one
worst        the worst loss after the start minus the start; regained: steps until the start is passed for good
steps        until that random arm's final loss, on the same schedule; speed-up: in FLOPs
with source  in FLOPs, the source's own training counted
by schedule  the FLOPs of the random arm's longest schedule over those of the shortest complete one that ends as low
ahead of     the source that is trained on for as many FLOPs as the longest schedule has: its final loss minus this one
break-even   tokens for each parameter of the arm from which on complete schedules of it end below the source's
cosine       between copies of the residual stream at the end; rank: of the weights, of what their shapes allow
*            the lowest or highest rate that was tried"""


def cells(row: ArmFigures, seeds: int) -> tuple[str, ...]:
    """The row's text, in the order of COLUMNS."""
    if row.steps_to is None:
        steps = "not reached"
    else:
        missed = f" ({row.reached} of {seeds})" if row.reached < seeds else ""
        steps = _text(row.steps_to, ".0f") + missed
    at_once = row.steps_to is not None and row.speedup is None
    return (
        row.arm,
        f"{row.rate:g}{'*' if row.at_edge else ''}",
        _text(row.start, ".4f"),
        _text(row.forgotten, "+.4f"),
        _text(row.regained, ".0f"),
        _text(row.final, ".4f"),
        _text(row.gain, "+.4f"),
        steps,
        "at once" if at_once else _text(row.speedup, ".2f"),
        _text(row.flops_speedup, ".2f"),
        _text(row.by_schedule, ".2f"),
        _text(row.ahead, "+.4f"),
        _text(row.break_even, ".2f"),
        _text(row.stream, ".6f", deviation=False),
        _text(row.rank, ".3f", deviation=False),
    )


def _text(spread: Spread | None, form: str, deviation: bool = True) -> str:
    if spread is None:
        return "–"
    mean = f"{spread.mean:{form}}"
    if spread.deviation is None or not deviation:
        return mean
    return f"{mean} ± {spread.deviation:{form.removeprefix('+')}}"
