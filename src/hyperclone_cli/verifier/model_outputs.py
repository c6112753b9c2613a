"""Compare what source and clone compute: stock transformers runs both on the same tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import torch
from rich.filesize import decimal
from transformers import __version__

from hyperclone_cli.checkpoint.safetensors_file import FLOAT_DTYPES, StoredTensor
from hyperclone_cli.checkpoint.sizes import context_length, number_of_logits, read_sizes
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.errors import CheckpointError, HypercloneError, StorageError, is_memory_error, last_line
from hyperclone_cli.families import find_family
from hyperclone_cli.growth.depth import ClonedLayer
from hyperclone_cli.growth.widths import tiled
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.verifier import forward, generation, text
from hyperclone_cli.verifier.loading import LoadedModel, loaded, scratch_directory
from hyperclone_cli.verifier.memory import Fit, fit, longest_page
from hyperclone_cli.verifier.picture import Seen, placeholders
from hyperclone_cli.verifier.report import LogitFigures, PartialReport, RunFigures
from hyperclone_cli.verifier.run_options import FEW_NEW_TOKENS, NEW_TOKENS, RunOptions
from hyperclone_cli.writing.lineage import as_one

TOLERANCE = 1e-5
"""Relative logit error that float32 arithmetic explains, with a margin: the bound where no weight was rounded."""


@dataclass
class Decoding:
    """Prompts, and what becomes of them: the source decodes, in the dtype of the clone, and the clone follows.

    at_once  whether the models are given several tokens at a time, which the source decides
    """

    prompts: list[list[int]]
    new_tokens: int
    source: generation.Decoded | None = None
    at_once: bool = True
    chosen: torch.Tensor | None = None

    def run(self, loaded: LoadedModel, progress: Progress) -> None:
        """Let the first model decode, and the next follow it."""
        model, device = loaded.model, loaded.device
        if self.source is None:
            self.source = generation.decode(model, self.prompts, self.new_tokens, device, progress.advance)
            self.at_once = generation.takes_several(model, self.prompts, self.source, device)
            return
        follow = generation.follow if self.at_once else generation.follow_singly
        self.chosen = follow(model, self.prompts, self.source.tokens, device, progress.advance)


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

    plan   tells how the residual stream grew, in all growths from `source` to `clone`; without it the hidden states are
           compared as plain copies
    exact  allow the clone what float32 arithmetic explains, and nothing for the dtype that weights are stored in

    One model is in memory at a time, or as much of it as there is room for. Where there is too little even for that,
    a note says so, and nothing is compared. Raises CheckpointError if a model cannot be loaded, the source cannot be
    run, or its logits are not finite, StorageError if memory runs out.
    """
    plan = as_one(plan) if plan else None
    family = plan.source_family if plan else find_family(source.config, source.tensors)
    grown_family = plan.family if plan else find_family(clone.config, clone.tensors)
    own = family.own(source.config)
    vocab_size = read_sizes(own, family)["vocab"]
    found = grown_family.value(grown_family.own(clone.config), grown_family.sizes["vocab"])
    if found != vocab_size:
        partial.failures.append(f"config.json: vocab_size should be {vocab_size}, found {found!r}")
        return
    context = context_length(own, family)
    known_tokens = number_of_logits(own, family)
    tokenizer, note = text.load_tokenizer(source.path, known_tokens)
    partial.notes += [note] if note else []
    avoid = placeholders(source.config)
    ids = text.page(tokenizer, known_tokens, min(context, options.page_tokens or context), avoid)
    scratch = scratch_directory(clone.path)

    def fitting(checkpoint: Source, dtype: torch.dtype, tokens: int) -> Fit:
        device = None if options.all_gpus else options.device
        return fit(
            checkpoint,
            grown_family if checkpoint is clone else family,
            dtype.itemsize,
            tokens,
            options.max_memory,
            device,
            scratch,
        )

    def both(tokens: int) -> list[Fit]:
        return [fitting(source, torch.float32, tokens), fitting(clone, options.dtype, tokens)]

    tokens = len(ids) if options.page_tokens else longest_page(len(ids), both)
    if tokens < len(ids):
        partial.notes.append(f"The page was cut from {len(ids)} to {tokens} tokens, for which there is memory.")
        ids = ids[:tokens]
    fits = dict(zip(("source", "clone"), both(tokens), strict=True))
    if short := [f"the {name} {one}" for name, one in fits.items() if one.mode == "weights only"]:
        partial.notes.append(f"The models were not run, only the weights were compared: {'; '.join(short)}.")
        return
    few = options.new_tokens is None and fits["source"].mode != "in memory"
    new_tokens = options.new_tokens or min(FEW_NEW_TOKENS if few else NEW_TOKENS, context - 1)
    wrapping = grown_family.wrapping
    seen = Seen(source.path, wrapping.wrapper.pixels if wrapping else "", ids)
    decoding = Decoding(text.prompts(tokenizer, known_tokens, context - new_tokens, avoid), new_tokens)

    def run(checkpoint: Source, dtype: torch.dtype) -> tuple[forward.ForwardPass, list[str]]:
        name = "clone" if checkpoint is clone else "source"
        how = fitting(checkpoint, dtype, tokens)
        what = f"the {name} in {_name(dtype)}" + (f", {how.mode}" if how.mode != "in memory" else "")
        progress.step(f"Loading {what}")
        try:
            with loaded(checkpoint, dtype, options.device, how, scratch) as model:
                progress.step(f"Running {what} on {len(ids)} tokens")
                partial.notes += forward.experts_note(model.model) if checkpoint is clone else []
                page = model.run(lambda: forward.run(model.model, ids, model.device))
                if seen.form:
                    progress.step(f"Running {what} on a picture")
                    seen.run(model, checkpoint is clone)
                if dtype == options.dtype:
                    progress.step(f"Decoding {len(decoding.prompts)} prompts with {what}", "tokens")
                    model.run(lambda: decoding.run(model, progress))
                read = model.passes * model.pass_bytes
                partial.runs.append(RunFigures(name, _name(dtype), how.mode, model.passes, read))
                return page, model.problems
        except Exception as error:
            if not is_memory_error(error):
                if checkpoint is clone or isinstance(error, HypercloneError):
                    raise
                raise CheckpointError(
                    f"{checkpoint.path}: transformers {__version__} cannot run it in {_name(dtype)}:"
                    f" {last_line(error)}",
                    "Install a version of transformers that does. --weights-only compares weights, and runs no model.",
                ) from error
            raise StorageError(
                f"{checkpoint.path}: memory ran out while {name} ran in {_name(dtype)}: {how}. ({last_line(error)})",
                f"Use --max-memory {decimal(how.needs.in_memory // 2).replace(' ', '')} or less, which reads weights as"
                " layers run, or --weights-only, which runs no model.",
            ) from error

    reference, known = run(source, torch.float32)
    forward.check_complete(source, known)
    if not bool(reference.logits.isfinite().all()):
        raise CheckpointError(f"{source.path}: the source computes NaN or Inf, so no clone can be compared with it.")
    floor_dtype = options.dtype
    if options.dtype == torch.float32 and not exact:
        copied = [tensor for name, tensor in source.tensors.items() if not plan or name not in plan.dropped]
        floor_dtype = _coarsest_dtype([*copied, *clone.tensors.values()])
    floor = 0.0
    if floor_dtype != torch.float32:
        floor = forward.relative_error(run(source, floor_dtype)[0].logits, reference.logits)
    if not math.isfinite(floor):
        partial.notes.append(f"The source itself overflows in {_name(floor_dtype)}: that allows the clone no error.")
        floor = 0.0
    grown, problems = run(clone, options.dtype)

    expected, found_logits = reference.logits, grown.logits
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
        layers=_layer_errors(reference, grown, plan),
    )
    partial.logits, partial.routing = figures, grown.routing
    assert decoding.source is not None  # one of the source's runs was in the clone's dtype
    assert decoding.chosen is not None
    partial.generation = generation.compare(
        decoding.source, decoding.chosen, decoding.prompts, figures.max_abs_difference, decoding.at_once
    )
    partial.continuations = text.continuations(
        tokenizer, decoding.prompts, decoding.source.tokens.tolist(), decoding.chosen.tolist()
    )
    # what transformers does not load of the source's towers, it does not load of the clone's
    partial.failures += [f"loading: {problem}" for problem in problems if problem not in known]
    if not figures.relative_error <= figures.tolerance:
        partial.failures.append(
            f"logits: relative error {figures.relative_error:.1e} exceeds {figures.tolerance:.1e};"
            f" the copies first differ from the source at {figures.first_bad_layer}"
        )
    seen.compare(options.dtype == torch.float32, TOLERANCE, partial)
    for prompt, step in partial.generation.parted:
        partial.failures.append(f"greedy decoding: prompt {prompt + 1} differs from the source at token {step + 1}")


def _layer_errors(
    source: forward.ForwardPass, clone: forward.ForwardPass, plan: Plan | None
) -> tuple[tuple[str, float], ...]:
    """(layer, largest relative error of any copy of its output) in forward order, for the layers of the clone.

    A layer that runs several times counts as often. A silent layer puts out what the layer before it does. Between the
    source's last layer and the final norm, whose output transformers gives in the place of the last layer's, there is
    nothing to compare it with.
    """
    last, layers = len(source.hidden) - 1, len(clone.hidden) - 1
    order = (
        plan.order if plan and layers > last else tuple(ClonedLayer(number, number >= last) for number in range(layers))
    )
    passed = [0, *accumulate(int(not layer.new) for layer in order)]
    pairs = [(number, passed[number]) for number in range(layers) if passed[number] < last] + [(layers, last)]
    width, grown = source.hidden[0].shape[-1], clone.hidden[0].shape[-1]
    growth = plan.growths["embed"] if plan else tiled(width, max(1, grown // width))
    # a final norm undoes the scale of the copies, unless it gives the whole vector the length 1
    final = growth if plan and plan.family.norm == "length" else growth.unscaled()
    # the final norm may carry the factor of a tied head; without a plan, the factor is fitted
    factor = plan.head.factor if plan else forward.best_factor(source.hidden[-1], clone.hidden[-1])
    names = ["the embeddings", *(f"layer {number}" for number in range(layers))]
    names[-1] += " or the final norm"

    def error(number: int, of_source: int) -> float:
        scale = (final, factor) if number == layers else (growth, 1.0)
        return forward.copies_error(source.hidden[of_source], clone.hidden[number], *scale)

    return tuple((names[number], error(number, of_source)) for number, of_source in pairs)


def _coarsest_dtype(tensors: Iterable[StoredTensor]) -> torch.dtype:
    """The dtype with the largest eps that any of the tensors is stored in; at least float32's."""
    names = {stored: name for name, stored in FLOAT_DTYPES.items()}
    stored = {names[tensor.dtype] for tensor in tensors if tensor.dtype in names}
    dtypes: list[torch.dtype] = [torch.float32, *(getattr(torch, name) for name in stored)]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
