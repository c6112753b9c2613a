"""Copy symmetry: which clones begin with copies that training will keep equal, told from the plan alone.

Copies of the activations are equal, so the gradient of block [a, b] of a weight is the gradient of output copy a times
the same activation for every b. The gradient of input copy b is the gradient of the outputs weighted by column b of C,
summed over the output copies (see `strategies`). Hence, going back from the loss: if the columns of every C have equal
sums, and there is neither noise nor padding that noise reads, then the gradients of all copies are equal. The copies
stay equal under any elementwise optimizer, such as AdamW, whose state and rates are the same for all of them.
Dropout on the residual stream makes the copies of the stream diverge, but not those of feed-forward units and heads.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from fractions import Fraction

from hyperclone_cli.families.vocabulary import Role
from hyperclone_cli.planning.grown_tensor import TensorKind
from hyperclone_cli.planning.plan import Plan

NOISE = "--noise-snr-db 10"
ALL_COPIES = "The copies"
WHAT_TRAINING_DOES = (
    "an elementwise optimizer such as AdamW keeps the copies equal;"
    " dropout on the residual stream makes only the copies of that stream diverge"
)
"""What happens to copies that get equal gradients."""


def copies_with_equal_gradients(plan: Plan) -> str:
    """Which copies get equal gradients, dropout and rounding aside: ALL_COPIES, a phrase for most of them, or ""."""
    grown = any(growth.grows for axis, growth in plan.growths.items() if axis not in ("layers", "experts"))
    if not grown or not all(map(_passes_equal_gradients, plan.kinds)):
        return ""
    if any(map(_has_silent_heads, plan.kinds)):
        return "All copies except those of heads"
    return "All copies except those of queries" if any(map(_has_padded_keys, plan.kinds)) else ALL_COPIES


def _has_silent_heads(kind: TensorKind) -> bool:
    """Whether nothing reads some heads: their queries, keys and values get no gradient, while those of others do."""
    return kind.part == "attention" and any(run.silent for growth in kind.growths for run in growth.runs)


def _has_padded_keys(kind: TensorKind) -> bool:
    """Whether larger heads pad their keys: then one copy of a query meets a key and another meets padding."""
    return kind.part == "attention" and kind.growths[0].padding > 0


def _passes_equal_gradients(kind: TensorKind) -> bool:
    """Whether a layer gives all copies of its inputs equal gradients, if the copies of its outputs have equal ones."""
    if kind.roles[1:] != (Role.IN,):
        return True
    if kind.noisy or kind.reads_padding:
        return False
    rows, columns = kind.growths
    readings: dict[int, Counter[int]] = defaultdict(Counter)  # output unit → row of C → how many copies have it
    for run in rows.runs:
        if not run.is_padding:
            readings[run.start][kind.mixing_row(run)] += 1
    for counts in {tuple(counter.items()) for counter in readings.values()}:
        column_sums: dict[int, set[Fraction]] = defaultdict(set)  # input unit → sums of C's columns, over its copies
        for run, *shares in zip(columns.runs, *(kind.shares(reading) for reading, _ in counts), strict=True):
            if run.silent:
                continue
            amounts = (count * share for (_, count), share in zip(counts, shares, strict=True))
            column_sums[run.start].add(sum(amounts, Fraction(0)))
        if any(len(sums) > 1 for sums in column_sums.values()):
            return False
    return True


def advice(plan: Plan) -> str:
    """A note for a clone whose copies training keeps equal, with the options that break the symmetry; else ""."""
    return " ".join(filter(None, [_advice_on_widths(plan), _advice_on_experts(plan)]))


def _advice_on_experts(plan: Plan) -> str:
    """Copies of experts are chosen together, so they get the same tokens, and equal gradients if they are equal."""
    noisy = plan.request.mixing.noise_snr_db is not None
    if noisy or plan.proposal.upcycling or not plan.growths["experts"].grows:
        return ""
    return (
        "The copies of an expert are chosen together, and get equal gradients: an elementwise optimizer keeps them"
        f" equal. To make them diverge: {NOISE}."
    )


def _advice_on_widths(plan: Plan) -> str:
    which = copies_with_equal_gradients(plan)
    if not which:
        return ""
    halving = replace(plan.request.mixing, strategy="halving")
    breaks_symmetry = not all(_passes_equal_gradients(replace(kind, mixing=halving)) for kind in plan.kinds)
    options = f"--strategy halving or {NOISE}" if breaks_symmetry else NOISE
    return f"{which} get equal gradients: {WHAT_TRAINING_DOES}. To make them diverge: {options}."
