"""A Ray cluster of several nodes on this machine, each in processes of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

MISSING = "ray is not installed: pip install 'hyperclone-cli[ray]'"


class Nodes:
    """A head that does no tasks, and nodes with two cores each."""

    def __init__(self, count: int) -> None:
        with warnings.catch_warnings(action="ignore"):
            from ray.cluster_utils import Cluster
        head = {"num_cpus": 0, "include_dashboard": False}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [self._add() for _ in range(count)]

    @property
    def address(self) -> str:
        """What --ray-address takes."""
        return str(self._cluster.address)

    def replace(self, number: int) -> None:
        """End a node and all of its workers, as a machine that loses power, and begin another in its place."""
        self._cluster.remove_node(self._nodes[number], allow_graceful=False)
        self._nodes[number] = self._add()

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=2, memory=4 << 30, object_store_memory=100 << 20)

    def end(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


@contextmanager
def nodes(count: int = 2) -> Iterator[Nodes]:
    """Start so many nodes, and end them at the end."""
    temporary = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the paths of sockets must be short
    (temporary / "ray").mkdir()  # where the address of the cluster is written, before anything else is
    # workers have their share of a machine that does other things too: Ray gives them a low priority
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(temporary), "RAY_worker_niceness": "0"}
    with patch.dict(os.environ, settings):
        started = Nodes(count)
        try:
            yield started
        finally:
            started.end()
            shutil.rmtree(temporary, ignore_errors=True)
