"""The optimizer of a training checkpoint, grown: the groups of the clone's parameters, and every moment as planned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperclone_cli.checkpoint.distributed import Layout
from hyperclone_cli.checkpoint.fused_parameters import Rows, stored_rows
from hyperclone_cli.checkpoint.optimizer_state import POWERS, read_optimizer
from hyperclone_cli.checkpoint.parameter_numbers import parameter_names
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.checkpoint.source import Fingerprint, Source
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
class GrownMoment:
    """A moment of one parameter of a clone.

    shape  of the parameter
    parts  first row → what lies from there on; several where the parameter is stored as several tensors, such as
           fused experts. All dimensions but the last are merged into rows
    """

    shape: tuple[int, ...]
    parts: Mapping[int, GrownTensor]

    @property
    def dtype(self) -> str:
        return self.parts[0].dtype

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    def places(self, whole: StoredTensor) -> list[tuple[GrownTensor, StoredTensor]]:
        """Each part, and where it lies if the moment lies at `whole`."""
        row_bytes = self.nbytes // prod(self.shape[:-1])
        return [
            (part, whole._replace(name=part.name, shape=part.shape, offset=whole.offset + first * row_bytes))
            for first, part in self.parts.items()
        ]


@dataclass(frozen=True)
class GrownOptimizer:
    """The optimizer of a clone as planned.

    path     of the source's
    groups   the parameter groups, whose "params" are numbers
    names    the names of the parameters, in the order of their numbers
    state    number of a parameter → its moments as planned, and the steps that bias correction counts as they are
    held     where the moments of the source lie
    layout   how the distributed checkpoint that it lies in is put together; None if it lies in one file
    weights  name in the state dict of the clone's model → the tensor as planned; a tied head is the embedding's
    fused    names in that state dict which are stored as other tensors
    notes    for the user
    """

    path: Path
    groups: tuple[Mapping[str, Any], ...]
    names: tuple[str, ...]
    state: Mapping[int, Mapping[str, Any]]
    held: Source
    layout: Layout | None
    weights: Mapping[str, GrownTensor]
    fused: tuple[str, ...]
    notes: tuple[str, ...]

    def fingerprint(self) -> Fingerprint:
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
    made_of = _made_of(plan, stored_rows(model), stored_rows(clone))
    shapes = {name: tuple(parameter.shape) for name, parameter in clone.named_parameters()}
    if unknown := [name for name in shapes if made_of.get(name, _Made()).source not in numbers]:
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
        members = [name for name in shapes if numbers[made_of[name].source] in of_group]
        named = {"param_names": members} if "param_names" in group else {}
        groups.append({**group, **named, "params": list(range(len(names), len(names) + len(members)))})
        for number, name in enumerate(members, len(names)):
            made, old = made_of[name], numbers[made_of[name].source]
            steps = {"step": found.steps[old]} if old in found.steps else {}
            grown = {
                key: GrownMoment(
                    shapes[name],
                    {
                        first: grow_moment(plan, tensor, rows.cut(stored), POWERS[key], f"{tensor.name}.{key}")
                        for first, (tensor, rows) in made.parts.items()
                    },
                )
                for key, stored in found.moments.get(old, {}).items()
            }
            if grown:
                state[number] = steps | grown
        names += members
    if not state:
        raise CheckpointError(f"{found.path}: it holds no moments.", _LEAVE)
    notes = () if shares_are_exact(plan) else (_ESTIMATES,)
    planned = {tensor.name: tensor for tensor in plan.tensors}
    in_state_dict = _state_dict_names(clone)
    weights = {name: planned[first] for name, first in in_state_dict.items() if first in planned}
    fused = tuple(name for name in in_state_dict if name not in weights)
    return GrownOptimizer(
        found.path, tuple(groups), tuple(names), state, found.held, found.layout, weights, fused, notes
    )


@dataclass(frozen=True)
class _Made:
    """What a parameter of the clone is made of.

    source  the parameter of the source; "" if it is not rows of one
    parts   first row → (the tensor of the clone that lies there, the rows of the source that it is made of)
    """

    source: str = ""
    parts: Mapping[int, tuple[GrownTensor, Rows]] = field(default_factory=dict)


def _made_of(plan: Plan, before: Mapping[str, Rows], after: Mapping[str, Rows]) -> dict[str, _Made]:
    """Name of a parameter of the clone → what it is made of. `before` and `after`: the rows of source and clone."""
    parts: dict[str, dict[int, tuple[GrownTensor, Rows]]] = defaultdict(dict)
    for tensor in plan.tensors:
        rows, made_of = after.get(tensor.name), before.get(tensor.source.name)
        if rows and made_of and rows.is_all_of(tensor.shape) and made_of.is_all_of(tensor.source.shape):
            parts[rows.parameter][rows.start] = tensor, made_of
    made = {}
    for name, found in parts.items():
        held = sum(after[tensor.name].stop - after[tensor.name].start for tensor, _ in found.values())
        sources = {rows.parameter for _, rows in found.values()}
        of = next(after[tensor.name].of for tensor, _ in found.values())
        made[name] = _Made(sources.pop() if len(sources) == 1 and held == of else "", dict(sorted(found.items())))
    return made


def _state_dict_names(model: PreTrainedModel) -> dict[str, str]:
    """Every name in the state dict of a model → the first name of the same tensor, which others may be tied to."""
    named = model.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    return {name: first[id(tensor)] for name, tensor in named.items()}
