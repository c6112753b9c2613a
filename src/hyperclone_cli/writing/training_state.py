"""What resumes a training run, written beside the weights of a clone: its optimizer, and what is copied as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hyperclone_cli.checkpoint.distributed import layout_of, metadata_of, read_beside
from hyperclone_cli.checkpoint.safetensors_file import read_header
from hyperclone_cli.checkpoint.training_state import FLAT_NAME, carried_files, read_carried
from hyperclone_cli.errors import CheckpointError, StorageError, first_of
from hyperclone_cli.planning.optimizer import GrownOptimizer, plan_optimizer
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.writing.budget import plan_budget
from hyperclone_cli.writing.distributed_file import DistributedFile
from hyperclone_cli.writing.flat_optimizer_file import FlatOptimizerFile
from hyperclone_cli.writing.journal import Journal
from hyperclone_cli.writing.open_numbers import OpenFile, write_open_file
from hyperclone_cli.writing.optimizer_file import OptimizerFile


@dataclass(frozen=True)
class TrainingState:
    """The training state of a clone as planned.

    files  in which the optimizer is written, and the weights once more where it lies in a distributed checkpoint
    notes  for the user
    """

    source: Path
    optimizer: GrownOptimizer
    files: tuple[OpenFile, ...]
    notes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)


def plan_training_state(plan: Plan) -> TrainingState:
    """The training state of the checkpoint that `plan` grows, as the clone's will be.

    It lies in files of the same kind as the source's. Raises as `plan_optimizer`.
    """
    optimizer, source = plan_optimizer(plan), plan.source.path
    if optimizer.layout is None:
        kind = FlatOptimizerFile if optimizer.path.name == FLAT_NAME else OptimizerFile
        return TrainingState(source, optimizer, (kind.of(optimizer),), optimizer.notes)
    files, notes = [], list(optimizer.notes)
    for parts in sorted({optimizer.path, *filter(None, [metadata_of(source)])}):
        layout, beside = layout_of(parts, source), read_beside(parts, source)
        if layout.prefix is None:
            raise CheckpointError(
                f"{parts}: wrappers of training have put words inside of names, which cannot be put back.",
                "Save it with torch.distributed.checkpoint.state_dict.get_state_dict, which takes them out.",
            )
        if layout.model is not None and optimizer.fused:
            raise CheckpointError(
                f"{parts}: its weights cannot be written in that form: transformers computes with"
                f" {first_of(optimizer.fused, 2)}, and stores other tensors.",
                "Leave --optimizer out.",
            )
        files.append(DistributedFile.of(optimizer, PurePosixPath(parts.relative_to(source)), layout, beside))
        if beside.left_out:
            notes.append(
                f"Of the distributed checkpoint, left behind: {first_of(beside.left_out)} (has matrices, or a pickle"
                " that would run code)."
            )
    return TrainingState(source, optimizer, tuple(files), tuple(notes))


def write_training_state(
    state: TrainingState,
    plan: Plan,
    journal: Journal,
    threads: int | None,
    max_memory: int | str | None,
    advance: Callable[[int, int], None],
) -> frozenset[str]:
    """Write it beside the journal and the shards of `plan`, which are complete: all that the journal does not list yet.

    `advance` is called with the bytes just written, and with all of them. Returns the names of the source's moments
    that contain NaN or Inf, of those that were read. Raises OSError if the disk fails.
    """
    total = state.nbytes
    clone = {name: one for shard in plan.shards for name, one in read_header(journal.directory / shard).items()}
    kinds = {part.kind for file in state.files for one in file.moments.values() for part in one.parts.values()}
    budget = plan_budget(kinds, threads, max_memory)
    non_finite = frozenset[str]()
    for file in state.files:
        non_finite |= write_open_file(
            file, state.optimizer.held, clone, journal, budget, lambda written: advance(written, total)
        )
    for name in carried_files(state.source):
        (journal.directory / name).write_bytes(read_carried(state.source, name))
    return non_finite


def check_training_state(state: TrainingState, directory: Path) -> None:
    """Read what was written back, and compare its shapes with what was planned. Raises StorageError."""
    again = "The disk did not keep what was written: check it, and run the same command again."
    for file in state.files:
        try:
            found = file.read_back(directory)
        except CheckpointError as error:
            raise StorageError(f"read back, {error.message}", again) from error
        expected = {name: one.shape for name, one in file.moments.items()}
        expected |= {name: one.shape for name, one in file.copied.items()}
        if wrong := [name for name, shape in expected.items() if found.get(name) != shape]:
            raise StorageError(
                f"{directory / file.names[0]}: read back, {first_of(wrong)} is not {list(expected[wrong[0]])}.", again
            )
