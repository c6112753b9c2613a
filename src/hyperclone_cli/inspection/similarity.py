"""How alike the copies in one matrix are, and how much of its rank they use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from math import sqrt
from typing import TYPE_CHECKING

from hyperclone_cli.families.vocabulary import Role
from hyperclone_cli.growth.widths import Growth
from hyperclone_cli.planning.tensors import GrownTensor

if TYPE_CHECKING:
    import torch


@dataclass
class Alikeness:
    """Copies of one matrix held against copy 0: one cosine, and one difference, a copy."""

    outputs: list[float] = field(default_factory=list)
    inputs: list[float] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)


def compare_copies(matrix: torch.Tensor, tensor: GrownTensor) -> Alikeness:
    """Hold the copies in a weight or its gradient, (rows, columns) of `tensor`, against copy 0."""
    found = Alikeness()
    for dimension, (growth, role) in enumerate(zip(tensor.growths, tensor.roles, strict=True)):
        cosines = found.outputs if role is Role.OUT else found.inputs
        for dot, first, other in _products(matrix, dimension, growth):
            larger = max(first, other)
            # two zeros are equal; a zero beside something else is not
            cosines.append(dot / sqrt(first * other) if first and other else float(not larger))
            found.differences.append(sqrt(max(0.0, first + other - 2 * dot) / larger) if larger else 0.0)
    return found


def _products(matrix: torch.Tensor, dimension: int, growth: Growth) -> Iterable[list[float]]:
    """For each copy c but the first: (⟨copy 0, copy c⟩, |copy 0|², |copy c|²), in float64, over the units of c."""
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    starts = accumulate((run.length for run in growth.runs), initial=0)
    copies = [
        (run, matrix.narrow(dimension, start, run.length))
        for run, start in zip(growth.runs, starts, strict=False)
        if not run.is_padding
    ]
    firsts = {run.start: units for run, units in copies if not run.copy}
    for run, units in copies:
        if run.copy:
            a, b = firsts[run.start].double(), units.double()
            for number, product in enumerate((a * b, a * a, b * b)):
                sums[run.copy][number] += float(product.sum())
    return sums.values()


def rank_fraction(matrix: torch.Tensor) -> float:
    """Singular values above max(shape) · float32's eps · the largest of them, as a fraction of min(shape).

    They are the roots of the eigenvalues of the smaller Gram matrix: many times faster than the
    decomposition of the matrix itself, and in float64 far more accurate than that threshold. The eps is
    float32's even for 16-bit weights, whose own would call every rank of a wide matrix zero.
    """
    import torch

    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    wide = matrix.double()
    squares = torch.linalg.eigvalsh(wide @ wide.T)
    threshold = max(matrix.shape) * torch.finfo(torch.float32).eps
    return int((squares > threshold**2 * squares[-1]).sum()) / len(squares)
