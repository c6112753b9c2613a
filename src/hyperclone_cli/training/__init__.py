"""Train a clone by the recipe beside its weights: torch alone is needed, and no trainer in particular.

    from hyperclone_cli.training import parameter_groups, read_recipe, rewarm_new

    recipe = read_recipe("clone")
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe, rate=4e-3, weight_decay=0.1))
    rewarm_new(optimizer, model, recipe, steps=1000)

`load_moments` begins with what `expand --optimizer` has grown.
"""

from hyperclone_cli.training.groups import parameter_groups
from hyperclone_cli.training.moments import load_moments
from hyperclone_cli.training.parameters import read_recipe
from hyperclone_cli.training.rewarming import Rewarming, rewarm_new

__all__ = ["Rewarming", "load_moments", "parameter_groups", "read_recipe", "rewarm_new"]
