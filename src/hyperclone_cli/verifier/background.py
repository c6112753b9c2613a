"""What a report says beside its figures: both models' names and sizes, and what the comparison ran on."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from hyperclone_cli import __version__
from hyperclone_cli.checkpoint.json_config import config_changes
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.planning.planner import Plan
from hyperclone_cli.verifier.report import Background, ModelSizes
from hyperclone_cli.writing.card import command, named

if TYPE_CHECKING:
    import torch


def background(source: Source, clone: Source, plan: Plan | None, device: torch.device | None) -> Background:
    """Names, sizes and environment of a verification on `device`; None: no model was run.

    Without a plan, parameters are those of the stored tensors, of which a tied head may be one.
    """
    name, revision = named(source)
    caches = plan.kv_cache_bytes() if plan else (None, None)
    counts: tuple[Mapping[str, int], ...] = plan.parameters() if plan else tuple(map(_stored, (source, clone)))
    before = plan.proposal.config if plan and plan.request.text_only else source.config
    return Background(
        source=ModelSizes(name, dict(counts[0]), _bytes(source), caches[0]),
        clone=ModelSizes(Path(os.path.abspath(clone.path)).name, dict(counts[1]), _bytes(clone), caches[1]),
        config=tuple(config_changes(before, clone.config)),
        command=command(plan.request, name, revision) if plan else "",
        environment=environment(device),
    )


def environment(device: torch.device | None) -> dict[str, str]:
    """Versions of what decides the figures, and the device. It can be published: neither host nor clock time."""
    found = {
        "hyperclone": __version__,
        "transformers": version("transformers"),
        "torch": version("torch"),
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": "none, no model was run",
    }
    if device is not None:
        import torch

        name = f": {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
        found["device"] = f"{device.type}{name}"
    return found


def _stored(checkpoint: Source) -> dict[str, int]:
    return {"all tensors": sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())}


def _bytes(checkpoint: Source) -> int:
    return sum(tensor.nbytes for tensor in checkpoint.tensors.values())
