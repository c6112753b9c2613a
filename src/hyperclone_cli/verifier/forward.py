"""Run a model under stock transformers, and measure how far the outputs of two models differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.errors import NOT_TOGETHER, CheckpointError, RequestError, last_line
from hyperclone_cli.growth.widths import Growth
from hyperclone_cli.planning.experts import ALIGNED_BYTES
from hyperclone_cli.verifier.routing import Routing, as_routing, counted

_CHUNK = 32  # tokens whose logits are compared at a time, because vocabularies are large


@dataclass(frozen=True)
class ForwardPass:
    """Logits (tokens, vocab), the hidden states (tokens, width) in forward order, and which experts were chosen."""

    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]
    routing: Routing = ()


def choose_device(name: str | None) -> torch.device:
    """The named device; for None a GPU if there is one, else the CPU. Raises RequestError if it cannot be used."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown to torch, not compiled in, not there
        raise RequestError(f"--device {name}: {last_line(error)}", "Use --device cpu.") from None
    return device


def experts_note(model: Any) -> list[str]:
    """A note if a model's experts have rows that the default path does not take: `load` then chooses another."""
    if not any(_unaligned(module) for module in model.modules()):
        return []
    return [
        'The experts were run one by one (experts_implementation="eager"): the default path of transformers multiplies'
        f" them together, which needs rows of a multiple of {ALIGNED_BYTES} bytes."
    ]


def _unaligned(module: Any) -> bool:
    """Whether a module's experts have rows that torch's grouped matrix product does not take."""
    if not hasattr(module, "is_transposed"):  # which transformers gives to modules with that path
        return False
    return any(
        size * matrices.dtype.itemsize % ALIGNED_BYTES
        for matrices in module.parameters(recurse=False)
        if matrices.dim() == 3
        for size in (matrices.shape[1:] if module.is_transposed else matrices.shape[2:])
    )


def check_complete(checkpoint: Source, problems: list[str]) -> None:
    """Raise CheckpointError if among the problems of `load` are missing or mismatched tensors.

    Biases that the source is known to lack are none: transformers takes them as zeros.
    """
    known = {f"missing tensor {tensor.name}" for tensor in checkpoint.tensors.values() if tensor.zeros}
    faults = [problem for problem in problems if not problem.startswith("unexpected") and problem not in known]
    if faults:
        raise CheckpointError(f"{checkpoint.path}: {faults[0]}: the checkpoint is damaged.", NOT_TOGETHER)


@torch.inference_mode()
def run(model: Any, ids: list[int], device: torch.device) -> ForwardPass:
    """Logits and hidden states of one sequence, which is put on `device`; they are on the CPU, in float32."""
    with counted(model) as chosen:
        output = model(torch.tensor([ids], device=device), use_cache=False, output_hidden_states=True)
    hidden = tuple(state[0].float().cpu() for state in output.hidden_states or ())
    return ForwardPass(output.logits[0].float().cpu(), hidden, as_routing(chosen))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """|found - expected| / |expected|, L2 norms; infinite if anything is not finite, or the shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    error = float((found - expected).norm() / expected.norm().clamp_min(1e-30))
    return error if math.isfinite(error) else math.inf


def divergence(source: torch.Tensor, clone: torch.Tensor) -> tuple[float, float]:
    """(mean KL(source ‖ clone) in nats, fraction of tokens with the same argmax) of logits (tokens, vocab)."""
    total, same = 0.0, 0
    for p, q in zip(_chunks(source), _chunks(clone), strict=True):
        log_p, log_q = log_softmax(p.double(), -1), log_softmax(q.double(), -1)
        total += float(kl_div(log_q, log_p, reduction="sum", log_target=True))
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
    return total / len(source), same / len(source)


def perplexity(logits: torch.Tensor, ids: list[int]) -> float:
    """Exp of the mean negative log-likelihood of each token given those before it."""
    targets = torch.tensor(ids[1:])
    total = 0.0 + sum(
        float(cross_entropy(chunk.double(), next_ids, reduction="sum"))
        for chunk, next_ids in zip(_chunks(logits[:-1]), _chunks(targets), strict=True)
    )
    return math.exp(min(total / len(targets), 700.0))


def _chunks(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.split(tensor, _CHUNK)


def best_factor(source: torch.Tensor, clone: torch.Tensor) -> float:
    """The least-squares factor from the states `source` (tokens, s) to the first copy in `clone` (tokens, t)."""
    first = clone[:, : source.shape[-1]]
    return float((first * source).sum() / source.square().sum().clamp_min(1e-30))


def copies_error(source: torch.Tensor, clone: torch.Tensor, growth: Growth, factor: float) -> float:
    """The largest relative error of any copy in `clone` (tokens, t) of the hidden states `source` (tokens, s).

    States of several residual streams may also be one after another, as (tokens, streams · s).
    `factor` scales the copies, in addition to the growth's own scale. States that did not grow, those of an output
    projection, are compared as a whole; padding is not compared.
    """
    if clone.shape == source.shape:
        return relative_error(clone, source * factor)
    if clone.shape[-1] % growth.target or source.shape[-1] % growth.source:
        return math.inf
    clone = clone.reshape(*clone.shape[:-1], -1, growth.target)
    source = source.reshape(*source.shape[:-1], -1, growth.source)
    worst, position = 0.0, 0
    for run in growth.runs:
        if not run.is_padding:
            expected = source.narrow(-1, run.start, run.length) * (factor * run.scale)
            worst = max(worst, relative_error(clone.narrow(-1, position, run.length), expected))
        position += run.length
    return worst
