"""How similar the copies in one matrix are, and what fraction of the possible rank it has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from math import sqrt
from typing import TYPE_CHECKING

from hyperclone_cli.families.vocabulary import Role
from hyperclone_cli.growth.widths import Growth
from hyperclone_cli.planning.grown_tensor import GrownTensor

if TYPE_CHECKING:
    import torch


@dataclass
class CopySimilarity:
    """Copies of one matrix compared with copy 0: for each other copy a cosine and a relative difference.

    outputs      cosines of the rows that write each copy of a width
    inputs       cosines of the columns that read each copy
    differences  |a - b| / max(|a|, |b|), L2 norms, of the rows and of the columns
    """

    outputs: list[float] = field(default_factory=list)
    inputs: list[float] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)


def compare_copies(matrix: torch.Tensor, tensor: GrownTensor) -> CopySimilarity:
    """Compare the copies in `matrix`, a weight or gradient of shape (rows, columns) of `tensor`, with copy 0."""
    found = CopySimilarity()
    for dimension, (growth, role) in enumerate(zip(tensor.growths, tensor.roles, strict=True)):
        cosines = found.outputs if role is Role.OUT else found.inputs
        for dot, first, other in _products(matrix, dimension, growth):
            larger = max(first, other)
            # if one copy is all zeros, they are equal only if both are
            cosines.append(dot / sqrt(first * other) if first and other else float(not larger))
            found.differences.append(sqrt(max(0.0, first + other - 2 * dot) / larger) if larger else 0.0)
    return found


def _products(matrix: torch.Tensor, dimension: int, growth: Growth) -> Iterable[list[float]]:
    """For each copy c from 1 up: (⟨copy 0, copy c⟩, |copy 0|², |copy c|²), in float64, over the units of copy c."""
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
    """The numerical rank over min(shape): singular values above max(shape) · eps of float32 · the largest of them.

    Singular values are computed as roots of the eigenvalues of the smaller Gram matrix: many times faster than an SVD,
    and in float64 far more accurate than that threshold. The eps is float32's for 16-bit weights too: with their own,
    every singular value of a wide matrix would lie below the threshold.
    """
    import torch

    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    wide = matrix.double()
    squares = torch.linalg.eigvalsh(wide @ wide.T)
    threshold = max(matrix.shape) * torch.finfo(torch.float32).eps
    return int((squares > threshold**2 * squares[-1]).sum()) / len(squares)
