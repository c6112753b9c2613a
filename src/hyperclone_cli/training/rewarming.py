"""Asymmetric re-warm-up: coordinates that are new begin more slowly than those of the source.

Copies that are equal get equal gradients and stay equal under equal rates. Rates that differ for a while make them
diverge, and let what is new settle in around what is trained already. After arXiv 2602.02472, which warms the rate of
new channels up anew; how is our own: the step of an optimizer is shortened where a coordinate is new.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.recipe import Recipe
from hyperclone_cli.training.parameters import Model, trained


class Rewarming:
    """Hooks of an optimizer that shorten its steps where coordinates are new: step t of `steps` to t / steps.

    Any optimizer of torch will do, in any trainer. Until the last of these steps a second copy of every parameter with
    new coordinates is held. `remove` ends it before.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, masks: list[tuple[nn.Parameter, torch.Tensor]], steps: int, done: int
    ) -> None:
        self._masks, self.steps, self.done = masks, steps, done
        self._before: list[torch.Tensor] = []
        self._hooks = [optimizer.register_step_pre_hook(self._keep), optimizer.register_step_post_hook(self._shorten)]
        if done >= steps:
            self.remove()

    def _keep(self, *_: Any) -> None:
        self._before = [parameter.detach().clone() for parameter, _ in self._masks]

    @torch.no_grad()
    def _shorten(self, *_: Any) -> None:
        self.done += 1
        part = self.done / self.steps
        for (parameter, new), before in zip(self._masks, self._before, strict=True):
            parameter.copy_(torch.where(new, torch.lerp(before, parameter, part), parameter))
        self._before = []
        if self.done >= self.steps:
            self.remove()

    def remove(self) -> None:
        """Take the hooks off, so that all steps are whole."""
        for hook in self._hooks:
            hook.remove()
        self._masks = []


def rewarm_new(optimizer: torch.optim.Optimizer, model: Model, recipe: Recipe, steps: int, done: int = 0) -> Rewarming:
    """Have `optimizer` warm up what is new in a clone over so many of its steps, on top of any schedule.

    steps  such as `recipe.warm_up_of_new` of the run's
    done   those that an interrupted run has taken

    Raises RequestError for a number of steps below 1; CheckpointError if the model is not the one of the recipe.
    """
    if steps < 1:
        raise RequestError(f"{steps} steps are no warm-up.", "Give the number of steps, 1 or more.")
    found = [(one.parameter, one.new(recipe)) for one in trained(model, recipe)]
    masks = [(parameter, new.to(parameter.device)) for parameter, new in found if new is not None]
    return Rewarming(optimizer, masks, steps, done)
