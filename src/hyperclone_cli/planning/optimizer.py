"""The optimizer of a training checkpoint, grown: the groups of the clone's parameters, and every moment as planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperclone_cli.checkpoint.distributed import Layout
from hyperclone_cli.checkpoint.optimizer_state import POWERS, read_optimizer
from hyperclone_cli.checkpoint.parameter_numbers import parameter_names
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.checkpoint.transformers_model import load_without_weights
from hyperclone_cli.errors import CheckpointError, RequestError, first_of
from hyperclone_cli.planning.grown_tensor import GrownTensor
from hyperclone_cli.planning.moments import grow_moment, shares_are_exact
from hyperclone_cli.planning.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ESTIMATES = (
    "The moments of the optimizer are estimates: how much of the gradient each copy of the residual stream has differs"
    " from layer to layer under this strategy. --strategy symmetric grows them exactly."
)
_LEAVE = "Leave --optimizer out."


@dataclass(frozen=True)
class GrownOptimizer:
    """The optimizer of a clone as planned.

    path     of the source's
    groups   the parameter groups, whose "params" are numbers
    names    the names of the parameters, in the order of their numbers
    state    number of a parameter → its moments as planned, and the steps that bias correction counts as they are
    held     where the moments of the source lie
    layout   how the distributed checkpoint that it lies in is put together; None if it is optimizer.pt
    weights  name in the state dict of the clone's model → the tensor as planned; a tied head is the embedding's
    notes    for the user
    """

    path: Path
    groups: tuple[Mapping[str, Any], ...]
    names: tuple[str, ...]
    state: Mapping[int, Mapping[str, Any]]
    held: Source
    layout: Layout | None
    weights: Mapping[str, GrownTensor]
    notes: tuple[str, ...]

    def fingerprint(self) -> dict[str, list[int]]:
        """As of a source's weights, for the files that the moments lie in."""
        return {f"{self.path.name}: {name}": found for name, found in self.held.fingerprint().items()}


def plan_optimizer(plan: Plan) -> GrownOptimizer:
    """The optimizer of the checkpoint that `plan` grows, as the clone's will be.

    Each parameter of the clone is in the group of the one that it is made of. Raises CheckpointError if there is no
    optimizer, or one that cannot be grown; RequestError for a clone that has other parameters.
    """
    if plan.request.text_only:
        raise RequestError("--optimizer: not with --text-only, whose clone has other parameters.", "Leave one out.")
    if any(kind.stored.packed and kind.stored.packed.is_view for kind in plan.kinds):
        raise RequestError(
            "--optimizer: not where a dense model becomes a mixture, nor with noise for copies of experts: those are"
            " parameters that the source has not.",
            _LEAVE,
        )
    found = read_optimizer(plan.source.path)
    model, _ = load_without_weights(plan.source.config, plan.source.tensors.values(), plan.source.path)
    clone, _ = load_without_weights(plan.config, plan.tensors, "the clone")
    numbers = {name: number for number, name in parameter_names(found, model).items()}
    planned = {tensor.name: tensor for tensor in plan.tensors}
    parameters = [name for name, _ in clone.named_parameters()]
    if unknown := [name for name in parameters if name not in planned or planned[name].source.name not in numbers]:
        raise CheckpointError(
            f"{found.path}: no parameter of the optimizer is what {first_of(unknown, 2)} of the clone is made of:"
            " transformers computes with other tensors than it stores, or they were not trained.",
            _LEAVE,
        )
    groups: list[dict[str, Any]] = []
    state: dict[int, dict[str, Any]] = {}
    names: list[str] = []
    for group in found.groups:
        of_group = set(group["params"])
        members = [name for name in parameters if numbers[planned[name].source.name] in of_group]
        named = {"param_names": members} if "param_names" in group else {}
        groups.append({**group, **named, "params": list(range(len(names), len(names) + len(members)))})
        for number, name in enumerate(members, len(names)):
            old = numbers[planned[name].source.name]
            steps = {"step": found.steps[old]} if old in found.steps else {}
            grown = {
                key: grow_moment(plan, planned[name], stored, POWERS[key], f"{name}.{key}")
                for key, stored in found.moments.get(old, {}).items()
            }
            if grown:
                state[number] = steps | grown
        names += members
    if not state:
        raise CheckpointError(f"{found.path}: it holds no moments.", _LEAVE)
    notes = () if shares_are_exact(plan) else (_ESTIMATES,)
    weights = {name: planned[first] for name, first in _state_dict_names(clone).items() if first in planned}
    return GrownOptimizer(found.path, tuple(groups), tuple(names), state, found.held, found.layout, weights, notes)


def _state_dict_names(model: PreTrainedModel) -> dict[str, str]:
    """Every name in the state dict of a model → the first name of the same tensor, which others may be tied to."""
    named = model.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    return {name: first[id(tensor)] for name, tensor in named.items()}
