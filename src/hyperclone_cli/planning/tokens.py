"""What is known of training a clone on so many tokens, for `plan --tokens`."""

from __future__ import annotations

from dataclasses import dataclass

from hyperclone_cli.families.axes import AXES
from hyperclone_cli.planning.plan import Plan

MOST_PER_PARAMETER, MOST_GROWTH = 20, 2
"""Gains of growth were the largest below so many tokens for each parameter, and growth by this factor the most reliable
(arXiv 2605.13405, from its abstract)."""

BREAK_EVEN = 3
"""In our benchmark clones ended below their source, trained on for as many FLOPs, from two to three tokens for each of
their parameters on (docs/training.md)."""

_DIMENSIONS = ("embed", "ffn", "layers")


@dataclass(frozen=True)
class TokenBudget:
    """A number of training tokens beside a source and its clone.

    before, after  tokens for each parameter of the source and of the clone, a tied head counted once
    notes          what is known of growth at such a budget
    """

    tokens: int
    before: float
    after: float
    notes: tuple[str, ...]


def token_budget(plan: Plan, tokens: int) -> TokenBudget:
    """What is known of training the clone of a plan on this number of tokens."""
    before, after = (tokens / part.total() for part in plan.parameters())
    notes = []
    if after < BREAK_EVEN:
        notes.append(
            f"Fewer than {BREAK_EVEN} tokens for each parameter of the clone: in our benchmark, on tiny models, the"
            " source that was trained on for as many FLOPs ended as low or lower then (docs/training.md)."
        )
    if after > MOST_PER_PARAMETER:
        notes.append(
            f"More than {MOST_PER_PARAMETER} tokens for each parameter: there the gains of growth fade, and a random"
            " start of the clone's shape catches up (arXiv 2605.13405)."
        )
    wide = [
        f"{AXES[axis].what} {float(plan.growths[axis].ratio):g} ×"
        for axis in _DIMENSIONS
        if axis in plan.growths and plan.growths[axis].target > MOST_GROWTH * plan.growths[axis].source
    ]
    if wide:
        notes.append(
            f"Growth by {MOST_GROWTH} × was the most reliable (arXiv 2605.13405); here: {', '.join(wide)}. It can be"
            " done in stages, with training between them."
        )
    return TokenBudget(tokens, before, after, tuple(notes))
