"""Whether a clone can be trusted as it is written: what in its source is no number, what the disk kept of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.source import open_source
from hyperclone_cli.errors import CheckpointError, StorageError
from hyperclone_cli.planning.planner import Plan

if TYPE_CHECKING:
    import torch


def check_written(plan: Plan, directory: Path) -> None:
    """Read config, index and headers of a clone as anyone will, and hold them against its plan.

    Raises StorageError, which names the file or the tensor, where the disk does not hold what was written.
    """
    again = "The disk did not keep what was written: check it, and run the same command again."
    try:
        found = open_source(directory)
    except CheckpointError as error:
        raise StorageError(f"read back, {error.message}", again) from error
    expected = {tensor.name: (tensor.dtype, tensor.shape) for tensor in plan.tensors}
    stored = {tensor.name: (tensor.dtype, tensor.shape) for tensor in found.tensors.values()}
    for name in expected | stored:
        if expected.get(name) != stored.get(name):
            raise StorageError(
                f"{directory}: read back, tensor {name!r} should be {expected.get(name, 'absent')},"
                f" found {stored.get(name, 'absent')}.",
                again,
            )
    if json.dumps(found.config) != json.dumps(dict(plan.config)):
        raise StorageError(f"{directory / 'config.json'}: read back, it is not what was written.", again)


def is_finite(rows: torch.Tensor) -> bool:
    """Whether no element is NaN or Inf."""
    # their sum is finite then, as good as always, and many times as fast to take
    return bool(rows.sum().isfinite()) or bool(rows.isfinite().all())


def finiteness_note(names: Iterable[str]) -> str:
    """What a user should know of a source's tensors that hold NaN or Inf; empty if there are none."""
    named = sorted(names)
    if not named:
        return ""
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return f"The source holds NaN or Inf in {', '.join(named[:5])}{more}; so do the copies."
