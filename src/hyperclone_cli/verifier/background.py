"""What a report says beside its figures: both models' names and sizes, and what the comparison ran on."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from hyperclone_cli import __version__
from hyperclone_cli.checkpoint.json_config import config_changes
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.verifier.report import Background, ModelSizes
from hyperclone_cli.writing.card import commands, named
from hyperclone_cli.writing.lineage import plans_to

if TYPE_CHECKING:
    import torch

_installed = cache(version)


def background(source: Source, clone: Source, plan: Plan | None, device: torch.device | None) -> Background:
    """Names, sizes and environment of a verification on `device`; None: no model was run.

    Without a plan, parameters are those of the stored tensors, of which a tied head may be one.
    """
    name, revision = named(source)
    plans = plans_to(plan) if plan else ()
    caches = (plans[0].kv_cache_bytes()[0], plans[-1].kv_cache_bytes()[1]) if plans else (None, None)
    counts: tuple[Mapping[str, int], ...] = tuple(map(_stored, (source, clone)))
    if plans:
        counts = plans[0].parameters()[0], plans[-1].parameters()[1]
    places = [(name, revision), *((f"clone-{number}", None) for number in range(1, len(plans)))]
    before = plans[0].proposal.config if plans and plans[0].request.text_only else source.config
    return Background(
        source=ModelSizes(name, dict(counts[0]), _bytes(source), caches[0]),
        clone=ModelSizes(Path(os.path.abspath(clone.path)).name, dict(counts[1]), _bytes(clone), caches[1]),
        config=tuple(config_changes(before, clone.config)),
        command=commands([(one.request, *place) for one, place in zip(plans, places, strict=False)]),
        environment=environment(device),
    )


def environment(device: torch.device | None) -> dict[str, str]:
    """Versions of what decides the figures, and the device. It can be published: neither host nor clock time."""
    found = {
        "hyperclone": __version__,
        "transformers": _installed("transformers"),
        "torch": _installed("torch"),
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
