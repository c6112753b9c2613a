"""The state of an optimizer, as a trainer leaves it: AdamW's, in optimizer.pt, safetensors or DCP."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING, Any

from hyperclone_cli.checkpoint.boundary import read_file, regular_file
from hyperclone_cli.checkpoint.distributed import Layout, layout_of, optimizer_parts_of, read_optimizer_parts
from hyperclone_cli.checkpoint.leftovers import plain_names
from hyperclone_cli.checkpoint.safetensors_file import FLOAT_DTYPES, StoredTensor, read_header
from hyperclone_cli.checkpoint.source import Source, TensorSource, read_tensors, stored_tensors
from hyperclone_cli.checkpoint.training_state import (
    FLAT_GROUPS_NAME,
    FLAT_NAME,
    OPTIMIZER_NAME,
    state_note,
    whole_optimizer,
)
from hyperclone_cli.errors import CheckpointError, first_of

if TYPE_CHECKING:
    import torch

_ADAM, _ADAM_MAXIMUM = frozenset({"exp_avg", "exp_avg_sq"}), "max_exp_avg_sq"
_OTHERS: Mapping[str, str] = {
    "momentum_buffer": "SGD with momentum, or Muon",
    "exp_avg_sq_row": "Adafactor",
    "exp_avg_sq_col": "Adafactor",
    "RMS": "Adafactor",
    "state1": "an 8-bit optimizer of bitsandbytes",
    "mu_product": "NAdam",
    "exp_inf": "Adamax",
    "square_avg": "RMSprop or Adadelta",
    "sum": "Adagrad",
    "prev": "Rprop",
    "ax": "ASGD",
    "z": "a schedule-free optimizer",
    "exp_avg": "Lion, or another with one moment",
}
"""A key of the state of a parameter → the optimizer that has it, of those that are not grown."""

POWERS: Mapping[str, int] = {"exp_avg": 1, "exp_avg_sq": 2, _ADAM_MAXIMUM: 2}
"""A moment of AdamW → the power of the gradient that it is a mean of."""

_FLAT = re.compile(r"state/(0|[1-9][0-9]*)/([^/]+)")
"""The name of a tensor in a flattened state: the number of a parameter, and a key of its state."""


@dataclass(frozen=True)
class OptimizerState:
    """The state of AdamW, as `state_dict` has it.

    groups   the parameter groups, whose "params" are numbers
    moments  number of a parameter → its moments, by their keys; nothing of those that have had no gradient
    steps    number of a parameter → the steps that bias correction counts, as they are stored
    names    number of a parameter → its name, where the state tells
    held     where the moments lie: a checkpoint of its own
    layout   how the distributed checkpoint that it lies in is put together; None if it lies in one file
    """

    path: Path
    groups: tuple[Mapping[str, Any], ...]
    moments: Mapping[int, Mapping[str, StoredTensor]]
    steps: Mapping[int, Any]
    names: Mapping[int, str]
    held: Source
    layout: Layout | None = None

    @property
    def numbers(self) -> list[int]:
        """The numbers of all parameters, in the order of the groups."""
        return [number for group in self.groups for number in group["params"]]

    def shape(self, number: int) -> tuple[int, ...] | None:
        """The shape of a parameter; None if its state does not tell."""
        return self.moments[number]["exp_avg"].shape if number in self.moments else None


def read_optimizer(directory: Path) -> OptimizerState:
    """The optimizer of a training checkpoint, read without running what its pickle names; moments stay on the disk.

    It is optimizer.pt, or the same flattened into optimizer_state.safetensors; or it lies in a distributed checkpoint
    (DCP): in one of its own, as FSDP writes it, or with the model, as torchtitan does.

    Raises CheckpointError if there is none, if it is damaged, and for any other than AdamW, by name.
    """
    path = whole_optimizer(directory)
    if path:
        regular_file(path, directory)
        return _read_flat(path, directory) if path.name == FLAT_NAME else _read_whole(path)
    if parts := optimizer_parts_of(directory):
        return _read_parts(parts, directory)
    beside = state_note(directory, optimizer=False)
    raise CheckpointError(
        f"{directory / OPTIMIZER_NAME}: no such file, so there is no optimizer to grow. {beside}".rstrip(),
        "Name a checkpoint of the Trainer, such as run/checkpoint-500, or leave --optimizer out.",
    )


def _read_whole(path: Path) -> OptimizerState:
    """The optimizer in a file of torch.save, memory-mapped."""
    import torch

    from hyperclone_cli.checkpoint.torch_bin import load_mapped

    content = load_mapped(path)
    try:
        groups = tuple(_plain(group) for group in content["param_groups"])
        state = {number: dict(one) for number, one in content["state"].items() if one}
        _check_adamw(path, groups, {number: one.keys() for number, one in state.items()})
        weights = {
            f"{number}.{key}": moment for number, one in state.items() for key, moment in one.items() if key in POWERS
        }
        if not all(isinstance(one, torch.Tensor) and _is_plain(one) for one in weights.values()):
            raise ValueError("its moments are not plain tensors")
        return _placed(path, groups, state, TensorSource(path, {}, stored_tensors(path, weights), weights))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected the state dict of a torch optimizer, with state and param_groups ({error}).",
            "Save optimizer.state_dict() with torch.save.",
        ) from None


def _read_flat(path: Path, directory: Path) -> OptimizerState:
    """The state in a file of safetensors, each tensor named "state/NUMBER/KEY", and the groups in JSON beside it."""
    state: dict[int, dict[str, Any]] = defaultdict(dict)
    for name, tensor in read_header(path).items():
        found = _FLAT.fullmatch(name)
        if not found:
            raise CheckpointError(
                f"{path}: a flattened state has tensors named state/NUMBER/KEY, this has {short(name)}.",
                "Load it into the optimizer, and torch.save(optimizer.state_dict(), 'optimizer.pt').",
            )
        state[int(found[1])][found[2]] = tensor
    try:
        groups = json.loads(read_file(directory / FLAT_GROUPS_NAME, directory))
        return _stored(path, tuple(groups), state)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: expected the state of a torch optimizer, and its groups in {FLAT_GROUPS_NAME} ({error!r}).",
            "Save optimizer.state_dict() with torch.save, as optimizer.pt.",
        ) from None


def _read_parts(parts: Path, directory: Path) -> OptimizerState:
    """The optimizer in a distributed checkpoint: parameters are named there, and cut into parts as the model is."""
    tensors, objects = read_optimizer_parts(parts, directory)
    try:
        state: dict[str, dict[str, Any]] = defaultdict(dict)
        for name, one in (tensors | objects).items():
            if name.startswith("state."):
                parameter, _, key = name.removeprefix("state.").rpartition(".")
                state[parameter][key] = one
        settings = {name: one for name, one in objects.items() if name.startswith("param_groups")}
        settings |= read_tensors({name: one for name, one in tensors.items() if name.startswith("param_groups")})
        numbers: dict[str, int] = {}
        groups = []
        for group in _groups_of(settings):
            groups.append({**group, "params": list(range(len(numbers), len(numbers) + len(group["params"])))})
            numbers |= dict(zip(group["params"], groups[-1]["params"], strict=True))
        if len(numbers) != sum(len(group["params"]) for group in groups):
            raise ValueError("a parameter is in its groups twice")
        numbered = {numbers[name]: one for name, one in state.items()}
        placed = _stored(parts, tuple(groups), numbered)
        plain, _ = plain_names(numbers)
        named = {number: plain[name] for name, number in numbers.items()}
        return replace(placed, names=named, layout=layout_of(parts, directory))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{parts}: expected the optimizer of a model, by the names of its parameters ({error!r}).",
            "Save it whole, with fsdp_state_dict_type FULL_STATE_DICT, as optimizer.pt.",
        ) from None


def _groups_of(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parameter groups, each with the names of its parameters.

    They are stored as one list, item by item ("param_groups.0.lr"), or once for each parameter
    ("param_groups.NAME.lr"): then those with equal settings make a group.
    """
    if "param_groups" in settings:
        return list(settings["param_groups"])
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, item in settings.items():
        which, _, key = name.removeprefix("param_groups.").rpartition(".")
        found[which][key] = item
    if all(which.isdecimal() for which in found):
        return [found[str(number)] for number in range(len(found))]
    groups: dict[str, dict[str, Any]] = {}
    for name, group in found.items():
        groups.setdefault(repr(sorted(group.items())), {**group, "params": []})["params"].append(name)
    return list(groups.values())


def _stored(
    path: Path, groups: tuple[Mapping[str, Any], ...], state: Mapping[int, Mapping[str, Any]]
) -> OptimizerState:
    """The state of parameters by number and key, whose tensors lie in files of the optimizer at `path`."""
    _check_adamw(path, groups, {number: one.keys() for number, one in state.items()})
    moments = {
        f"{number}.{key}": one._replace(name=f"{number}.{key}")
        for number, of_one in state.items()
        for key, one in of_one.items()
        if key in POWERS
    }
    counted = {number: one["step"] for number, one in state.items() if isinstance(one.get("step"), StoredTensor)}
    if any(prod(one.shape) != 1 for one in counted.values()):
        raise ValueError("the steps of a parameter are no single number")
    steps = read_tensors(counted)
    read = {number: {**one, "step": steps[number]} if number in steps else one for number, one in state.items()}
    return _placed(path, groups, read, Source(path, {}, moments))


def _placed(
    path: Path, groups: tuple[Mapping[str, Any], ...], state: Mapping[int, Mapping[str, Any]], held: Source
) -> OptimizerState:
    """The state by kinds. Raises ValueError if the numbers of groups and state contradict each other."""
    numbers = [number for group in groups for number in group["params"]]
    if sorted(numbers) != list(range(len(numbers))) or not state.keys() <= set(numbers):
        raise ValueError("the numbers of its parameters are not those of its groups")
    if not all(_is_single(one["step"]) for one in state.values() if "step" in one):
        raise ValueError("the steps of a parameter are no single number")
    moments = {
        number: {key: held.tensors[f"{number}.{key}"] for key in POWERS if key in one} for number, one in state.items()
    }
    if any(len({tensor.shape for tensor in one.values()}) > 1 for one in moments.values()):
        raise ValueError("the moments of a parameter differ in shape")
    if any(tensor.dtype not in FLOAT_DTYPES.values() for one in moments.values() for tensor in one.values()):
        raise ValueError("its moments are not floating-point numbers")
    named = [group.get("param_names") for group in groups]
    names = [str(name) for of_group in named for name in of_group or ()]
    return OptimizerState(
        path,
        groups,
        moments,
        steps={number: one["step"] for number, one in state.items() if "step" in one},
        names=dict(zip(numbers, names, strict=False)) if len(names) == len(numbers) else {},
        held=held,
    )


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether the numbers of a tensor lie in its file as they are."""
    import torch

    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def _is_single(steps: object) -> bool:
    import torch

    if isinstance(steps, torch.Tensor):
        return steps.numel() == 1 and _is_plain(steps)
    return isinstance(steps, (int, float))


def _plain(setting: Any) -> Any:
    """A setting of a group with numbers instead of tensors, as rates and betas may be. Raises ValueError for others."""
    import torch

    if isinstance(setting, torch.Tensor):
        if not _is_single(setting):
            raise ValueError("a setting of a group is a tensor of several numbers")
        return setting.item()
    if isinstance(setting, Mapping):
        return {key: _plain(item) for key, item in setting.items()}
    return type(setting)(map(_plain, setting)) if isinstance(setting, (list, tuple)) else setting


def _check_adamw(path: Path, groups: Iterable[Mapping[str, Any]], state: Mapping[int, Collection[str]]) -> None:
    """Raise CheckpointError for the state of another optimizer, by the keys that it has of each parameter."""
    leave = "Leave --optimizer out and start a fresh optimizer with a warm-up."
    for keys in map(set, state.values()):
        if not (_ADAM <= keys <= _ADAM | {_ADAM_MAXIMUM, "step"}):
            unknown = sorted(map(str, keys - {*_ADAM, _ADAM_MAXIMUM, "step"})) or sorted(map(str, keys))
            named = next((_OTHERS[key] for key in _OTHERS if key in unknown), "an unknown optimizer")
            raise CheckpointError(
                f"{path}: the state is that of {named} ({first_of(unknown, 3)}); only that of AdamW is grown.", leave
            )
    if any(group.get("decoupled_weight_decay") is False and group.get("weight_decay") for group in groups):
        raise CheckpointError(
            f"{path}: the state is that of Adam with weight decay in its gradients; only that of AdamW is grown.", leave
        )
