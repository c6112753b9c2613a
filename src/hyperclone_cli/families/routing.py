"""How a router weighs the experts that it chooses: this decides how copies share the work of what they copy.

Every copy of an expert has the router's row of that expert too, so it has the same score and is chosen with it, if as
many times more experts are chosen. Then

- a softmax, over all experts or over the chosen ones, gives c copies 1/c of the probability each;
- so does a division by the sum of the chosen scores, whatever these are;
- a score that stands alone, as a sigmoid of each expert's, is given to every copy in full: c times too much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Routing:
    """How a token's experts are chosen and weighed.

    default  how many are chosen where config.json does not say; None: it must say
    chosen   the config key for how many are chosen
    alone    values of config.json under which each chosen expert's weight is its own score, whatever the others have;
             None: copies share the weight under every config
    groups   config key → its default: the number of groups that experts are in, and how many of these are chosen
             before the experts inside them
    only     config key → the values under which this holds
    """

    default: int | None = 2
    chosen: str = "num_experts_per_tok"
    alone: Mapping[str, Any] | None = None
    groups: Mapping[str, int | None] = field(default_factory=dict)
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


UNLESS_NORMED = {"norm_topk_prob": False}
"""`alone` of scores that are sigmoids, and are divided by their sum unless config.json says otherwise."""


def in_groups(default: int | None, groups: int | None = 1, chosen: int | None = 1) -> Routing:
    """DeepSeek V3's router: sigmoids, and experts in groups of which some are chosen first."""
    return Routing(default, alone=UNLESS_NORMED, groups={"n_group": groups, "topk_group": chosen})
