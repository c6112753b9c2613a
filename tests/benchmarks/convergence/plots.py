"""The plots: curves with the band of their seeds, speed-ups as bars, the copies over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.convergence.presets import CLONES, CONTINUED, PADDED, RANDOM, RANDOMS, SOURCE, STRATEGIES
from benchmarks.convergence.runs import Bench
from benchmarks.convergence.summary import ArmFigures, curves, flops, schedule_ends, summarise

_DEEPER = [arm for arm in CLONES if arm not in STRATEGIES]

COLOURS = {
    **dict.fromkeys(RANDOMS, "black"),
    CONTINUED: "grey",
    **{arm: f"C{number // 2}" for number, arm in enumerate(STRATEGIES)},
    **{arm: f"C{number}" for number, arm in enumerate(_DEEPER, len(STRATEGIES) // 2)},
    **dict(zip(PADDED, ("olive", "teal"), strict=True)),
}
"""One for each strategy; its arm with noise is dashed. Random starts of all shapes have one."""

EQUAL = 1e-9
"""1 − cosine below this is drawn as this: copies that are equal but for rounding."""


def write_plots(bench: Bench) -> list[Path]:
    """One PNG of each kind for each shape, and complete schedules of all shapes as SVG, beside the results."""
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
    if bench.preset.schedules:
        paths.append(bench.work / "schedules.svg")
        rcParams.update({"svg.hashsalt": "schedules", "svg.fonttype": "none"})  # the same file from the same figures
        draw_schedules(bench).savefig(paths[-1], metadata={"Date": None})
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
    axes.axhline(fmean(random), color="grey", linewidth=0.8, linestyle=":")
    source = [curve.losses[-1] for curve in curves(bench, shape, SOURCE)]
    # the random arm's beginning would press all else into a line
    axes.set_ylim(min(finals) - 0.02, max(source) + 2 * (max(source) - min(finals)) + 0.1)
    axes.set_xlabel("steps")
    axes.set_ylabel("loss on held-out files, nats a token")
    axes.set_title(f"{shape}: {len(random)} seed{'s' * (len(random) > 1)}", loc="left")
    axes.legend(frameon=False)
    return drawing


def draw_speedups(rows: list[ArmFigures], shape: str) -> Figure:
    """Speed-up of each arm that reached the random arm's final loss, the source's training left out and counted.

    An arm that starts below that loss has no bar of the first kind.
    """
    drawing = Figure(figsize=(7, 1.2 + 0.45 * len(rows)), layout="constrained")
    axes = drawing.subplots()
    rows = rows[::-1]
    bars = [
        (0.2, 1.0, "steps, or FLOPs without the source", [row.speedup for row in rows]),
        (-0.2, 0.4, "FLOPs with the source's training", [row.flops_speedup for row in rows]),
    ]
    for offset, alpha, _, values in bars:
        for place, (row, value) in enumerate(zip(rows, values, strict=True)):
            if value:
                axes.barh(
                    place + offset,
                    value.mean,
                    height=0.38,
                    xerr=value.deviation,
                    color=COLOURS[row.arm],
                    alpha=alpha,
                    hatch="//" if _noisy(row.arm) else "",
                )
    axes.axvline(1.0, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [row.arm for row in rows])
    axes.set_xlabel("random start's cost over the arm's, to the random start's final loss")
    axes.set_title(shape, loc="left")
    legend = [Patch(color="grey", alpha=alpha, label=label) for _, alpha, label, _ in bars]
    drawing.legend(handles=legend, frameon=False, loc="outside lower center", ncols=2)
    return drawing


def draw_schedules(bench: Bench) -> Figure:
    """What complete schedules of several lengths end with, over their FLOPs, a panel for each shape.

    An arm pays for its growth where its line is below that of the source which was trained on.
    """
    shapes = bench.preset.shapes
    drawing = Figure(figsize=(3.2 * len(shapes) + 1.5, 4.2), layout="constrained")
    panels = drawing.subplots(1, len(shapes), sharey=True, squeeze=False)[0]
    for axes, shape in zip(panels, shapes, strict=True):
        for arm in bench.preset.arms:
            ends = schedule_ends(bench, shape, arm)
            costs = [flops(ends[0], steps) for steps in ends[0].steps[1:]]
            columns = list(zip(*(curve.losses[1:] for curve in ends), strict=True))
            _band(axes, costs, columns, arm)
        axes.set_xscale("log")
        axes.set_xlabel("FLOPs of the schedule")
        axes.set_title(shape, loc="left", fontsize="medium")
    panels[0].set_ylabel("loss at its end, nats a token")
    drawing.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
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
            _band(rank, steps, [[curve.copies[step]["rank"] for curve in found] for step in steps], arm)
    parted.set_yscale("log")
    parted.set_ylabel("1 − cosine between copies of the residual stream")
    rank.set_ylabel("rank of the weights, of what their shapes allow")
    for axes in (parted, rank):
        axes.set_xlabel("steps")
    parted.set_title(shape, loc="left")
    rank.legend(frameon=False)
    return drawing


def _band(axes: Axes, steps: Sequence[float], columns: Sequence[Sequence[float]], arm: str) -> None:
    """A line through the means of `columns`, one a step, and a band from their lowest to their highest values."""
    means = [fmean(column) for column in columns]
    colour = COLOURS[arm]
    axes.plot(steps, means, color=colour, label=arm, linewidth=1.2, linestyle="--" if _noisy(arm) else "-")
    lowest, highest = [min(column) for column in columns], [max(column) for column in columns]
    axes.fill_between(steps, lowest, highest, color=colour, alpha=0.2)


def _noisy(arm: str) -> bool:
    return arm in CLONES and CLONES[arm].mixing.noise_snr_db is not None
