"""The plots: curves with the band of their seeds, speed-ups as bars, the copies over time."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.convergence.presets import CLONES, RANDOM, SOURCE
from benchmarks.convergence.runs import Bench
from benchmarks.convergence.summary import ArmFigures, Spread, curves, summarise

COLOURS = {RANDOM: "black"} | {arm: f"C{number}" for number, arm in enumerate(CLONES)}

EQUAL = 1e-9
"""1 − cosine below this is drawn as this: copies that are equal but for rounding."""


def write_plots(bench: Bench) -> list[Path]:
    """One PNG of each kind for each shape, beside the results."""
    paths = []
    figures = summarise(bench)
    for shape in bench.preset.shapes:
        own = [row for row in figures if row.shape == shape]
        drawings = {
            "curves": draw_curves(bench, shape),
            "speedup": draw_speedups(own, shape),
            "copies": draw_copies(bench, shape),
        }
        for name, drawing in drawings.items():
            paths.append(bench.work / f"{shape}-{name}.png")
            drawing.savefig(paths[-1], dpi=150)
    return paths


def draw_curves(bench: Bench, shape: str) -> Figure:
    """Held-out loss over steps: the mean of the seeds, and the band from the lowest to the highest."""
    drawing = Figure(figsize=(7, 4.5), layout="constrained")
    axes = drawing.subplots()
    finals = []
    for arm in bench.preset.arms:
        found = curves(bench, shape, arm)
        columns = list(zip(*(curve.losses for curve in found), strict=True))
        _band(axes, found[0].steps, columns, arm)
        finals += [curve.losses[-1] for curve in found]
    random = [curve.losses[-1] for curve in curves(bench, shape, RANDOM)]
    axes.axhline(sum(random) / len(random), color="grey", linewidth=0.8, linestyle=":")
    source = [curve.losses[-1] for curve in curves(bench, shape, SOURCE)]
    # the random arm's beginning would press all else into a line
    axes.set_ylim(min(finals) - 0.02, max(source) + 2 * (max(source) - min(finals)) + 0.1)
    axes.set_xlabel("steps")
    axes.set_ylabel("loss on held-out files, nats a token")
    axes.set_title(f"{shape}: {len(random)} seed{'s' * (len(random) > 1)}", loc="left")
    axes.legend(frameon=False)
    return drawing


def draw_speedups(rows: list[ArmFigures], shape: str) -> Figure:
    """Speed-up of each arm that reached the random arm's final loss, the source's training left out and counted."""
    drawing = Figure(figsize=(7, 0.6 + 0.45 * len(rows)), layout="constrained")
    axes = drawing.subplots()
    shown = [row for row in reversed(rows) if row.speedup or row.flops_speedup]
    for offset, name, label, alpha in (
        (0.2, "speedup", "steps, or FLOPs without the source", 1.0),
        (-0.2, "flops_speedup", "FLOPs with the source's training", 0.4),
    ):
        for place, row in enumerate(shown):
            value: Spread | None = getattr(row, name)
            if value:
                axes.barh(
                    place + offset,
                    value.mean,
                    height=0.38,
                    xerr=value.deviation,
                    color=COLOURS[row.arm],
                    alpha=alpha,
                    label=label if place == 0 else None,
                )
    axes.axvline(1.0, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(shown)), [row.arm for row in shown])
    axes.set_xlabel("random start's cost over the arm's, to the random start's final loss")
    axes.set_title(shape, loc="left")
    if shown:
        axes.legend(frameon=False, loc="lower right")
    return drawing


def draw_copies(bench: Bench, shape: str) -> Figure:
    """How far the copies of the residual stream have parted, and the rank of the weights, over steps."""
    drawing = Figure(figsize=(10, 4), layout="constrained")
    parted, rank = drawing.subplots(1, 2)
    for arm in bench.preset.arms:
        found = curves(bench, shape, arm)
        steps = list(found[0].copies)
        if steps:
            distances = [[max(EQUAL, 1 - curve.copies[step]["stream"]) for curve in found] for step in steps]
            _band(parted, steps, distances, arm)
            _band(
                rank, steps, [[curve.copies[step].get("rank", float("nan")) for curve in found] for step in steps], arm
            )
    parted.set_yscale("log")
    parted.set_ylabel("1 − cosine between copies of the residual stream")
    rank.set_ylabel("rank of the weights, of what their shapes allow")
    for axes in (parted, rank):
        axes.set_xlabel("steps")
    parted.set_title(shape, loc="left")
    rank.legend(frameon=False)
    return drawing


def _band(axes: Axes, steps: list[int], columns: list[list[float]] | list[tuple[float, ...]], arm: str) -> None:
    axes.plot(steps, [sum(column) / len(column) for column in columns], color=COLOURS[arm], label=arm, linewidth=1.2)
    axes.fill_between(
        steps, [min(column) for column in columns], [max(column) for column in columns], color=COLOURS[arm], alpha=0.2
    )
