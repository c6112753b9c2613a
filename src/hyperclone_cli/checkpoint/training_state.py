"""What a trainer leaves beside the weights: optimizer, schedule, random numbers; and what becomes of each."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from hyperclone_cli.checkpoint.boundary import read_file
from hyperclone_cli.checkpoint.distributed import keys_beside, metadata_of
from hyperclone_cli.errors import CheckpointError, first_of

OPTIMIZER_NAME = "optimizer.pt"
FLAT_NAME, FLAT_GROUPS_NAME = "optimizer_state.safetensors", "optimizer_param_groups.json"
"""An optimizer without a pickle: its state, flattened, and its groups. LeRobot and others name these files so."""
CARRIED = (
    "scheduler.pt", "trainer_state.json", "rng_state.pth", "rng_state_*.pth", "scaler.pt",
    "scheduler_state.json", "training_step.json", "rng_state.safetensors",
)  # fmt: skip
"""Files that resume a run and do not depend on the sizes of its model: copied with `--optimizer`."""

_LEFT_OUT: Mapping[str, str] = {
    "training_args.bin": "a pickle of arguments that runs code when it is read; a run that goes on states its own",
    "optimizer.bin": "the optimizer as accelerate's save_state writes it: copied to optimizer.pt, it is grown",
    FLAT_NAME: "the optimizer without a pickle: --optimizer grows it where there is no optimizer.pt, and writes it so",
    "optimizer_[0-9]": "the optimizer in parts (FSDP): --optimizer grows it, and writes it in that form",
    "pytorch_model_fsdp_[0-9]": "the weights in parts (FSDP), which are read where no others lie beside them",
    "optimizer*_rank[0-9]*.bin": "the optimizer in parts of accelerate's own, not grown: save it again with use_dcp",
    "pytorch_model_fsdp*.bin": "the weights as FSDP writes them, beside those that are read",
    "rank*-of-*-optimizer.pt": "the optimizer in parts (FSDP on TPUs), not grown",
    "optimizer.safetensors": "moments in safetensors by names of a library's own, not grown: load them into the"
    " optimizer, and torch.save(optimizer.state_dict(), 'optimizer.pt')",
    "*exp_avg*.safetensors": "moments in safetensors, not grown: load them into the optimizer, and"
    " torch.save(optimizer.state_dict(), 'optimizer.pt')",
    "global_step[0-9]*": "weights and optimizer in DeepSpeed's parts: zero_to_fp32.py makes a model of the weights; the"
    " optimizer is not grown",
    "zero_pp_rank_*": "the optimizer in DeepSpeed's parts, not grown",
    "latest": "the name of DeepSpeed's last step",
    "zero_to_fp32.py": "DeepSpeed's script, copied like other code and never run",
    "mp_rank_*": "the parts of Megatron or DeepSpeed for each process",
    "iter_[0-9]*": "weights and optimizer in Megatron's parts: Megatron Bridge makes a model of the weights; the"
    " optimizer is not grown",
    "latest_checkpointed_iteration.txt": "the name of Megatron's last iteration",
    "distrib_optim.pt": "Megatron's distributed optimizer, not grown",
    "optimizer.[0-9]*.pt": "the optimizer in parts, not grown",
}
"""What else trainers leave → what it is, what becomes of it, and what could be done. All of it stays behind."""

_PARTS = ("optimizer_[0-9]", "pytorch_model_fsdp_[0-9]")
"""Distributed checkpoints, which `--optimizer` writes again where the optimizer lies in one."""


def whole_optimizer(directory: Path) -> Path | None:
    """The file of a training checkpoint that holds its optimizer; None if there is none, or it lies in parts."""
    return next((directory / name for name in (OPTIMIZER_NAME, FLAT_NAME) if (directory / name).exists()), None)


def carried_files(directory: Path) -> list[str]:
    """The names of the files of a training checkpoint that are copied with its optimizer."""
    return sorted({path.name for pattern in CARRIED for path in directory.glob(pattern) if path.is_file()})


def state_files(directory: Path) -> set[str]:
    """The files that resume a training run, as paths in the checkpoint `directory`; none is needed to use the model."""
    parts = {str(path.relative_to(directory)) for path in directory.rglob("*.distcp")}
    whole = {name for name in (OPTIMIZER_NAME, FLAT_NAME, FLAT_GROUPS_NAME) if (directory / name).is_file()}
    return parts | whole | set(carried_files(directory))


def state_note(directory: Path, optimizer: bool) -> str:
    """A note on what else a training checkpoint holds, and what becomes of it; "" if there is nothing."""
    if not directory.is_dir():
        return ""
    whole = whole_optimizer(directory)
    again = () if not optimizer else (whole.name,) if whole else _PARTS
    found = {
        pattern: sorted(path.name for path in directory.glob(pattern)) for pattern in _LEFT_OUT if pattern not in again
    }
    said = [f"{first_of(names, 2)} ({_LEFT_OUT[pattern]})" for pattern, names in found.items() if names]
    resumed = [] if optimizer else [name for name in (OPTIMIZER_NAME, *CARRIED) if any(directory.glob(name))]
    with suppress(CheckpointError):  # of a distributed checkpoint that nothing else is read from
        parts = None if optimizer else metadata_of(directory)
        resumed += keys_beside(parts, directory) if parts else []
    if resumed:
        said.insert(0, f"{first_of(resumed)} (--optimizer grows the optimizer and takes the others along)")
    return f"Of the training run, left behind: {'; '.join(said)}." if said else ""


def read_carried(directory: Path, name: str) -> bytes:
    """The contents of one of the files that are taken along."""
    return read_file(directory / name, directory)
