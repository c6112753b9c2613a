"""Which clones start with equal copies that training will not part: told from the plan alone.

Equal copies of the activations go in, so the gradient of block [a, b] of a weight is the gradient of
output copy a times one and the same activation. The gradient of input copy b in turn is what column b
of C, summed over the output copies, lets through (see `mixing`). Hence, going back from the loss: if
the columns of every C have equal sums, there is no noise, and no padding that noise reads, then the
gradients of all copies are equal, and they stay so under any optimizer that treats all elements alike.
Dropout on the residual stream parts the stream's copies, but not those of feed-forward units and heads.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from fractions import Fraction

from hyperclone_cli.families.vocabulary import Role
from hyperclone_cli.planning.planner import Plan
from hyperclone_cli.planning.tensors import GrownTensor

NOISE = "--noise-snr-db 10"
ALL = "The copies"
WHAT_TRAINING_DOES = (
    "an optimizer that treats all elements alike keeps them equal;"
    " dropout on the residual stream parts only the copies of that stream"
)
"""To copies that get equal gradients."""


def taught_alike(plan: Plan) -> str:
    """Which copies get equal gradients, dropout and rounding aside: ALL, or in words; empty if none do, or none are."""
    if not any(growth.grows for growth in plan.growths.values()) or not all(map(_reads_all_copies_alike, plan.tensors)):
        return ""
    if any(map(_has_silent_heads, plan.tensors)):
        return "All copies but those of heads"
    return "All copies but those of queries" if any(map(_spaces_keys, plan.tensors)) else ALL


def _has_silent_heads(tensor: GrownTensor) -> bool:
    """Whether some heads are not read: their queries, keys and values get no gradient, those of the others do."""
    return any(run.silent for growth in tensor.growths for run in growth.runs)


def _spaces_keys(tensor: GrownTensor) -> bool:
    """Whether a larger head's keys have room between them: copies of a query meet a key there, or nothing."""
    return tensor.part == "attention" and tensor.growths[0].padding > 0


def _reads_all_copies_alike(tensor: GrownTensor) -> bool:
    if tensor.roles[1:] != (Role.IN,):
        return True
    if tensor.noisy or tensor.reads_padding:
        return False
    rows, columns = tensor.growths
    readings: dict[int, Counter[int]] = defaultdict(Counter)  # output unit → how many of its copies read how
    for run in rows.runs:
        if not run.is_padding:
            readings[run.start][tensor.mixing_row(run)] += 1
    for counts in {tuple(counter.items()) for counter in readings.values()}:
        read: dict[int, set[Fraction]] = defaultdict(set)  # input unit → how much each of its copies is read
        for run, *shares in zip(columns.runs, *(tensor.shares(reading) for reading, _ in counts), strict=True):
            if run.silent:
                continue
            amounts = (count * share for (_, count), share in zip(counts, shares, strict=True))
            read[run.start].add(sum(amounts, Fraction(0)))
        if any(len(sums) > 1 for sums in read.values()):
            return False
    return True


def advice(plan: Plan) -> str:
    """What to tell the maker of a clone whose copies training will not part; empty for all others."""
    which = taught_alike(plan)
    if not which:
        return ""
    halving = replace(plan.request.mixing, strategy="halving")
    parts_them = not all(_reads_all_copies_alike(replace(tensor, mixing=halving)) for tensor in plan.tensors)
    options = f"--strategy halving or {NOISE}" if parts_them else NOISE
    return f"{which} get equal gradients: {WHAT_TRAINING_DOES}. What parts them: {options}."
