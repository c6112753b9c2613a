"""Do two checkpoints compute the same function? Stock transformers runs both on the same tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from hyperclone_cli.checkpoint.safetensors_file import FLOAT_DTYPES, StoredTensor
from hyperclone_cli.checkpoint.sizes import context_length, read_sizes
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.families import find_family
from hyperclone_cli.growth.widths import tiled
from hyperclone_cli.planning.planner import Plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.verifier import forward, generation, text
from hyperclone_cli.verifier.report import Findings, LogitFigures
from hyperclone_cli.verifier.setting import Setting

TOLERANCE = 1e-5
"""Relative logit error that float32 arithmetic itself makes, with room: what passes where nothing was rounded."""


@dataclass(frozen=True)
class Reading:
    """What a model made of the page and, where it was asked to, of the prompts."""

    page: forward.Pass
    decoded: generation.Decoded | None
    complaints: list[str]


def compare_functions(
    source: Source, clone: Source, plan: Plan | None, setting: Setting, found: Findings, progress: Progress
) -> None:
    """Add to `found` the logits, hidden states and greedy decoding of both, and every reason to fail the clone.

    `plan` tells how the residual stream grew; without it the layers are taken as plain copies.
    One model is in memory at a time. Raises CheckpointError if either cannot be loaded, or the source computes
    no numbers.
    """
    family = plan.family if plan else find_family(source.config)
    vocab_size = read_sizes(source.config, family)["vocab"]
    if clone.config.get("vocab_size") != vocab_size:
        found.failures.append(
            f"config.json: vocab_size should be {vocab_size}, found {clone.config.get('vocab_size')!r}"
        )
        return
    context = context_length(source.config, family)
    tokenizer, note = text.load_tokenizer(source.path, vocab_size)
    found.notes += [note] if note else []
    ids = text.page(tokenizer, vocab_size, context)
    prompts = text.prompts(tokenizer, vocab_size, context - setting.new_tokens)

    def read(checkpoint: Source, dtype: torch.dtype) -> Reading:
        what = f"the {'clone' if checkpoint is clone else 'source'} in {_name(dtype)}"
        progress.step(f"Loading {what}")
        model, complaints = forward.load(checkpoint, dtype, setting.device)
        decoded = None
        if dtype == setting.dtype:
            progress.step(f"Decoding {len(prompts)} prompts with {what}", "tokens")
            decoded = generation.decode(model, prompts, setting.new_tokens, progress.advance)
        progress.step(f"Running {what} on {len(ids)} tokens")
        return Reading(forward.run(model, ids), decoded, complaints)

    in_float32 = read(source, torch.float32)
    reference = in_float32.page
    missing = [complaint for complaint in in_float32.complaints if not complaint.startswith("unexpected")]
    if missing:
        raise CheckpointError(f"{source.path}: {missing[0]}.", "The source is incomplete.")
    if not bool(reference.logits.isfinite().all()):
        raise CheckpointError(f"{source.path}: computes NaN or Inf, so there is nothing to hold a clone against.")
    written = [tensor for name, tensor in source.tensors.items() if not plan or name not in plan.dropped]
    rounded_dtype = (
        _rounded_dtype([*written, *clone.tensors.values()]) if setting.dtype == torch.float32 else setting.dtype
    )
    rounded = read(source, rounded_dtype) if rounded_dtype != torch.float32 else in_float32
    floor = forward.relative_error(rounded.page.logits, reference.logits)
    if not math.isfinite(floor):
        found.notes.append(f"The source itself overflows in {_name(rounded_dtype)}, which excuses no error here.")
        floor = 0.0
    grown = read(clone, setting.dtype)
    result = grown.page

    kl, top1 = forward.divergence(reference.logits, result.logits)
    figures = LogitFigures(
        tokens=len(ids),
        text="a page of English" if tokenizer else "random tokens",
        dtype=_name(setting.dtype),
        device=setting.device.type,
        relative_error=forward.relative_error(result.logits, reference.logits),
        tolerance=max(TOLERANCE, floor if setting.dtype == torch.float32 else 2 * floor),
        floor=floor,
        floor_dtype=_name(rounded_dtype),
        max_abs_difference=float((result.logits - reference.logits).abs().max()),
        kl_divergence=kl,
        top1_agreement=top1,
        perplexity_source=forward.perplexity(reference.logits, ids),
        perplexity_clone=forward.perplexity(result.logits, ids),
        layers=_layers(reference, result, plan),
    )
    decoded, continued = in_float32.decoded or rounded.decoded, grown.decoded
    assert decoded is not None  # one of the source's readings ran in the clone's dtype
    assert continued is not None
    found.logits = figures
    found.generation = generation.compare(decoded, continued, prompts, figures.max_abs_difference)
    found.failures += [f"loading: {complaint}" for complaint in grown.complaints]
    if not figures.relative_error <= figures.tolerance:
        found.failures.append(
            f"logits: relative error {figures.relative_error:.1e} is over {figures.tolerance:.1e};"
            f" the copies first disagree at {figures.first_bad_layer}"
        )
    for prompt, step in found.generation.parted:
        found.failures.append(f"greedy decoding: prompt {prompt + 1} parts from the source at token {step + 1}")


def _layers(source: forward.Pass, clone: forward.Pass, plan: Plan | None) -> tuple[tuple[str, float], ...]:
    last = len(source.hidden) - 1
    names = ["the embeddings", *(f"layer {number}" for number in range(last))]
    names[-1] += " or the final norm"
    width, grown = source.hidden[0].shape[-1], clone.hidden[0].shape[-1]
    growth = plan.growths["embed"] if plan else tiled(width, max(1, grown // width))
    # the last state may be scaled to feed a tied head; without a plan the scale is what fits best
    factor = plan.head.factor if plan else forward.best_factor(source.hidden[-1], clone.hidden[-1])
    return tuple(
        (name, forward.copies_error(ours, theirs, *((growth.unscaled(), factor) if number == last else (growth, 1.0))))
        for number, (name, ours, theirs) in enumerate(zip(names, source.hidden, clone.hidden, strict=False))
    )


def _rounded_dtype(tensors: Iterable[StoredTensor]) -> torch.dtype:
    """The coarsest dtype that any of the tensors is stored in, float32 at best."""
    names = {stored: name for name, stored in FLOAT_DTYPES.items()}
    stored = {names[tensor.dtype] for tensor in tensors if tensor.dtype in names}
    dtypes: list[torch.dtype] = [torch.float32, *(getattr(torch, name) for name in stored)]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
