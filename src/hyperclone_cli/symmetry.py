"""Which clones start with equal copies that training will not part: told from the plan alone.

Equal copies of the activations go in, so the gradient of block [a, b] of a weight is the gradient of
output copy a times one and the same activation. The gradient of input copy b in turn is what column b
of C, summed over the output copies, lets through (see `mixing`). Hence, going back from the loss: if
the columns of every C have equal sums, there is no noise, and no padding that noise reads, then the
gradients of all copies are equal, and they stay so under any optimizer that treats equal numbers alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

from hyperclone_cli.axes import Role
from hyperclone_cli.planner import Plan
from hyperclone_cli.tensors import GrownTensor

NOISE = "--noise-snr-db 10"


def gradients_are_equal(tensors: Iterable[GrownTensor]) -> bool:
    """Whether all copies get the same gradients, dropout and rounding aside. True where nothing is copied."""
    return all(_reads_all_copies_alike(tensor) for tensor in tensors)


def _reads_all_copies_alike(tensor: GrownTensor) -> bool:
    if tensor.roles[1:] != (Role.IN,):
        return True
    if tensor.noisy or tensor.reads_padding:
        return False
    rows, columns = tensor.growths
    copies: dict[int, dict[int, tuple[Fraction, ...]]] = defaultdict(dict)  # output unit → copy → what it reads
    for run in rows.runs:
        if not run.is_padding:
            copies[run.start][run.copy] = tensor.shares(run)
    for reading in {tuple(shares.values()) for shares in copies.values()}:
        read: dict[int, set[Fraction]] = defaultdict(set)  # input unit → how much each of its copies is read
        for run, *shares in zip(columns.runs, *reading, strict=True):
            read[run.start].add(sum(shares, Fraction(0)))
        if any(len(amounts) > 1 for amounts in read.values()):
            return False
    return True


def advice(plan: Plan) -> str:
    """What to tell the maker of a clone whose copies training will not part; empty for all others."""
    if not any(growth.grows for growth in plan.growths.values()) or not gradients_are_equal(plan.tensors):
        return ""
    uneven = replace(plan.request.mixing, strategy="uneven")
    parts_them = not gradients_are_equal(replace(tensor, mixing=uneven) for tensor in plan.tensors)
    options = f"{NOISE} or --strategy uneven" if parts_them else NOISE
    return f"The copies get equal gradients: without dropout, training keeps them equal. What parts them: {options}."
