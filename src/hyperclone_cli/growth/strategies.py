"""How a layer's copies read the copies that they are fed: the strategy, and noise that cancels.

A weight W between a width in n copies and one in m copies becomes m·n blocks C[a, b]·W + N[a, b].
Every row of C sums to 1 and the noise blocks of every row sum to zero, so that equal copies on the
input give equal copies on the output, whatever C and N are. Source: arXiv 2409.12903, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from hyperclone_cli.errors import RequestError

STRATEGIES = ("halving", "symmetric", "diagonal", "uneven")


@dataclass(frozen=True)
class Mixing:
    """The matrix C, and the noise.

    strategy      halving: output copy a, of those up to n - 1, reads the input copies 0 … a in halves: ½, ¼, … and the
                  last two alike. Powers of two, which no dtype rounds; C is triangular, and so invertible, and its
                  columns have different sums, so that gradients differ
                  symmetric: every copy reads every copy alike, C = 1/n, as the paper has it
                  diagonal: output copy a reads input copy a mod n alone
                  uneven: output copy a reads in the proportions r to the power 1 + (a mod n), r = `uneven_ratio`.
                  Rotating one row instead would be exact too, but every copy would then be read as much as
                  every other, and get the same gradient; powers also keep C invertible if r has no equal parts
    uneven_ratio  used where it has as many numbers as there are copies; elsewhere 1 : 2 : … : n
    noise_snr_db  power of the noise-free tensor over that of the noise, in decibels; None for no noise
    seed          of the noise
    """

    strategy: str = "halving"
    uneven_ratio: tuple[int, ...] = (1, 2)
    noise_snr_db: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        ratio = self.uneven_ratio
        if self.strategy not in STRATEGIES:
            raise RequestError(f"--strategy {self.strategy}: expected one of {', '.join(STRATEGIES)}.")
        if not isinstance(ratio, tuple) or not ratio or any(type(part) is not int or part < 1 for part in ratio):
            raise RequestError(f"--uneven-ratio {_shown(ratio)}: expected whole numbers such as 1:2.")
        if ratio != (1, 2) and self.strategy != "uneven":
            raise RequestError(f"--uneven-ratio means nothing to --strategy {self.strategy}.", "Add --strategy uneven.")
        if self.noise_snr_db is not None and not 0 <= self.noise_snr_db <= 200:
            raise RequestError(f"--noise-snr-db {self.noise_snr_db}: expected decibels from 0 to 200.")

    def share(self, output_copy: int, input_copy: int, copies: int) -> Fraction:
        """C[output_copy, input_copy] for an input in `copies` copies."""
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


def _shown(ratio: object) -> str:
    return ":".join(map(str, ratio)) if isinstance(ratio, tuple) else repr(ratio)
