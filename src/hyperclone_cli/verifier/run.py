"""Verify a clone against its source: its files, its weights, and what both models compute under stock transformers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from hyperclone_cli.checkpoint.checksums import differences
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.checkpoint.source import Place, Source
from hyperclone_cli.errors import CheckpointError, RequestError, StorageError, last_line
from hyperclone_cli.hub.download import Access, locate, open_checkpoint
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.verifier.background import background
from hyperclone_cli.verifier.contents import compare_contents, digests
from hyperclone_cli.verifier.report import PartialReport, Report, finite
from hyperclone_cli.verifier.run_options import (
    DTYPE,
    RunOptions,
    check_context,
    check_unused,
    choose_run_options,
)
from hyperclone_cli.verifier.verification_record import record_verification
from hyperclone_cli.writing.clone_files import PROVENANCE_NAME
from hyperclone_cli.writing.integrity import finiteness_note
from hyperclone_cli.writing.lineage import (
    Planned,
    by_request,
    goes_on,
    place_name,
    plan_again,
    plans_to,
    weights_digest,
)
from hyperclone_cli.writing.options import Executing
from hyperclone_cli.writing.provenance import Provenance, read_provenance
from hyperclone_cli.writing.ray_cluster import check_executor, cluster_of


def verify(
    clone: str | Path,
    src: str | Path | None = None,
    device: str | None = None,
    dtype: str = DTYPE,
    weights_only: bool = False,
    new_tokens: int | None = None,
    progress: Progress | None = None,
    access: Access | None = None,
    checksum: bool = False,
    page_tokens: int | None = None,
    max_memory: int | str | None = None,
    opened: Source | None = None,
    executing: Executing | None = None,
) -> Report:
    """Compare a clone with its source: config, side files, every weight, logits, and greedy decoding.

    src           the source, or any ancestor: a directory, a GGUF file, or a model on the Hub; None: the source that
                  the clone recorded, or the nearest recorded ancestor that is still there
    device        torch's name of the device; None: a GPU if there is one
    dtype         what both models run in. In float32 the relative error of the logits may be at most
                  max(1e-5, the error that the source's own storage dtype makes); in any other dtype
                  at most twice the error that this dtype makes in the source
    weights_only  skip everything that needs a forward pass; options about that are then refused
    new_tokens    number of tokens by which greedy decoding continues each prompt; None: 16, or 4 if the source runs
                  layer by layer
    progress      hears of every step, and of the weights compared and the tokens decoded
    access        revision (of `src`), token and cache for the Hub; None: the usual ones
    checksum      also compare the SHA-256 of every file with those that `expand` recorded
    page_tokens   number of tokens of the page; None: all that there is memory for
    max_memory    bytes, or a size such as "8GB", that a model may take on each device; None: what is free. A model that
                  takes more is run layer by layer, and where that takes more too, only the weights are compared
    executing     who hashes the files and compares the weights; None: threads of this process
    opened        the source that the clone recorded, where the caller has it open: to open a GGUF file may take minutes

    The result of a full verification is also written into the clone, see `verification_record`, if the source is the
    one that was expanded: the same config, and tensors of the same names and shapes. A failure against a source named
    by `src` is not written, for that may be a different one. If nothing is written, a note of the report says why.

    An ancestor is compared through all growths that are recorded from it to the clone: the models between are grown
    again from it as they are read. With any other model the outputs alone are compared, see `Report.outputs_alone`.

    Of a clone that is not function-preserving by request, config, files and weights are compared, no outputs; it never
    passes, and nothing is recorded.

    A clone that differs gives a report with `failures`, not an error. Raises RequestError and CheckpointError for
    inputs that cannot be compared at all, StorageError if the source cannot be downloaded.
    """
    clone, access, progress = Path(clone), access or Access(), progress or Progress()
    executing = executing or Executing()
    check_executor(executing)
    if weights_only:
        check_unused(device, dtype, new_tokens, page_tokens, max_memory)
    checkpoint, record = open_source(clone), read_provenance(clone)
    if checksum and not (record and record.sha256):
        raise RequestError(f"--checksum: {clone / PROVENANCE_NAME} records no SHA-256.", "Expand with --checksum.")
    options = None if weights_only else choose_run_options(device, dtype, new_tokens, page_tokens, max_memory)
    planned = _open_source(clone, record, src, opened, weights_only, access, progress)
    source, plan = planned.source, planned.plan
    partial = PartialReport()
    outputs_alone = "" if record else f"Without {PROVENANCE_NAME} only what the two models compute is compared."
    if record and (not plan or (plan.digest != record.plan_digest and not _is_plan_of(plan, checkpoint))):
        outputs_alone = _other_model(record, planned, weights_only, partial)
        plan = None
    if plan and by_request(plan):
        options = None
    if options:
        check_context(options, source, plan)
    if planned.missing:
        between = f"{planned.missing}, which it was grown from, is not there any more"
        partial.notes.append(f"{between}: it is compared with {_display_name(source)}, by {planned.growths} growths.")
    unrecorded = _why_unrecorded(record, plan, weights_only)
    files: dict[str, str] = {}
    with cluster_of(executing) as do:
        if checksum or not unrecorded:
            progress.step(f"Hashing the files of {clone}")
            files = digests(clone, do)  # before they are compared, so that `push` notices whatever changes meanwhile
        if record and checksum:
            partial.failures += differences(record.sha256, files)
        if plan:
            compare_contents(plan, checkpoint, partial, progress, do)
    if plan and record and record.lineage:
        _tell_lineage(record, planned, partial, progress)
    if options:
        _compare_outputs(source, checkpoint, plan, options, partial, progress)
        if not partial.logits and not partial.failures:
            if plan is None:
                raise StorageError(
                    f"{clone}: {partial.notes[-1]}", "Without the clone's plan, nothing can be compared."
                )
            unrecorded = unrecorded or "only the weights were compared"
    report = Report(
        clone=str(clone),
        source=_display_name(source),
        notes=tuple(partial.notes),
        failures=tuple(partial.failures),
        weights=partial.weights,
        logits=partial.logits,
        picture=partial.picture,
        generation=partial.generation,
        before_rounding=partial.before_rounding,
        runs=tuple(partial.runs),
        by_request="" if plan is None else by_request(plan),
        outputs_alone=outputs_alone,
        growths=planned.growths if plan else None,
        hashed=len(record.sha256) if record and checksum else None,
        continuations=partial.continuations,
        routing=partial.routing,
        background=background(source, checkpoint, plan, options.device if options else None),
    )
    if src is not None and not report.passed and not unrecorded:
        unrecorded = "the source named with --src may not be the one that was expanded"
    if plan and not unrecorded:
        note = record_verification(clone, plan.digest, files, finite(report.as_json()))
    else:
        note = f"Nothing is recorded in {clone}: {unrecorded}."
    return replace(report, notes=(*report.notes, note)) if note else report


def _why_unrecorded(record: Provenance | None, plan: Plan | None, weights_only: bool) -> str:
    """Why a verification is not recorded in the clone; "" if it is."""
    if record is None:
        return f"without {PROVENANCE_NAME}, config and weights were not compared, only the models' outputs"
    if plan is None:
        return "the models' outputs were compared, but not with those of its source"
    if plan.digest != record.plan_digest:
        return "the source has changed, and is not the one that was expanded"
    if by_request(plan):
        return f"the clone is {by_request(plan)}"
    return "only the weights were compared" if weights_only else ""


def _open_source(
    clone: Path,
    record: Provenance | None,
    src: str | Path | None,
    opened: Source | None,
    weights_only: bool,
    access: Access,
    progress: Progress,
) -> Planned:
    """The source, or another ancestor, and the clone's plan; no plan for a clone without hyperclone.json."""
    if record is not None:
        recorded = record.source, record.request.dtype

        def open_once(place: Place, access: Access, progress: Progress, dtype: str | None) -> Source:
            if opened is not None and src is None and (place, dtype) == recorded:
                return opened
            return open_checkpoint(place, access, progress, dtype)

        return plan_again(record, src, access, progress, open_once)
    if src is None or weights_only:
        raise CheckpointError(
            f"{clone}: no {PROVENANCE_NAME}, which names the source and tells how it was grown.",
            "Name the source with --src. Without that file, only the outputs of the models can be compared.",
        )
    return Planned(open_checkpoint(locate(src, access), access, progress), None)


def _is_plan_of(plan: Plan, clone: Source) -> bool:
    """Whether the plan leads to tensors of the names and shapes that a clone has, damage to some of them aside."""
    found = {(name, tensor.shape) for name, tensor in clone.tensors.items()}
    planned = {(tensor.name, tensor.shape) for tensor in plan.tensors}
    return 2 * len(found & planned) > len(planned)


def _other_model(record: Provenance, planned: Planned, weights_only: bool, partial: PartialReport) -> str:
    """That a clone is compared with a model that its growths do not lead from, and with which they do.

    Raises RequestError where weights alone are to be compared.
    """
    chain = ", and that from ".join(place_name(growth.source) for growth in record.chain)
    said = f"The clone was grown from {chain}, not from {_display_name(planned.source)}"
    if planned.unlike:
        said = f"The clone was grown from {chain}, but {_not_as_grown(planned.unlike)}"
        partial.failures.append(f"lineage: {_not_as_grown(planned.unlike)}")
    if weights_only:
        raise RequestError(f"{said}: their weights cannot be compared.", "Leave --src out, or --weights-only.")
    return f"{said}: only what the two models compute is compared."


def _not_as_grown(place: str) -> str:
    return (
        f"{place} was another model, when it was grown, than the growths before it make: it was edited or trained"
        " between, or the growths are recorded in another order"
    )


def _tell_lineage(record: Provenance, planned: Planned, partial: PartialReport, progress: Progress) -> None:
    """Where weights differ, say whether growths are out of order, or which model was changed."""
    assert planned.plan is not None
    wrong = partial.weights is not None and bool(partial.weights.bad)
    if planned.unlike:
        said = _not_as_grown(planned.unlike)
        if wrong:
            partial.failures.insert(0, f"lineage: {said}")
        else:
            partial.notes.append(f"Of the lineage: {said}. The weights are none the less what the growths make.")
        return
    if not wrong:
        return
    if goes_on(planned.plan, record.lineage):
        partial.failures.insert(0, "lineage: the growths are recorded in another order than they follow one another")
        return
    if planned.growths == 1:
        return
    later = list(zip(plans_to(planned.plan)[1:], reversed(record.chain[: planned.growths - 1]), strict=True))
    progress.step("Growing the models between again, to find which one was changed", "bytes")
    for plan, growth in later:
        if growth.source_sha256 and weights_digest(plan, progress.advance) != growth.source_sha256:
            partial.failures.insert(0, f"lineage: {_not_as_grown(place_name(growth.source))}")
            return
    if all(growth.source_sha256 for _, growth in later):
        partial.failures.insert(0, "lineage: every model between was as it was grown: the clone itself was changed")


def _display_name(source: Source) -> str:
    """The source's name on the Hub, its URL, or the shorter of its relative and absolute path."""
    place = source.place
    return min(str(place), os.path.relpath(place), key=len) if isinstance(place, Path) else place_name(place)


def _compare_outputs(
    source: Source, clone: Source, plan: Plan | None, options: RunOptions, partial: PartialReport, progress: Progress
) -> None:
    """Compare what the models compute. A clone that cannot be run, and has failures already, has one more."""
    from torch import OutOfMemoryError

    from hyperclone_cli.verifier.before_rounding import decide_before_rounding
    from hyperclone_cli.verifier.model_outputs import compare_outputs

    try:
        compare_outputs(source, clone, plan, options, partial, progress)
        if plan:
            decide_before_rounding(source, clone, plan, options, partial, progress)
    except CheckpointError as error:
        if partial.failures:
            partial.failures.append(error.message)
            return
        not_finite = finiteness_note(partial.weights.not_finite) if partial.weights else ""
        raise CheckpointError(f"{error.message} {not_finite}".rstrip(), error.hint) from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if not partial.failures or isinstance(error, OutOfMemoryError):
            raise
        partial.failures.append(f"{clone.path}: transformers cannot run it: {last_line(error)}")
