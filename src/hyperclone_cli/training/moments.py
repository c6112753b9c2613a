"""The moments that `expand --optimizer` has grown, in an optimizer with the groups of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hyperclone_cli.errors import CheckpointError, first_of
from hyperclone_cli.growth.recipe import Recipe
from hyperclone_cli.training.parameters import trained

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_moments(
    optimizer: torch.optim.Optimizer,
    model: PreTrainedModel,
    recipe: Recipe,
    checkpoint: str | Path,
    fresh_where_new: bool = True,
) -> None:
    """Give AdamW the state that a clone's checkpoint holds, whatever groups that was grown in.

    How moments grow, and where that is exact, is told by `planning.moments`. Of coordinates that are new the first
    moment is put to zero, so that copies diverge (after arXiv 2602.02472); the second stays, since zeros would make the
    first steps several times as long as the rate.

    fresh_where_new  False: first moments of what is new are as they were grown

    Raises CheckpointError if there is no state of AdamW, or it is not that of the model.
    """
    from hyperclone_cli.checkpoint.optimizer_state import read_optimizer
    from hyperclone_cli.checkpoint.parameter_numbers import parameter_names

    found = read_optimizer(Path(checkpoint))
    numbers = {name: number for number, name in parameter_names(found, model).items()}
    parameters = {one.parameter: one for one in trained(model, recipe)}
    if absent := [one.name for one in parameters.values() if one.name not in numbers]:
        raise CheckpointError(
            f"{found.path}: holds no state of {first_of(absent, 3)}.", "Begin with a fresh optimizer."
        )
    state: dict[int, dict[str, Any]] = {}
    with found.held.rows() as read:
        for place, parameter in enumerate(one for group in optimizer.param_groups for one in group["params"]):
            number = numbers[parameters[parameter].name]
            moments = {
                key: read(stored, 0, stored.shape[0]).to(parameter.device)
                for key, stored in found.moments.get(number, {}).items()
            }
            if not moments:
                continue
            new = parameters[parameter].new(recipe) if fresh_where_new else None
            if new is not None:
                moments["exp_avg"] = moments["exp_avg"].masked_fill(new.to(parameter.device), 0.0)
            state[place] = {"step": found.steps[number], **moments} if number in found.steps else {**moments}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
