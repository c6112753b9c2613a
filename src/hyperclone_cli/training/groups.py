"""Parameter groups with the rates of a recipe."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import nn

from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.recipe import Recipe
from hyperclone_cli.training.parameters import Model, trained


def parameter_groups(
    model: Model, recipe: Recipe, rate: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """The groups that an optimizer such as torch.optim.AdamW takes: one for each rate, with weight decay and without.

    rate          the peak rate of parameters that read no wider width; None: the source's, which the recipe may state
    weight_decay  that of the source, as AdamW multiplies it by the rate. Where the rate is lower it is higher by as
                  much, so that weights decay as fast as the source's did (arXiv 2510.19093)

    Raises RequestError if no rate is given and the recipe states none.
    """
    rate = recipe.source_rate if rate is None else rate
    if rate is None:
        raise RequestError("recipe.json states no rate.", "Give one, or expand with --source-lr.")
    members: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for one in trained(model, recipe):
        members[one.rate, one.decays].append(one.parameter)
    return [
        {"params": parameters, "lr": rate * factor, "weight_decay": weight_decay / factor if decays else 0.0}
        for (factor, decays), parameters in members.items()
    ]
