"""Compare what source and clone compute: stock transformers runs both on the same tokens."""

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
from hyperclone_cli.verifier.report import LogitFigures, PartialReport
from hyperclone_cli.verifier.run_options import RunOptions

TOLERANCE = 1e-5
"""Relative logit error that float32 arithmetic explains, with a margin: the bound where no weight was rounded."""


@dataclass(frozen=True)
class ModelRun:
    """What one model computed on the page, the prompts that it decoded, if any, and the problems in loading it."""

    page: forward.ForwardPass
    decoded: generation.Decoded | None
    problems: list[str]


def compare_outputs(
    source: Source,
    clone: Source,
    plan: Plan | None,
    options: RunOptions,
    partial: PartialReport,
    progress: Progress,
    exact: bool = False,
) -> None:
    """Add to `partial` the figures of logits, hidden states and greedy decoding, and what fails the clone.

    plan   tells how the residual stream grew; without it the hidden states are compared as plain copies
    exact  allow the clone what float32 arithmetic explains, and nothing for the dtype that weights are stored in

    One model is in memory at a time. Raises CheckpointError if either cannot be loaded, or the source's logits are not
    finite.
    """
    family = plan.family if plan else find_family(source.config)
    vocab_size = read_sizes(source.config, family)["vocab"]
    if clone.config.get("vocab_size") != vocab_size:
        found = clone.config.get("vocab_size")
        partial.failures.append(f"config.json: vocab_size should be {vocab_size}, found {found!r}")
        return
    context = context_length(source.config, family)
    tokenizer, note = text.load_tokenizer(source.path, vocab_size)
    partial.notes += [note] if note else []
    ids = text.page(tokenizer, vocab_size, context)
    prompts = text.prompts(tokenizer, vocab_size, context - options.new_tokens)

    def run(checkpoint: Source, dtype: torch.dtype) -> ModelRun:
        what = f"the {'clone' if checkpoint is clone else 'source'} in {_name(dtype)}"
        progress.step(f"Loading {what}")
        model, problems = forward.load(checkpoint, dtype, options.device)
        partial.notes += forward.experts_note(model) if checkpoint is clone else []
        decoded = None
        if dtype == options.dtype:
            progress.step(f"Decoding {len(prompts)} prompts with {what}", "tokens")
            decoded = generation.decode(model, prompts, options.new_tokens, progress.advance)
        progress.step(f"Running {what} on {len(ids)} tokens")
        return ModelRun(forward.run(model, ids), decoded, problems)

    reference = run(source, torch.float32)
    forward.check_complete(source, reference.problems)
    if not bool(reference.page.logits.isfinite().all()):
        raise CheckpointError(f"{source.path}: the source computes NaN or Inf, so no clone can be compared with it.")
    floor_dtype = options.dtype
    if options.dtype == torch.float32 and not exact:
        copied = [tensor for name, tensor in source.tensors.items() if not plan or name not in plan.dropped]
        floor_dtype = _coarsest_dtype([*copied, *clone.tensors.values()])
    rounded = run(source, floor_dtype) if floor_dtype != torch.float32 else reference
    floor = forward.relative_error(rounded.page.logits, reference.page.logits)
    if not math.isfinite(floor):
        partial.notes.append(f"The source itself overflows in {_name(floor_dtype)}: that allows the clone no error.")
        floor = 0.0
    grown = run(clone, options.dtype)

    expected, found_logits = reference.page.logits, grown.page.logits
    kl, top1 = forward.divergence(expected, found_logits)
    figures = LogitFigures(
        tokens=len(ids),
        text="a page of English" if tokenizer else "random tokens",
        dtype=_name(options.dtype),
        device=options.device.type,
        relative_error=forward.relative_error(found_logits, expected),
        tolerance=max(TOLERANCE, floor if options.dtype == torch.float32 else 2 * floor),
        floor=floor,
        floor_dtype=_name(floor_dtype),
        max_abs_difference=float((found_logits - expected).abs().max()),
        kl_divergence=kl,
        top1_agreement=top1,
        perplexity_source=forward.perplexity(expected, ids),
        perplexity_clone=forward.perplexity(found_logits, ids),
        layers=_layer_errors(reference.page, grown.page, plan),
    )
    decoded = reference.decoded or rounded.decoded
    assert decoded is not None  # one of the source's runs was in the clone's dtype
    assert grown.decoded is not None
    partial.logits = figures
    partial.generation = generation.compare(decoded, grown.decoded, prompts, figures.max_abs_difference)
    partial.continuations = text.continuations(
        tokenizer, prompts, decoded.tokens.tolist(), grown.decoded.tokens.tolist()
    )
    partial.failures += [f"loading: {problem}" for problem in grown.problems]
    if not figures.relative_error <= figures.tolerance:
        partial.failures.append(
            f"logits: relative error {figures.relative_error:.1e} exceeds {figures.tolerance:.1e};"
            f" the copies first differ from the source at {figures.first_bad_layer}"
        )
    for prompt, step in partial.generation.parted:
        partial.failures.append(f"greedy decoding: prompt {prompt + 1} differs from the source at token {step + 1}")


def _layer_errors(
    source: forward.ForwardPass, clone: forward.ForwardPass, plan: Plan | None
) -> tuple[tuple[str, float], ...]:
    """(layer, largest relative error of any copy of its output) in forward order."""
    last = len(source.hidden) - 1
    names = ["the embeddings", *(f"layer {number}" for number in range(last))]
    names[-1] += " or the final norm"
    width, grown = source.hidden[0].shape[-1], clone.hidden[0].shape[-1]
    growth = plan.growths["embed"] if plan else tiled(width, max(1, grown // width))
    # the final norm may carry the factor of a tied head; without a plan, the factor is fitted
    factor = plan.head.factor if plan else forward.best_factor(source.hidden[-1], clone.hidden[-1])
    return tuple(
        (name, forward.copies_error(ours, theirs, *((growth.unscaled(), factor) if number == last else (growth, 1.0))))
        for number, (name, ours, theirs) in enumerate(zip(names, source.hidden, clone.hidden, strict=False))
    )


def _coarsest_dtype(tensors: Iterable[StoredTensor]) -> torch.dtype:
    """The dtype with the largest eps that any of the tensors is stored in; at least float32's."""
    names = {stored: name for name, stored in FLOAT_DTYPES.items()}
    stored = {names[tensor.dtype] for tensor in tensors if tensor.dtype in names}
    dtypes: list[torch.dtype] = [torch.float32, *(getattr(torch, name) for name in stored)]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
