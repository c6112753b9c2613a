"""One training run: a model in, its curve out. AdamW, warm-up, cosine, on the data in the order of a seed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, get_cosine_with_min_lr_schedule_with_warmup

from benchmarks.convergence.corpus import Corpus
from benchmarks.convergence.presets import Preset

LAST_RATE = 0.1
"""The rate at the end of a schedule, over its peak."""

Probe = Callable[[PreTrainedModel], dict[str, float]]


@dataclass
class Curve:
    """What a run recorded. Losses are mean cross entropies of the next token, in nats.

    steps        steps trained when each loss was taken; 0 is the start
    losses       on the held-out text
    training     on what was trained on since the evaluation before, the batch of the last step at the start
    copies       step → figures of copies.py
    flops_per_token   of training: 6 × the weights that multiply a token; attention's scores are left out
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    training: list[float] = field(default_factory=list)
    copies: dict[int, dict[str, float]] = field(default_factory=dict)
    parameters: int = 0
    flops_per_token: int = 0
    tokens_per_step: int = 0
    seconds: float = 0.0


def train(
    model: PreTrainedModel,
    corpus: Corpus,
    preset: Preset,
    steps: int,
    rate: float,
    seed: int,
    probe: Probe | None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Curve:
    """Train `model` in place for `steps` at the peak `rate`, or with an optimizer of its own.

    `seed` is that of the data's order and of dropout.
    """
    curve = Curve(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops_per_token=6 * sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear)),
        tokens_per_step=preset.batch * preset.length,
    )
    device = model.device
    held_out = corpus.validation(preset.eval_windows, preset.length)
    order = corpus.order(steps, preset.batch, preset.length, seed)
    optimizer = optimizer or make_optimizer(model, rate)
    schedule = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, max(1, round(preset.warmup * steps)), steps, min_lr_rate=LAST_RATE
    )
    evaluations, probes = evaluated(steps, preset.eval_every), probed(steps, preset.probes)
    torch.manual_seed(seed)
    training_loss = fast_loss() if preset.fast and device.type == "cpu" else next_token_loss
    losses: list[torch.Tensor] = []
    started = time.perf_counter()
    for step in range(steps + 1):
        if step in evaluations:
            curve.steps.append(step)
            curve.losses.append(evaluate(model, held_out, preset.batch))
            recent = torch.stack(losses).mean().item() if losses else curve.losses[-1]
            curve.training.append(recent)
            losses = []
        if probe and step in probes:
            curve.copies[step] = probe(model)
        if step == steps:
            break
        model.train()
        loss = training_loss(model, corpus.windows(order[step], preset.length).to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    curve.seconds = time.perf_counter() - started
    return curve


def make_optimizer(model: PreTrainedModel, rate: float) -> torch.optim.Optimizer:
    """AdamW that lets matrices decay, and vectors not."""
    parameters = list(model.parameters())
    groups = [
        {"params": [parameter for parameter in parameters if parameter.dim() > 1], "weight_decay": 0.1},
        {"params": [parameter for parameter in parameters if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)


def evaluated(steps: int, every: int) -> set[int]:
    """Steps at which the loss is taken: every `every`, the last, and early on 1, 2, 4, 8, …, where clones forget."""
    early = {2**power for power in range(every.bit_length()) if 2**power <= steps}
    return {*range(0, steps + 1, every), *early, steps}


def probed(steps: int, probes: int) -> set[int]:
    """Steps at which the copies are measured: the start, and `probes` even distances."""
    return {round(steps * number / probes) for number in range(probes + 1)}


def next_token_loss(model: PreTrainedModel, windows: torch.Tensor, half: bool = False) -> torch.Tensor:
    """Mean cross entropy of (batch, length + 1) token ids, on a GPU, and with `half`, in bfloat16 by autocast."""
    with torch.autocast(windows.device.type, torch.bfloat16, enabled=half or windows.device.type == "cuda"):
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


@functools.cache
def fast_loss() -> Callable[[PreTrainedModel, torch.Tensor], torch.Tensor]:
    """`next_token_loss` with `half`, compiled once in a process for all models of one shape."""
    return torch.compile(functools.partial(next_token_loss, half=True), dynamic=False)


@torch.no_grad()
def evaluate(model: PreTrainedModel, windows: torch.Tensor, batch: int) -> float:
    """The loss on (windows, length + 1) token ids, without dropout."""
    model.eval()
    parts = [next_token_loss(model, part.to(model.device)) * len(part) for part in torch.split(windows, batch)]
    return float(torch.stack(parts).sum() / len(windows))
