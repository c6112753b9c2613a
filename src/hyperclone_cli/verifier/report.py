"""The report of a verification: figures, failures and notes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA_VERSION = 1

Log = Callable[[str], None]  # called with the name of each step as it begins


@dataclass(frozen=True)
class WeightFigures:
    """Every tensor of the clone, summed over its copies and compared with the source's.

    tensors     number of tensors that were compared
    elements    number of the clone's elements in them
    worst       the largest |difference| / (sum of the copies' magnitudes) of any element
    bad         tensor name → what is wrong with it
    not_finite  names of the source's tensors that contain NaN or Inf
    """

    tensors: int
    elements: int
    worst: float
    worst_tensor: str
    bad: dict[str, str]
    not_finite: tuple[str, ...] = ()


@dataclass(frozen=True)
class LogitFigures:
    """The clone's logits compared with the source's on the same tokens.

    relative_error   L2 norm of the difference / L2 norm of the source's float32 logits
    floor            relative error of the source itself when it runs in `floor_dtype`
    tolerance        largest relative_error that passes
    kl_divergence    mean over tokens of KL(source ‖ clone), in nats
    top1_agreement   fraction of positions whose most likely next token is the same
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
        """The first layer whose copies differ from the source; the head if none do."""
        return next((name for name, error in self.layers if not error <= self.tolerance), "the head")


@dataclass(frozen=True)
class PictureFigures:
    """The clone's logits compared with the source's on a text with a picture in it.

    tokens  of the text, those that stand for the picture included
    input   what the picture was: "a picture, by the processor" or "random pixels"
    """

    tokens: int
    input: str
    relative_error: float
    tolerance: float
    floor: float


@dataclass(frozen=True)
class GenerationFigures:
    """Greedy decoding with the KV cache, one left-padded batch of prompts of different lengths.

    The source decodes; the clone is given the source's tokens, and compared at each.

    identical   number of prompts where the clone would choose every token that the source chose
    ties        number of prompts where it differs, but only where the source's two best logits are closer than the
                logits' error
    parted      (prompt, token), numbered from 0, of the first other difference of each other prompt
    steps       forward passes in which the clone was given the prompts and the tokens
    """

    prompts: int
    prompt_lengths: tuple[int, ...]
    new_tokens: int
    identical: int
    ties: int
    parted: tuple[tuple[int, int], ...]
    steps: int


@dataclass(frozen=True)
class RunFigures:
    """How one model was run.

    model       "source" or "clone"
    mode        "in memory" or "layer by layer"
    passes      forward passes
    bytes_read  bytes of weights that were read in these passes, after loading; 0 in memory
    """

    model: str
    dtype: str
    mode: str
    passes: int
    bytes_read: int


@dataclass(frozen=True)
class Continuation:
    """The tokens of a prompt, and those by which source and clone continued it.

    prompt        the prompt's text; "" without a tokenizer
    source_texts  the text of each token, which together make the continuation's; empty without a tokenizer
    """

    prompt_tokens: tuple[int, ...]
    source_tokens: tuple[int, ...]
    clone_tokens: tuple[int, ...]
    prompt: str = ""
    source_texts: tuple[str, ...] = ()
    clone_texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSizes:
    """One of the two models.

    name                      its name on the Hub, or the last part of its path
    parameters                part of the network → number of parameters; a tied head counts once
    weight_bytes              of its tensors, as they are stored or dequantised
    kv_cache_bytes_per_token  None if the plan is not known
    """

    name: str
    parameters: dict[str, int]
    weight_bytes: int
    kv_cache_bytes_per_token: int | None


@dataclass(frozen=True)
class Background:
    """What was compared, and with what.

    config       (key of config.json, value in the source or None, value in the clone) of every key that differs
    command      that makes the clone; "" if it is not known
    environment  program or device → its version or name. No host, path or clock time
    """

    source: ModelSizes
    clone: ModelSizes
    config: tuple[tuple[str, Any, Any], ...]
    command: str
    environment: dict[str, str]


@dataclass(frozen=True)
class BeforeRounding:
    """The clone before its weights were rounded to 16 bits, made in float32 and compared with the source.

    passed  whether relative_error is at most `tolerance`, decoding is the same up to ties, and all tensors loaded: then
            rounding explains every failure of logits and decoding, and these are withdrawn
    """

    passed: bool
    relative_error: float
    tolerance: float
    generation: GenerationFigures


@dataclass
class PartialReport:
    """What a verification has found so far; a Report once it is complete."""

    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    weights: WeightFigures | None = None
    logits: LogitFigures | None = None
    picture: PictureFigures | None = None
    generation: GenerationFigures | None = None
    before_rounding: BeforeRounding | None = None
    continuations: tuple[Continuation, ...] = ()
    routing: tuple[tuple[str, tuple[int, ...]], ...] = ()
    runs: list[RunFigures] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """A complete verification.

    failures         one message each, naming a layer, tensor, config key or file; empty if the clone passed
    picture          the outputs after a picture; None for a model that takes none, or where none could be prepared
    before_rounding  where rounding had to explain a difference of the outputs; else None
    runs             how each model was run, in order
    routing          of each layer of the clone with experts: how many tokens of the page chose each of them
    by_request       why the clone does not keep the function, where that was asked for: it cannot pass then
    outputs_alone    why only the models' outputs were compared; "" if config, files and weights were too
    growths          number of growths from the source to the clone; None if no plan leads from it
    hashed           number of files whose SHA-256 was compared; None if that was not asked for
    """

    clone: str
    source: str
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    weights: WeightFigures | None = None
    logits: LogitFigures | None = None
    picture: PictureFigures | None = None
    generation: GenerationFigures | None = None
    before_rounding: BeforeRounding | None = None
    runs: tuple[RunFigures, ...] = ()
    by_request: str = ""
    routing: tuple[tuple[str, tuple[int, ...]], ...] = ()
    outputs_alone: str = ""
    growths: int | None = None
    hashed: int | None = None
    continuations: tuple[Continuation, ...] = ()
    background: Background | None = None
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def passed(self) -> bool:
        return not self.failures and not self.by_request

    def as_json(self) -> dict[str, Any]:
        return {"schema_version": self.schema_version, "passed": self.passed, **asdict(self)}


def finite(value: Any) -> Any:
    """`value` with None in place of NaN and Inf, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
