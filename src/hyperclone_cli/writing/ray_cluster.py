"""Tasks done by a Ray cluster, which chooses where each runs, and runs those of workers that are lost again.

ray is imported in `ray_cluster` alone, when a cluster is asked for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

from hyperclone_cli.errors import HypercloneError, RequestError, StorageError, last_line
from hyperclone_cli.writing.options import EXECUTORS, Executing

_RETRIES = 20
"""How often a task is run again whose worker was lost: each machine that ends costs its tasks one."""

_PROCESS_BYTES = 512 << 20
"""Memory of a worker beside the blocks that it works on: Python, torch, and the plan."""

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Task], Iterable[Result]]
"""What a worker does with a task: it is sent to workers, so it must be picklable, as tasks and results are."""


class Do(Protocol):
    """Has the cluster do tasks; yields each result of each task, as they come, with its task.

    cpus, nbytes  what a task takes of a machine: cores, and memory for blocks

    An error of a task ends all. Raises it, or StorageError if no machine has room for a task, or too many were lost.
    """

    def __call__(
        self, work: Work[Task, Result], tasks: Iterable[Task], cpus: int, nbytes: int
    ) -> Iterator[tuple[Task, Result]]: ...


def check_executor(executing: Executing) -> None:
    """Raise RequestError for an executor that there is not, or whose package is not installed."""
    if executing.executor not in EXECUTORS:
        raise RequestError(f"--executor {executing.executor}: expected one of {', '.join(EXECUTORS)}.")
    if executing.executor != "ray" and executing.ray_address is not None:
        raise RequestError("--ray-address: only --executor ray uses a cluster.", "Add that, or leave it out.")
    if executing.executor == "ray" and find_spec("ray") is None:
        raise RequestError("--executor ray needs ray.", "Install it: pip install 'hyperclone-cli[ray]'")


def cluster_of(executing: Executing) -> AbstractContextManager[Do | None]:
    """The cluster that is asked for; None if that is the threads of this process."""
    return ray_cluster(executing.ray_address) if executing.executor == "ray" else nullcontext()


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Do]:
    """Connect to a cluster, or start one on this machine if there is none; leave it at the end, or stop it.

    A connection that the process has already is used, and kept. Raises StorageError if no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of what a later version does
    import ray

    def do(work: Work[Task, Result], tasks: Iterable[Task], cpus: int, nbytes: int) -> Iterator[tuple[Task, Result]]:
        nbytes += _PROCESS_BYTES
        _check_room(ray.nodes(), cpus, nbytes)
        remote = ray.remote(_results).options(
            num_cpus=cpus, memory=nbytes, max_retries=_RETRIES, num_returns="streaming"
        )
        running = {remote.remote(work, task): task for task in tasks}
        while running:
            for generator in ray.wait([*running], timeout=1)[0]:  # again and again, so that Ctrl-C is heard
                try:
                    yield running[generator], ray.get(next(generator))
                except StopIteration:
                    del running[generator]

    connected = ray.is_initialized()
    try:
        if not connected:
            ray.init(address, include_dashboard=False, logging_level="error", log_to_driver=False)
    except Exception as error:  # of many kinds, by what is wrong: the address, the version, the machine
        raise StorageError(
            f"--executor ray: no Ray cluster{f' at {address}' if address else ''}: {last_line(error)}",
            "Look at it with `ray status`; --ray-address names another.",
        ) from error
    try:
        yield do
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise StorageError(
            f"--executor ray: a task was given up: {last_line(error)}", "Run the same command again: it goes on."
        ) from error
    finally:
        if not connected:
            ray.shutdown()


def _check_room(nodes: Iterable[Any], cpus: int, nbytes: int) -> None:
    rooms = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(room.get("CPU", 0) >= cpus and room.get("memory", 0) >= nbytes for room in rooms):
        raise StorageError(
            f"--executor ray: a task takes {cpus} CPUs and {nbytes:,} bytes of memory, and none of the"
            f" {len(rooms)} nodes of the cluster has them.",
            "Start such a node first, or lower --threads or --max-memory.",
        )


def _results(work: Work[Task, Result], task: Task) -> Iterator[Result]:
    """What runs on a worker. Errors name its machine."""
    try:
        for result in work(task):  # noqa: UP028  # Ray sends values in, which `yield from` would hand to an iterator
            yield result
    except HypercloneError as error:
        error.message = f"on {socket.gethostname()}: {error.message}"
        raise
