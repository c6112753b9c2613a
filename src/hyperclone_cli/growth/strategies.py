"""How the copies on a layer's output read the copies on its input: the strategy, and noise that cancels.

A weight W between a width in n copies and one in m copies becomes m·n blocks C[a, b]·W + N[a, b].
Every row of C sums to 1 and the noise blocks of every row sum to zero, so that equal copies on the
input give equal copies on the output, whatever C and N are. Source: arXiv 2409.12903, section 3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.option import SYMMETRY, check_values, option

if TYPE_CHECKING:
    from fractions import Fraction

Strategy = Literal["halving", "symmetric", "diagonal", "uneven"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


def parse_ratio(text: str) -> tuple[int, ...]:
    """The numbers of a ratio such as 1:2. Raises RequestError for another text."""
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)+", text):
        raise RequestError(f"--uneven-ratio {text}: expected whole numbers such as 1:2.")
    return tuple(map(int, text.split(":")))


def format_ratio(ratio: Any) -> str:
    """A ratio as it is typed: 1:2 for (1, 2)."""
    return ":".join(map(str, ratio)) if isinstance(ratio, tuple) else repr(ratio)


@dataclass(frozen=True)
class Mixing:
    """The matrix C and the noise. Each field is an option.

    halving    row a of C, for a < n, is ½, ¼, … up to input copy a, the last two alike. These are powers of two, which
               no dtype rounds. C is triangular and so invertible; its columns have different sums, so gradients differ
    symmetric  C is 1/n everywhere, as in the paper
    diagonal   row a of C is 1 at input copy a mod n
    uneven     row a of C has the proportions r to the power 1 + (a mod n), r = `uneven_ratio`, or 1 : 2 : … : n if that
               has not n numbers. Rotating one row would be exact too, but its columns would have equal sums, so all
               copies would get the same gradient; powers also keep C invertible if r has no equal parts

    `noise_snr_db` is the power of the noise-free tensor over that of the noise, in decibels.
    Raises RequestError for a value out of range, and for a ratio that the strategy does not use.
    """

    panel: ClassVar[str] = SYMMETRY
    strategy: Strategy = option(
        "halving",
        "How output copy a reads the input copies. halving: those up to a in the parts ½, ¼, …, the last two alike;"
        " nothing is rounded. symmetric: all alike, as in the paper; the copies stay equal under training. diagonal:"
        " copy a alone. uneven: all, in the proportions of --uneven-ratio.",
    )
    uneven_ratio: tuple[int, ...] = option(
        (1, 2),
        "Proportions of --strategy uneven for the first output copy; the next copies take its powers. Used where there"
        " are as many copies as numbers; elsewhere they are 1:2:…:n.",
        metavar="A:B…",
        parse=parse_ratio,
        format=format_ratio,
    )
    noise_snr_db: float | None = option(
        None,
        "Add noise that cancels over the copies, those of experts too, this many decibels below the weights. The paper"
        " uses 10; louder noise costs 16-bit weights precision.",
        min=0,
        max=200,
        unset="no noise",
    )
    seed: int = option(
        0, "Seed of the noise. The same seed gives the same bytes on processors with the same vector instructions."
    )

    def __post_init__(self) -> None:
        check_values(self)
        ratio = self.uneven_ratio
        if not isinstance(ratio, tuple) or not ratio or any(type(part) is not int or part < 1 for part in ratio):
            raise RequestError(f"--uneven-ratio {format_ratio(ratio)}: expected whole numbers such as 1:2.")
        if ratio != Mixing.uneven_ratio and self.strategy != "uneven":
            raise RequestError(f"--uneven-ratio means nothing to --strategy {self.strategy}.", "Add --strategy uneven.")

    def share(self, output_copy: int, input_copy: int, copies: int) -> Fraction:
        """C[output_copy, input_copy] for an input in `copies` copies."""
        from fractions import Fraction  # takes milliseconds, which `--help` need not wait for

        if self.strategy == "diagonal":
            return Fraction(int(input_copy == output_copy % copies))
        if self.strategy == "uneven":
            base = self.uneven_ratio if len(self.uneven_ratio) == copies else range(1, copies + 1)
            ratio = [part ** (1 + output_copy % copies) for part in base]
            return Fraction(ratio[input_copy], sum(ratio))
        if self.strategy == "halving":
            last = output_copy % copies
            return Fraction(int(input_copy <= last), 2 ** min(input_copy + 1, last))
        return Fraction(1, copies)
