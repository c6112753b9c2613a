"""The optimizer of a training checkpoint, grown beside the weights: optimizer.pt, and what else resumes a run.

torch.save takes tensors that are in memory. Here it writes a file of the right size around numbers that are left open,
and the numbers are grown block by block into their places, as weights are.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hyperclone_cli.checkpoint.parameter_numbers import parameter_names
from hyperclone_cli.checkpoint.row_io import STORED_DTYPES, as_bytes, write_rows
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor, allocate, write_all
from hyperclone_cli.checkpoint.source import Source, stored_tensors
from hyperclone_cli.checkpoint.training_state import (
    OPTIMIZER_NAME,
    POWERS,
    carried_files,
    read_carried,
    read_optimizer,
)
from hyperclone_cli.checkpoint.transformers_model import load_without_weights
from hyperclone_cli.errors import CheckpointError, RequestError, StorageError, first_of
from hyperclone_cli.planning.grown_tensor import GrownTensor
from hyperclone_cli.planning.moments import grow_moment, shares_are_exact
from hyperclone_cli.planning.planner import Plan
from hyperclone_cli.writing.arithmetic import grow_block
from hyperclone_cli.writing.block_loop import run_blocks, workers
from hyperclone_cli.writing.blocks import Block
from hyperclone_cli.writing.budget import plan_budget
from hyperclone_cli.writing.journal import Journal

_SYNC_BYTES = 256 << 20
_ESTIMATES = (
    "The moments of the optimizer are estimates: how much of the gradient each copy of the residual stream has differs"
    " from layer to layer under this strategy. --strategy symmetric grows them exactly."
)
_LEAVE = "Leave --optimizer out."


@dataclass(frozen=True)
class GrownOptimizer:
    """The optimizer of a clone as planned.

    groups  the parameter groups, as the state dict will have them
    state   number of a parameter → its moments as planned, and the steps that bias correction counts as they are
    held    where the moments of the source lie
    notes   for the user
    """

    path: Path
    groups: tuple[Mapping[str, Any], ...]
    state: Mapping[int, Mapping[str, Any]]
    held: Source
    notes: tuple[str, ...]

    @property
    def tensors(self) -> list[GrownTensor]:
        """All moments, in the order of their numbers."""
        return [one for state in self.state.values() for one in state.values() if isinstance(one, GrownTensor)]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

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
    new = 0
    for group in found.groups:
        of_group = set(group["params"])
        members = [name for name in parameters if numbers[planned[name].source.name] in of_group]
        plain = {key: item.item() if isinstance(item, torch.Tensor) else item for key, item in group.items()}
        named = {"param_names": members} if "param_names" in group else {}
        groups.append({**plain, **named, "params": list(range(new, new + len(members)))})
        for number, name in enumerate(members, new):
            old = numbers[planned[name].source.name]
            steps = {"step": found.steps[old]} if old in found.steps else {}
            grown = {
                key: grow_moment(plan, planned[name], stored, POWERS[key], f"{name}.{key}")
                for key, stored in found.moments.get(old, {}).items()
            }
            if grown:
                state[number] = steps | grown
        new += len(members)
    if not state:
        raise CheckpointError(f"{found.path}: it holds no moments.", _LEAVE)
    notes = () if shares_are_exact(plan) else (_ESTIMATES,)
    return GrownOptimizer(found.path, tuple(groups), state, found.held, notes)


def write_optimizer(
    optimizer: GrownOptimizer,
    journal: Journal,
    threads: int | None,
    max_memory: int | str | None,
    advance: Callable[[int, int], None],
) -> None:
    """Write optimizer.pt beside the journal: every moment that the journal does not list yet.

    The bytes do not depend on the number of threads, nor on how often the run was interrupted. `advance` is called with
    the bytes just written, and with all of them. Raises OSError if the disk fails.
    """
    path, total, tensors = journal.directory / OPTIMIZER_NAME, optimizer.nbytes, optimizer.tensors
    done = journal.done.get(OPTIMIZER_NAME, frozenset())
    if not done or not path.exists():
        done = frozenset()
        _write_around(optimizer, path)
    places = _places(optimizer, path)
    advance(sum(tensor.nbytes for tensor in tensors if tensor.name in done), total)
    budget = plan_budget({tensor.kind for tensor in tensors}, threads, max_memory)
    missing = [tensor for tensor in tensors if tensor.name not in done]
    with (
        path.open("r+b", buffering=0) as file,
        optimizer.held.rows() as read,
        workers(budget.threads) as executor,
    ):

        def write(block: Block, rows: torch.Tensor, noise_power: float) -> int:
            written = 0
            for place, grown in grow_block(block, rows, noise_power):
                write_rows(file.fileno(), block.tensor.like(places[block.tensor.name]), place, grown)
                written += grown.nbytes
            return written

        for name, step in _steps(optimizer):
            write_all(file.fileno(), as_bytes(step.contiguous()), places[name].offset)
        finished: list[str] = []
        nbytes = 0
        for result in run_blocks(missing, read, executor, budget, write):
            advance(result.value, total)
            nbytes += result.value
            if result.last:
                finished.append(result.block.tensor.name)
            if nbytes >= _SYNC_BYTES and finished:
                os.fsync(file.fileno())
                journal.record(OPTIMIZER_NAME, finished)
                finished, nbytes = [], 0
        os.fsync(file.fileno())
        journal.record(OPTIMIZER_NAME, finished)


def check_optimizer(optimizer: GrownOptimizer, directory: Path) -> None:
    """Read the written optimizer back, and compare its groups and shapes with what was planned. Raises StorageError."""
    again = "The disk did not keep what was written: check it, and run the same command again."
    try:
        found = read_optimizer(directory)
    except CheckpointError as error:
        raise StorageError(f"read back, {error.message}", again) from error
    for number, state in optimizer.state.items():
        for key, planned in state.items():
            if isinstance(planned, GrownTensor) and found.moments[number][key].shape != planned.shape:
                raise StorageError(f"{found.path}: read back, {planned.name} is not {list(planned.shape)}.", again)


def copy_training_state(source: Path, target: Path) -> None:
    """Copy what resumes a run and does not depend on sizes: schedule, trainer state, random numbers, loss scale."""
    for name in carried_files(source):
        (target / name).write_bytes(read_carried(source, name))


def _steps(optimizer: GrownOptimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, number) of the steps of every parameter that has them in a tensor."""
    for number, state in optimizer.state.items():
        yield from ((f"{number}.{key}", one) for key, one in state.items() if isinstance(one, torch.Tensor))


def _open_tensors(optimizer: GrownOptimizer) -> Iterator[tuple[int, str, StoredTensor]]:
    """(number, key, tensor) of everything in the state whose numbers are left open, in order, each at offset 0."""
    for number, state in optimizer.state.items():
        for key, one in state.items():
            if isinstance(one, GrownTensor):
                yield number, key, StoredTensor(one.name, one.dtype, one.shape, optimizer.path, 0)
            elif isinstance(one, torch.Tensor):
                yield number, key, stored_tensors(optimizer.path, {f"{number}.{key}": one})[f"{number}.{key}"]


def _write_around(optimizer: GrownOptimizer, path: Path) -> None:
    """Write the state dict with all of its numbers left open, and take the room for them."""
    state = {number: dict(one) for number, one in optimizer.state.items()}
    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
        for number, key, tensor in _open_tensors(optimizer):
            state[number][key] = torch.empty(tensor.shape, dtype=STORED_DTYPES[tensor.dtype])
        torch.save({"state": state, "param_groups": list(optimizer.groups)}, path)
    with path.open("r+b") as file:
        allocate(file.fileno(), path.stat().st_size)


def _places(optimizer: GrownOptimizer, path: Path) -> dict[str, StoredTensor]:
    """Where each tensor of the state lies in the file: torch.save numbers them in the order in which it meets them."""
    found: dict[str, StoredTensor] = {}
    with ZipFile(path) as archive, path.open("rb") as file:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        for record, (_, _, tensor) in enumerate(_open_tensors(optimizer)):
            begin = entries[f"data/{record}"].header_offset
            file.seek(begin)
            lengths = struct.unpack("<26xHH", file.read(30))  # of the name and the extra field that follow
            found[tensor.name] = replace(tensor, path=path, offset=begin + 30 + sum(lengths))
    return found
