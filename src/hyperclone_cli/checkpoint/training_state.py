"""What a trainer leaves beside the weights: optimizer, schedule, random numbers; and what becomes of each."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from hyperclone_cli.checkpoint.boundary import read_file
from hyperclone_cli.checkpoint.distributed import keys_beside, metadata_of
from hyperclone_cli.errors import CheckpointError, first_of

OPTIMIZER_NAME = "optimizer.pt"
CARRIED = ("scheduler.pt", "trainer_state.json", "rng_state.pth", "rng_state_*.pth", "scaler.pt")
"""Files that resume a run of the Trainer and do not depend on the sizes of its model: copied with `--optimizer`."""

_LEFT_OUT: Mapping[str, str] = {
    "training_args.bin": "a pickle of arguments that runs code when it is read; a run that goes on states its own",
    "optimizer.bin": "the optimizer as accelerate's save_state writes it: save the state dict as optimizer.pt",
    "optimizer_[0-9]*": "the optimizer in parts (FSDP): --optimizer grows it, and writes it in that form",
    "pytorch_model_fsdp_[0-9]*": "the weights in parts (FSDP), which are read where no others lie beside them",
    "rank*-of-*-optimizer.pt": "the optimizer in parts (FSDP on TPUs)",
    "global_step[0-9]*": "weights and optimizer in DeepSpeed's parts: convert them with zero_to_fp32.py, which keeps"
    " the weights alone, or with DeepSpeed's universal checkpoints",
    "zero_pp_rank_*": "the optimizer in DeepSpeed's parts",
    "latest": "the name of DeepSpeed's last step",
    "zero_to_fp32.py": "DeepSpeed's script, copied like other code and never run",
    "mp_rank_*": "the parts of Megatron or DeepSpeed for each process",
    "iter_[0-9]*": "weights and optimizer in Megatron's parts: convert the model with Megatron Bridge",
    "latest_checkpointed_iteration.txt": "the name of Megatron's last iteration",
    "distrib_optim.pt": "Megatron's distributed optimizer",
    "optimizer.[0-9]*.pt": "the optimizer in parts",
}
"""What else trainers leave → what it is, and what could be done with it. All of it stays behind."""

_WRITTEN_AGAIN = ("optimizer_[0-9]*", "pytorch_model_fsdp_[0-9]*")
"""Distributed checkpoints, which `--optimizer` writes again where the optimizer lies in one."""


def carried_files(directory: Path) -> list[str]:
    """The names of the files of a training checkpoint that are copied with its optimizer."""
    return sorted({path.name for pattern in CARRIED for path in directory.glob(pattern) if path.is_file()})


def state_note(directory: Path, optimizer: bool) -> str:
    """A note on what else a training checkpoint holds, and what becomes of it; "" if there is nothing."""
    if not directory.is_dir():
        return ""
    again = _WRITTEN_AGAIN if optimizer and not (directory / OPTIMIZER_NAME).exists() else ()
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
