"""What a verification found, as numbers and as a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class WeightFigures:
    """Every tensor of the clone summed back over its copies and held against the source.

    tensors     how many were compared
    elements    how many numbers of the clone were read
    worst       the largest |difference| / (sum of the copies' magnitudes) of any element
    bad         tensor → what is wrong with it
    not_finite  the source's tensors that hold NaN or Inf
    """

    tensors: int
    elements: int
    worst: float
    worst_tensor: str
    bad: dict[str, str]
    not_finite: tuple[str, ...] = ()


@dataclass(frozen=True)
class LogitFigures:
    """The clone's logits against those of the source, on the same tokens.

    relative_error   L2 norm of the difference / L2 norm of the source's float32 logits
    floor            the error that the source makes itself when it runs in `floor_dtype`
    tolerance        the largest relative_error that passes
    kl_divergence    mean over tokens of KL(source ‖ clone), in nats
    top1_agreement   fraction of tokens whose most likely successor is the same
    layers           (name, largest relative L2 error of any copy of its output) in forward order
    """

    tokens: int
    text: str
    dtype: str
    device: str
    relative_error: float
    tolerance: float
    floor: float
    floor_dtype: str
    max_abs_difference: float
    kl_divergence: float
    top1_agreement: float
    perplexity_source: float
    perplexity_clone: float
    layers: tuple[tuple[str, float], ...]

    @property
    def first_bad_layer(self) -> str:
        """Where the copies first stop agreeing with the source; the head if they never do."""
        return next((name for name, error in self.layers if not error <= self.tolerance), "the head")


@dataclass(frozen=True)
class GenerationFigures:
    """Greedy decoding with the KV cache, one left-padded batch of prompts of different lengths.

    identical   prompts whose continuations are the same token for token
    ties        prompts that part where the source's two best logits are closer than the logits' own error
    parted      prompts that part anywhere else: (prompt number, token number)
    """

    prompts: int
    prompt_lengths: tuple[int, ...]
    new_tokens: int
    identical: int
    ties: int
    parted: tuple[tuple[int, int], ...]


@dataclass
class Findings:
    """What has been found so far: what the user should know, what to fail the clone for, and the figures."""

    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    weights: WeightFigures | None = None
    logits: LogitFigures | None = None
    generation: GenerationFigures | None = None


@dataclass(frozen=True)
class Report:
    """The whole verification. `failures` is empty if the clone passed; each names a layer, tensor, key or file.

    `hashed` is the number of files whose SHA-256 was compared, None if that was not asked for.
    """

    clone: str
    source: str
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    weights: WeightFigures | None = None
    logits: LogitFigures | None = None
    generation: GenerationFigures | None = None
    hashed: int | None = None
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def passed(self) -> bool:
        return not self.failures

    def as_json(self) -> dict[str, Any]:
        return {"schema_version": self.schema_version, "passed": self.passed, **asdict(self)}


def finite(value: Any) -> Any:
    """The same, with None for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
