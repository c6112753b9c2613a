"""The options of how a clone is written, and of who does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from hyperclone_cli.growth.option import CHECKING, MACHINES, WRITING, option

Executor = Literal["threads", "ray"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)


@dataclass(frozen=True)
class Executing:
    """Who does the tasks that the work on a model falls into, one for each of its files. Each field is an option."""

    panel: ClassVar[str] = MACHINES
    executor: Executor = option(
        "threads",
        "Who works on the clone's files. threads: this process. ray: the workers of a Ray cluster, which must see the"
        " source and the clone under the same paths.",
        panel=MACHINES,
    )
    ray_address: str | None = option(
        None,
        "The Ray cluster: host:port, or auto for the one that this machine belongs to.",
        panel=MACHINES,
        unset="that of RAY_ADDRESS, or of this machine, or one that is started on it for this run",
    )


@dataclass(frozen=True)
class Writing(Executing):
    """How a clone is written. Each field is an option."""

    panel: ClassVar[str] = WRITING
    overwrite: bool = option(
        False,
        "Replace the clone at --out once the new one is complete. A directory that hyperclone did not write, or that"
        " was trained since, is never replaced.",
    )
    restart: bool = option(
        False,
        "Discard what an interrupted run has written. Without it the same command goes on, and another is refused.",
    )
    threads: int | None = option(None, "How many blocks are worked on at once.", min=1, unset="one for each core")
    max_memory: int | str | None = option(
        None,
        "Memory for these blocks, in bytes or such as 2GB, and then for each model that the verification runs. Fewer"
        " threads run where it is too little, and models layer by layer. PyTorch and transformers take about 300 MB"
        " more.",
        unset="512MB, and for the models what is free",
    )
    optimizer: bool = option(
        False,
        "Of a training checkpoint, also grow the moments of AdamW (optimizer.pt, safetensors or a distributed"
        " checkpoint), and take the schedule along, and what else resumes the run.",
    )
    checksum: bool = option(
        False,
        "Record the SHA-256 of every file but the card in hyperclone.json. `verify --checksum` compares them.",
        panel=CHECKING,
    )
    rank: int | None = option(
        None,
        "Which of the processes that write the clone together this is, from 0. Each writes its share of the shards into"
        " --out's .partial, which all must see; the last one to finish publishes and verifies the clone.",
        panel=MACHINES,
        min=0,
        unset="one process writes all",
    )
    world_size: int | None = option(None, "How many processes these are.", panel=MACHINES, min=1, unset="1")
    distributed: bool = option(
        False,
        "Take both from RANK and WORLD_SIZE, as torchrun sets them, or from SLURM_PROCID and SLURM_NTASKS.",
        panel=MACHINES,
    )
