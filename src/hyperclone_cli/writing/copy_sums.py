"""The copies of every source unit, added up."""

from __future__ import annotations

import torch

from hyperclone_cli.growth.widths import Growth


def sum_copies(rows: torch.Tensor, columns: Growth, mean: bool = False) -> torch.Tensor:
    """The copies of each source column summed, or with `mean` averaged; padding is left out.

    (rows, columns.target) to (rows, columns.source), in the dtype of `rows`.
    """
    total = rows.new_zeros(len(rows), columns.source)
    position = 0
    for run in columns.runs:
        if not run.is_padding:
            part = rows.narrow(1, position, run.length)
            total.narrow(1, run.start, run.length).add_(part, alpha=1 / run.copies if mean else 1)
        position += run.length
    return total
