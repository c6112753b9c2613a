"""Whether rounding alone explains the error of a clone: the same clone in float32, held to the bound of float32."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from hyperclone_cli.checkpoint.json_config import config_changes
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.planning.notes import LEAST_SNR_DB_IN_16_BITS
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.verifier.model_outputs import TOLERANCE, compare_outputs
from hyperclone_cli.verifier.report import BeforeRounding, PartialReport
from hyperclone_cli.verifier.run_options import RunOptions
from hyperclone_cli.writing.arithmetic import grow_block
from hyperclone_cli.writing.block_loop import run_blocks, workers
from hyperclone_cli.writing.blocks import Block
from hyperclone_cli.writing.budget import plan_budget
from hyperclone_cli.writing.into_directory import bytes_needed, write_checkpoint
from hyperclone_cli.writing.lineage import in_dtype, plans_to

OUTPUT_FAILURES = ("logits: ", "picture: ", "greedy decoding: ")
"""How the failures begin that rounding can explain."""


def decide_before_rounding(
    source: Source, clone: Source, plan: Plan, options: RunOptions, partial: PartialReport, progress: Progress
) -> None:
    """Withdraw the failures of logits and decoding if the clone computes the source's function before rounding.

    Only where nothing else failed, the clone's weights or the run's dtype are rounded, the error of that rounding in
    the source could be measured, and noise is not so loud that rounding does more to the clone. Then the same clone is
    made in float32: the same plan, strategy, noise and seed. The failures are withdrawn if its logits are within 1e-5
    of the source's, its decoding is the same up to ties, and every number of `clone` is what the plan gives, rounded.

    `partial.before_rounding` gets the figures, and a note says what was found, also if there is no room for the clone.
    """
    figures = partial.logits
    rounded = any(one.rounded() for one in plans_to(plan))
    if not figures or not _explicable(partial) or not (rounded or options.dtype != torch.float32):
        return
    dtype = figures.floor_dtype
    noises = [one.request.mixing.noise_snr_db for one in plans_to(plan)]
    if any(snr_db is not None and snr_db < LEAST_SNR_DB_IN_16_BITS for snr_db in noises):
        partial.notes.append(f"The noise is louder than {LEAST_SNR_DB_IN_16_BITS} dB: rounding it excuses no error.")
        return
    if unlike := _unlike_plan(plan, clone, progress) if rounded else "":
        partial.notes.append(f"Rounding to {dtype} explains no error: {unlike} is not what expand writes.")
        return
    exact = replace(options, dtype=torch.float32)
    found = PartialReport()
    with _in_float32(plan, clone, rounded, progress) as twin:
        if twin is None:
            room = f"no room for the clone in float32, {4 * sum(tensor.elements for tensor in plan.tensors):,} bytes"
            partial.notes.append(f"Whether rounding to {dtype} explains the error is not known: {room}.")
            return
        compare_outputs(source, twin, plan, exact, found, progress, exact=True)
    if found.logits is None or found.generation is None:
        partial.notes += [*found.notes, *found.failures]
        return
    error = found.logits.relative_error
    passed = not found.failures and error <= TOLERANCE
    partial.before_rounding = BeforeRounding(passed, error, TOLERANCE, found.generation)
    if not passed:
        partial.notes.append(f"Rounding to {dtype} does not explain the error: before it, there is one of {error:.1e}.")
        return
    partial.failures.clear()
    partial.notes.append(
        f"Rounding to {dtype} moves the clone's logits by {figures.relative_error:.1e}, and the source's by"
        f" {figures.floor:.1e}: it can flip a router's choice, or which of two nearly equal tokens is taken. Before"
        f" rounding the clone computes the same function: error {error:.1e}, and the same decoding. Every number that"
        " is stored is that clone's, rounded."
    )


def _explicable(partial: PartialReport) -> bool:
    """Whether there are failures, all of logits or decoding, and an error of rounding was measured in the source."""
    failures, figures = partial.failures, partial.logits
    return (
        bool(failures)
        and all(failure.startswith(OUTPUT_FAILURES) for failure in failures)
        and figures is not None
        and math.isfinite(figures.relative_error)
        and figures.floor > 0
    )


def _unlike_plan(plan: Plan, clone: Source, progress: Progress) -> str:
    """The first tensor of which not every number is what the plan gives; "" if there is none.

    `compare_weights` allows whatever copies sum to the source's weight: loud noise too, of which the clone in float32
    would know nothing. Noise may differ in the last bit between processors.
    """
    budget = plan_budget(plan.kinds)
    progress.step("Growing the weights again, to compare each number")
    with plan.source.rows() as read, clone.rows() as read_clone, workers(budget.threads) as executor:

        def same(block: Block, rows: torch.Tensor, noise_power: float) -> bool:
            tensor = block.tensor
            stored = tensor.like(clone.tensors[tensor.name])
            noisy = tensor.noisy or tensor.reads_padding
            return all(
                _same(read_clone(stored, place, place + len(grown)), grown, noisy)
                for place, grown in grow_block(block, rows, noise_power)
            )

        results = run_blocks(plan.tensors, read, executor, budget, same)
        return next((result.block.tensor.name for result in results if not result.value), "")


def _same(found: torch.Tensor, grown: torch.Tensor, noisy: bool) -> bool:
    if not noisy or torch.equal(found, grown):
        return torch.equal(found, grown)
    largest = grown.abs().amax(-1, keepdim=True).double()
    return bool(((found.double() - grown.double()).abs() <= 2 * torch.finfo(grown.dtype).eps * largest).all())


@contextmanager
def _in_float32(plan: Plan, clone: Source, rounded: bool, progress: Progress) -> Iterator[Source | None]:
    """The clone of `plan` in float32, in a directory beside the clone, or where the system has temporary files.

    A clone of which nothing is rounded is its own. None if there is no room, or no place to write.
    """
    if not rounded:
        yield clone
        return
    exact = in_dtype(plan, "float32")
    changed = [key for key, *_ in config_changes(plan.config, exact.config) if not key.endswith("dtype")]
    assert not changed, changed
    places = [
        place for place in (clone.path.resolve().parent, Path(tempfile.gettempdir())) if os.access(place, os.W_OK)
    ]
    place = next((place for place in places if shutil.disk_usage(place).free >= bytes_needed(exact)), None)
    if place is None:
        yield None
        return
    with tempfile.TemporaryDirectory(dir=place, prefix=f".{clone.path.name}.float32-") as directory:
        progress.step("Growing the clone in float32", "bytes")
        write_checkpoint(exact, Path(directory), progress.advance)
        yield open_source(Path(directory))
