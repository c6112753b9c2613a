"""ALiBi: which head of a larger model has the slope of which head of the source."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hyperclone_cli.growth.widths import Growth, Run, tiled


def slopes(heads: int) -> list[Fraction]:
    """The slope of each of so many heads, as the power of ½ that it is: (heads).

    Those of a power of two are spaced evenly; others take that below them, and the gaps in order (Press et al., 2022).
    """
    power = 1 << (heads.bit_length() - 1)
    spaced = [Fraction(8 * number, power) for number in range(1, power + 1)]
    between = [Fraction(8 * number, 2 * power) for number in range(1, 2 * (heads - power), 2)]
    return spaced + between


def slotted(size: int, target: int) -> Growth:
    """`size` heads, each at the place among `target` that has its slope; the places between hold silent copies.

    There is such a place for every head and any larger number of them: slopes are only ever added between others.
    """
    if target == size:
        return tiled(size, 1)
    places = {slope: head for head, slope in enumerate(slopes(size))}
    silent = Counter[int]()
    runs = []
    for number, slope in enumerate(slopes(target)):
        if slope in places:
            runs.append(Run(places[slope], 1, 0, 1))
        else:
            head = number % size
            silent[head] += 1
            runs.append(Run(head, 1, silent[head], 1, silent=True))
    return Growth(size, tuple(runs))
