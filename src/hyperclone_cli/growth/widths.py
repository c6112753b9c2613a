"""How one width grows: what every new unit copies, and how packed dimensions nest.

A growth from s to t units says, for every new unit, which source unit it copies, which of that unit's
copies it is, and what the copy is scaled by; or that it is padding and copies nothing. Widths are long
and growths regular, so all this is kept run by run instead of unit by unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from operator import mul
from typing import NamedTuple, TypeVar

from hyperclone_cli.families.vocabulary import ANY

T = TypeVar("T")


class Run(NamedTuple):
    """New units that copy the source units start … start + length - 1: copy number `copy` of `copies`.

    copies  0 for padding, which copies nothing; silent copies are not counted
    scale   what writers of the units multiply by
    silent  written like the others, but read by nothing
    """

    start: int
    length: int
    copy: int
    copies: int
    scale: float = 1.0
    silent: bool = False

    @property
    def is_padding(self) -> bool:
        return self.copies == 0


@dataclass(frozen=True)
class Growth:
    """One width's growth: `source` units become those listed by `runs`, in order."""

    source: int
    runs: tuple[Run, ...]

    @property
    def target(self) -> int:
        """Units after the growth."""
        return sum(run.length for run in self.runs)

    @property
    def ratio(self) -> Fraction:
        """Units after for each unit before."""
        return Fraction(self.target, self.source)

    @property
    def grows(self) -> bool:
        return self.runs != (Run(0, self.source, 0, 1),)

    @property
    def padding(self) -> int:
        """New units that copy nothing."""
        return sum(run.length for run in self.runs if run.is_padding)

    @property
    def density(self) -> Fraction:
        """The part of the new units that are copies."""
        return 1 - Fraction(self.padding, self.target)

    @property
    def even(self) -> bool:
        """Whether all source units have equally many copies."""
        return len({run.copies for run in self.runs if not run.is_padding}) == 1

    def unscaled(self) -> Growth:
        """The same growth for what does not write the width: readers, and norms that undo the scale."""
        return Growth(self.source, tuple(run._replace(scale=1.0) for run in self.runs))


def tiled(size: int, copies: int, scale: float = 1.0) -> Growth:
    """`size` units repeated copy after copy, [x, x, …]."""
    return Growth(size, tuple(Run(0, size, copy, copies, scale) for copy in range(copies)))


def spread(size: int, target: int) -> Growth:
    """`size` units repeated copy after copy until there are `target`: the first ones get a copy more than the last."""
    copies, more = divmod(target, size)
    if not more:
        return tiled(size, copies)
    runs = [
        run for copy in range(copies) for run in (Run(0, more, copy, copies + 1), Run(more, size - more, copy, copies))
    ]
    return Growth(size, (*runs, Run(0, more, copies, copies + 1)))


def padded(size: int, target: int) -> Growth:
    """`size` units repeated copy after copy, and padding up to `target`, with the mean square of the source.

    Padding adds nothing to the variance that a norm divides by: it is zero under RMSNorm, the mean under LayerNorm.
    Copies scaled by √(target / copied) restore the variance, so the norm's eps has the same weight as before.
    """
    copies, padding = divmod(target, size)
    if not padding:
        return tiled(size, copies)
    scaled = tiled(size, copies, (target / (copies * size)) ** 0.5)
    return Growth(size, (*scaled.runs, Run(0, padding, 0, 0, scaled.runs[0].scale)))


def of_same_length(growth: Growth) -> Growth:
    """The same growth, with copies so much smaller that the vector of all units is as long as the source's."""
    scaled = tuple(run if run.is_padding else run._replace(scale=run.copies**-0.5) for run in growth.runs)
    return Growth(growth.source, scaled)


def repeated(size: int, copies: int, scale: float = 1.0, span: int = 1) -> Growth:
    """`size` units, every `span` of them repeated in place: [x₀, x₀, …, x₁, x₁, …]."""
    starts = range(0, size, span)
    return Growth(size, tuple(Run(start, span, copy, copies, scale) for start in starts for copy in range(copies)))


def spaced(size: int, stride: int, span: int = 1) -> Growth:
    """`size` units, every `span` of them followed by stride - 1 times as much padding."""
    padding = Run(0, (stride - 1) * span, 0, 0)
    return Growth(size, tuple(run for start in range(0, size, span) for run in (Run(start, span, 0, 1), padding)))


def nest(outer: Growth, inner: Growth) -> Growth:
    """The growth of a packed dimension: every unit of `outer` holds a whole `inner`."""
    runs: list[Run] = []
    for run in outer.runs:
        if run.is_padding:
            runs.append(run._replace(length=run.length * inner.target))
        elif not inner.grows:
            runs.append(run._replace(start=run.start * inner.source, length=run.length * inner.source))
        else:
            runs += [
                Run(
                    unit * inner.source + part.start,
                    part.length,
                    run.copy * part.copies + part.copy,
                    run.copies * part.copies,
                    run.scale * part.scale,
                    run.silent or part.silent,
                )
                for unit in range(run.start, run.start + run.length)
                for part in inner.runs
            ]
    return Growth(outer.source * inner.source, tuple(runs))


def compose(first: Growth, second: Growth) -> Growth:
    """The growth that `first` and then `second` make, both of which copy every unit equally often."""
    runs: list[Run] = []
    for run in second.runs:
        position, last = 0, run.start + run.length
        if run.is_padding:
            runs.append(run)
            continue
        for part in first.runs:
            begin, end = max(run.start, position), min(last, position + part.length)
            if begin < end:
                made = part._replace(length=end - begin, scale=part.scale * run.scale, silent=part.silent or run.silent)
                if not part.is_padding:
                    of_all = run.copy * part.copies + part.copy, run.copies * part.copies
                    made = made._replace(start=part.start + begin - position, copy=of_all[0], copies=of_all[1])
                runs.append(made)
            position += part.length
    return Growth(first.source, tuple(runs))


def side_by_side(parts: Sequence[Growth]) -> Growth:
    """The growth of widths that are packed side by side, each growing in its place; a single width is itself."""
    if len(parts) == 1:
        return parts[0]
    runs: list[Run] = []
    source = 0
    for part in parts:
        runs += [run._replace(start=source + run.start) for run in part.runs]
        source += part.source
    whole = Run(0, source, 0, 1)
    return Growth(source, tuple(runs) if any(part.grows for part in parts) else (whole,))


def grow_axes(parts: tuple[tuple[str, ...], ...], growths: Mapping[str, Growth]) -> Growth:
    """The growth of parts side by side, each of which packs axes, outermost first."""
    return _packed(parts, lambda word: tiled(int(word), 1) if word.isdecimal() else growths[word], nest, side_by_side)


def _packed(
    parts: tuple[tuple[str, ...], ...],
    single: Callable[[str], T],
    nested: Callable[[T, T], T],
    beside: Callable[[list[T]], T],
) -> T:
    """What packed parts come to, from what each single word does; "+" and "." as in `families.vocabulary`."""

    def axis(words: str) -> T:
        return beside([reduce(nested, map(single, part.split("."))) for part in words.split("+")])

    return beside([reduce(nested, map(axis, axes)) for axes in parts])


def size_of(parts: tuple[tuple[str, ...], ...], growths: Mapping[str, Growth]) -> int:
    """The units of the source in a dimension that packs `parts`."""
    return units_of(parts, {axis: growth.source for axis, growth in growths.items()})


def units_of(parts: tuple[tuple[str, ...], ...], sizes: Mapping[str, int]) -> int:
    """The units that `parts` pack in a model of these sizes; an axis that it does not have has none."""
    units: int = _packed(parts, lambda word: int(word) if word.isdecimal() else sizes.get(word, 0), mul, sum)
    return units


def grow_dimension(parts: tuple[tuple[str, ...], ...], size: int, growths: Mapping[str, Growth]) -> Growth:
    """The growth of a tensor dimension of `size` units that packs `parts`, as `grow_axes` reads them.

    Raises ValueError, saying what was expected, if the axes' sizes do not multiply to `size`.
    """
    if parts == ((ANY,),):
        return tiled(size, 1)
    expected = size_of(parts, growths)
    if expected != size:  # known before a run of it is made: of absurd sizes there would be as many
        raise ValueError(str(expected))
    return grow_axes(parts, growths)
