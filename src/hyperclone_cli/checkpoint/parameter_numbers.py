"""Which parameter of a model each number in the state of an optimizer is: torch numbers them group by group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.optimizer_state import OptimizerState
from hyperclone_cli.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Groups = list[list[str]]


def parameter_names(optimizer: OptimizerState, model: PreTrainedModel) -> dict[int, str]:
    """Number → name in `model` of every parameter of an optimizer.

    model  the model that it trained, without weights

    The names are those that the state gives itself, or they follow from the usual ways to make groups: the Trainer's,
    all parameters in one, matrices apart from vectors. Whatever fits in number and shape is taken. Raises
    CheckpointError if nothing does.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    sizes = [len(group["params"]) for group in optimizer.groups]
    for groups in _candidates(optimizer, model):
        named = dict(zip(optimizer.numbers, chain(*groups), strict=False))
        if [len(group) for group in groups] == sizes and all(
            name in shapes and optimizer.shape(number) in (None, shapes[name]) for number, name in named.items()
        ):
            return named
    raise CheckpointError(
        f"{optimizer.path}: its groups of {' and '.join(map(str, sizes))} parameters are not those of the model, which"
        f" has {len(shapes)}: neither as the Trainer makes them, nor in one group, nor matrices apart from vectors.",
        "Parameters that were frozen or fused, or have rates of their own, are not grown: leave --optimizer out.",
    )


def _candidates(optimizer: OptimizerState, model: PreTrainedModel) -> Iterator[Groups]:
    """The names of the parameters in each group, in order, in every way that is known."""
    if optimizer.names:
        yield [[optimizer.names[number] for number in group["params"]] for group in optimizer.groups]
    dimensions = {name: parameter.dim() for name, parameter in model.named_parameters()}
    decaying = _decaying(model)
    yield _apart({name: name in decaying for name in dimensions})
    yield [list(dimensions)]
    yield _apart({name: number >= 2 for name, number in dimensions.items()})


def _apart(first: Mapping[str, bool]) -> Groups:
    return [[name for name, is_first in first.items() if is_first is wanted] for wanted in (True, False)]


def _decaying(model: PreTrainedModel) -> set[str]:
    """The parameters to which the Trainer applies weight decay: its own rule, which asks nothing of a Trainer."""
    from transformers import Trainer

    return set(Trainer.get_decay_parameter_names(None, model))
