"""Faults of earlier releases of transformers that no error shows: what they save or compute is not the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Fault(NamedTuple):
    """What transformers does wrong before the release `mended`."""

    mended: str
    what: str


FAULTS: Mapping[str, Fault] = {
    "gemma3n_text": Fault("5.6", "saves a tensor under a garbled name"),
    "phimoe": Fault("5.1", "does not know the names of experts in published checkpoints, and saves others"),
    "qwen3_vl_moe": Fault("5.2", "saves experts cut along the wrong side"),
    "recurrent_gemma": Fault("5.4", "leaves the rotary frequencies of a loaded model uninitialised"),
}
"""model_type → the fault. What transformers itself refuses to load or to run is not listed."""


def fault_of(model_type: str, release: str) -> Fault | None:
    """The fault that a release of transformers, "5.0.0", has in an architecture; None: none is known."""
    fault = FAULTS.get(model_type)
    return fault if fault and _numbers(release) < _numbers(fault.mended) else None


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".")[:2])
