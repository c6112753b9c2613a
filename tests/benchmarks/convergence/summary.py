"""Curves in, figures out: what each arm reached, and how soon."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, stdev

from benchmarks.convergence.presets import CLONES, CONTINUED, SOURCE, baseline
from benchmarks.convergence.runs import Bench, read_curve, runs_of, scheduled, source_steps
from benchmarks.convergence.training import Curve


@dataclass(frozen=True)
class Spread:
    """One figure over the seeds that have it."""

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True)
class ArmFigures:
    """One arm on one shape. None where no seed has the figure.

    rate            the peak learning rate that was chosen; `at_edge` if it is the lowest or the highest that was tried
    start, final    losses on the held-out text, nats
    gain            the final loss of the random arm of its shape minus this arm's, of the same seed
    steps_to        steps until the random arm's final loss; 0 if the arm starts below it
    reached         seeds that reach it
    speedup         the random arm's steps to its own final loss over `steps_to`, and so its FLOPs
    flops_speedup   the same, the source's own training added to the arm's FLOPs
    by_schedule     the FLOPs of the random arm's longest schedule over those of the shortest that ends with its loss
    break_even      tokens for each of its parameters from which on it ends below the source that was trained on for the
                    same FLOPs; `ahead`, by how much it does (nats) at the longest schedule of its own
    forgotten       the worst loss after the start minus the start
    regained        steps until the loss is below the start for good
    stream, outputs, inputs, rank   of the copies at the end, see copies.py
    """

    shape: str
    arm: str
    rate: float
    at_edge: bool
    parameters: int
    start: Spread | None
    final: Spread | None
    gain: Spread | None
    reached: int
    steps_to: Spread | None
    speedup: Spread | None
    flops_speedup: Spread | None
    by_schedule: Spread | None = None
    break_even: Spread | None = None
    ahead: Spread | None = None
    forgotten: Spread | None = None
    regained: Spread | None = None
    stream: Spread | None = None
    outputs: Spread | None = None
    inputs: Spread | None = None
    rank: Spread | None = None


def curves(bench: Bench, shape: str, arm: str) -> list[Curve]:
    """The arm's curves on the shape, one a seed."""
    return [read_curve(run.path(bench.work)) for run in runs_of(bench, shape, arm)]


def summarise(bench: Bench) -> list[ArmFigures]:
    """The figures of every shape and arm of a bench whose runs are complete."""
    return [arm_figures(bench, shape, arm) for shape in bench.preset.shapes for arm in bench.preset.arms]


def arm_figures(bench: Bench, shape: str, arm: str) -> ArmFigures:
    own, random, source = (curves(bench, shape, which) for which in (arm, baseline(arm), SOURCE))
    rate = runs_of(bench, shape, arm)[0].rate
    clone = arm in CLONES or arm == CONTINUED
    pairs = list(zip(own, random, strict=True))
    reached = [steps_to(curve, other.losses[-1]) for curve, other in pairs]
    costs = [(flops_to(other, other.losses[-1]), flops_to(curve, other.losses[-1])) for curve, other in pairs]
    sources = [flops(curve, curve.steps[-1]) if clone else 0.0 for curve in source]
    # what a pretrained source cost is not known
    priced = source_steps(bench, shape) > 0
    last = [curve.copies[max(curve.copies)] if curve.copies else {} for curve in own]
    return ArmFigures(
        shape=shape,
        arm=arm,
        rate=rate,
        at_edge=rate in (min(bench.preset.rates), max(bench.preset.rates)),
        parameters=own[0].parameters,
        start=spread(curve.losses[0] for curve in own),
        final=spread(curve.losses[-1] for curve in own),
        gain=spread(other.losses[-1] - curve.losses[-1] for curve, other in pairs),
        reached=sum(steps is not None for steps in reached),
        steps_to=spread(reached),
        speedup=spread(ratio(before, after) for before, after in costs),
        flops_speedup=spread(
            ratio(before, after, more) if priced else None for (before, after), more in zip(costs, sources, strict=True)
        ),
        by_schedule=_by_schedule(bench, shape, arm),
        **_against_the_source(bench, shape, arm),
        forgotten=spread(max(curve.losses[1:]) - curve.losses[0] for curve in own) if clone else None,
        regained=spread(regained(curve) for curve in own) if clone else None,
        **{name: spread(figures.get(name) for figures in last) for name in ("stream", "outputs", "inputs", "rank")},
    )


def schedule_ends(bench: Bench, shape: str, arm: str) -> list[Curve]:
    """For each seed, the start and the ends of complete schedules, as if they were one curve over their lengths."""
    runs = scheduled(bench, shape, arm)
    seeds = bench.preset.seeds
    found = []
    for seed in range(seeds):
        ends = [read_curve(run.path(bench.work)) for run in runs[seed::seeds]]
        steps, losses = zip((0, ends[0].losses[0]), *((run.steps[-1], run.losses[-1]) for run in ends), strict=True)
        found.append(replace(ends[0], steps=list(steps), losses=list(losses)))
    return found


def _by_schedule(bench: Bench, shape: str, arm: str) -> Spread | None:
    if not bench.preset.schedules:
        return None
    pairs = zip(schedule_ends(bench, shape, arm), schedule_ends(bench, shape, baseline(arm)), strict=True)
    return spread(ratio(flops(random, random.steps[-1]), flops_to(ends, random.losses[-1])) for ends, random in pairs)


def _against_the_source(bench: Bench, shape: str, arm: str) -> dict[str, Spread | None]:
    if not bench.preset.longer or arm == CONTINUED or CONTINUED not in bench.preset.arms:
        return {}
    pairs = list(zip(schedule_ends(bench, shape, arm), schedule_ends(bench, shape, CONTINUED), strict=True))
    return {
        "break_even": spread(break_even(ends, source) for ends, source in pairs),
        "ahead": spread(
            None if (loss := loss_at(source, flops(ends, ends.steps[-1]))) is None else loss - ends.losses[-1]
            for ends, source in pairs
        ),
    }


def break_even(ends: Curve, source: Curve) -> float | None:
    """Tokens for each parameter from which on `ends` stays below `source` at the same FLOPs.

    Both hold the ends of complete schedules, see `schedule_ends`; between them the loss is a line over the logarithm of
    FLOPs. None where the longest schedule does not end below, or the source has none of so many FLOPs.
    """
    costs = [flops(ends, steps) for steps in ends.steps[1:]]
    ahead = [
        (math.log(cost), other - loss)
        for cost, loss in zip(costs, ends.losses[1:], strict=True)
        if (other := loss_at(source, cost)) is not None
    ]
    if not ahead or ahead[-1][1] <= 0:
        return None
    first = next(place for place in range(len(ahead)) if all(gain > 0 for _, gain in ahead[place:]))
    where = ahead[first][0]
    if first:
        (x0, y0), (x1, y1) = ahead[first - 1 : first + 1]
        where = x0 + (x1 - x0) * y0 / (y0 - y1)
    return math.exp(where) / ends.flops_per_token / ends.parameters


def loss_at(ends: Curve, cost: float) -> float | None:
    """The loss of complete schedules of so many FLOPs, by a line over their logarithm; None outside of these."""
    points = [(math.log(flops(ends, steps)), loss) for steps, loss in zip(ends.steps[1:], ends.losses[1:], strict=True)]
    where = math.log(cost)
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= where <= x1:
            return y0 + (y1 - y0) * (where - x0) / (x1 - x0)
    return None


def flops(curve: Curve, steps: float) -> float:
    """What so many steps of the run cost."""
    return curve.flops_per_token * curve.tokens_per_step * steps


def flops_to(curve: Curve, loss: float) -> float | None:
    """What the run cost until `loss`."""
    steps = steps_to(curve, loss)
    return None if steps is None else flops(curve, steps)


def ratio(before: float | None, after: float | None, more: float = 0.0) -> float | None:
    """Cost `before` over `after` and `more`; None where one is not known, or nothing was spent."""
    if before is None or after is None or not after + more:
        return None
    return before / (after + more)


def steps_to(curve: Curve, loss: float) -> float | None:
    """Steps until the curve is at `loss` or below for the first time, between evaluations by a straight line."""
    before: tuple[int, float] | None = None
    for step, found in zip(curve.steps, curve.losses, strict=True):
        if found <= loss:
            if before is None:
                return float(step)
            return before[0] + (step - before[0]) * (before[1] - loss) / (before[1] - found)
        before = step, found
    return None


def regained(curve: Curve) -> float | None:
    """Steps until the loss is at the start's or below for good; 0 if it never was above, None if it still is."""
    above = [step for step, loss in zip(curve.steps, curve.losses, strict=True) if loss > curve.losses[0]]
    if not above:
        return 0.0
    return next((float(step) for step in curve.steps if step > max(above)), None)


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and sample standard deviation of the values that are not None."""
    found = [value for value in values if value is not None]
    return Spread(fmean(found), stdev(found) if len(found) > 1 else None, len(found)) if found else None
