"""Whether the disk kept what was written, and which tensors of a source are non-finite."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.errors import CheckpointError, StorageError, first_of
from hyperclone_cli.planning.plan import Plan

if TYPE_CHECKING:
    import torch


def check_written(plan: Plan, directory: Path) -> None:
    """Read config, index and headers of a clone, as any reader will, and compare them with its plan.

    Raises StorageError, which names the file or the tensor, if they differ.
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
    # their sum is many times faster to compute, and not finite if any of them is not
    return bool(rows.sum().isfinite()) or bool(rows.isfinite().all())


def finiteness_note(names: Iterable[str]) -> str:
    """A note for the user on a source's non-finite tensors; empty if there are none."""
    named = sorted(names)
    return f"The source contains NaN or Inf in {first_of(named)}, and so does the clone." if named else ""
