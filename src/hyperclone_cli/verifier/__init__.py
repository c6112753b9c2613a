"""Is the clone the source? Stock transformers decides, and the weights say where it is not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from hyperclone_cli.checkpoint.checksums import differences
from hyperclone_cli.checkpoint.source import Source, open_source
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.hub.download import Access, locate, open_checkpoint
from hyperclone_cli.planning.planner import Plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.verifier.files import compare_config, compare_files
from hyperclone_cli.verifier.last_verification import file_digests, record_verification
from hyperclone_cli.verifier.report import Findings, Report, finite
from hyperclone_cli.verifier.setting import DTYPE, NEW_TOKENS, Setting, check_context, check_unused, choose_setting
from hyperclone_cli.writing.clone_files import PROVENANCE_NAME
from hyperclone_cli.writing.integrity import finiteness_note
from hyperclone_cli.writing.provenance import Provenance, plan_again, read_provenance

__all__ = ["Report", "verify"]


def verify(
    clone: str | Path,
    src: str | Path | None = None,
    device: str | None = None,
    dtype: str = DTYPE,
    weights_only: bool = False,
    new_tokens: int = NEW_TOKENS,
    progress: Progress | None = None,
    access: Access | None = None,
    checksum: bool = False,
) -> Report:
    """Hold a clone against its source: config, tokenizer, every weight, logits, and greedy decoding.

    src           the source: a directory, a GGUF file, or a model on the Hub; None takes the one that was recorded
    device        torch's name of it; None takes a GPU if there is one
    dtype         what both models run in. In float32 the logits' relative error may be at most
                  max(1e-5, the error that the source's own storage dtype makes); in another dtype
                  at most twice the error that this dtype makes in the source
    weights_only  skip everything that needs a forward pass, and refuse what says how it is to be run
    new_tokens    tokens that greedy decoding continues each prompt by
    progress      hears of every step, and of the bytes compared and the tokens decoded
    access        revision (of `src`), token and cache for the Hub; None: the usual ones
    checksum      also compare the SHA-256 of every file with those that `expand` recorded

    What a full verification finds is also written into the clone, see `verification`, if the source is the one that
    was expanded, wherever it is now: same config, and tensors of the same names and shapes. A failure against a
    source that was named is not, for that may be another one; where nothing is written, a note says why.
    A clone that differs is no error but a report with `failures`. Raises RequestError and
    CheckpointError for inputs that cannot be compared at all, StorageError if the source cannot be fetched.
    """
    clone, access, progress = Path(clone), access or Access(), progress or Progress()
    if weights_only:
        check_unused(device, dtype, new_tokens)
    checkpoint, record = open_source(clone), read_provenance(clone)
    if checksum and not (record and record.sha256):
        raise RequestError(f"--checksum: {clone / PROVENANCE_NAME} records no SHA-256.", "Expand with --checksum.")
    setting = None if weights_only else choose_setting(device, dtype, new_tokens)
    source, plan = _open_source(clone, record, src, weights_only, access, progress)
    if setting:
        check_context(setting, source, plan)
    found = Findings()
    unrecorded = _why_unrecorded(record, plan, weights_only)
    files: dict[str, str] = {}
    if checksum or not unrecorded:
        progress.step(f"Hashing the files of {clone}")
        files = file_digests(clone)  # before they are read: whatever changes meanwhile is not what was verified
    if record and checksum:
        found.failures += differences(record.sha256, files)
    if plan:
        _compare_contents(plan, checkpoint, found, progress)
    if setting:
        _compare_functions(source, checkpoint, plan, setting, found, progress)
    report = Report(
        clone=str(clone),
        source=_shown(source),
        notes=tuple(found.notes),
        failures=tuple(found.failures),
        weights=found.weights,
        logits=found.logits,
        generation=found.generation,
        hashed=len(record.sha256) if record and checksum else None,
    )
    if src is not None and not report.passed and not unrecorded:
        unrecorded = "the source that was named may be another than the recorded one"
    if plan and not unrecorded:
        note = record_verification(clone, plan.digest, files, finite(report.as_json()))
    else:
        note = f"Nothing is recorded in {clone}: {unrecorded}."
    return replace(report, notes=(*report.notes, note)) if note else report


def _why_unrecorded(record: Provenance | None, plan: Plan | None, weights_only: bool) -> str:
    """Why a verification says too little of a clone to be recorded in it; empty if it does not."""
    if record is None or plan is None:
        return f"without {PROVENANCE_NAME}, config and weights were not compared, only what the models compute"
    if plan.digest != record.plan_digest:
        return "the source, compared as it is now, is not the one that was expanded"
    return "only the weights were compared" if weights_only else ""


def _open_source(
    clone: Path,
    record: Provenance | None,
    src: str | Path | None,
    weights_only: bool,
    access: Access,
    progress: Progress,
) -> tuple[Source, Plan | None]:
    """The source, and the plan of the clone where it is known what made it."""
    if record is not None:
        plan = plan_again(record, src, access, progress, open_checkpoint)
        return plan.source, plan
    if src is None or weights_only:
        raise CheckpointError(
            f"{clone}: no {PROVENANCE_NAME}, so its source and its growth are not known.",
            "Name the source with --src. The weights can be compared only for clones that hyperclone wrote.",
        )
    return open_checkpoint(locate(src, access), access, progress), None


def _shown(source: Source) -> str:
    """What a source is called in a report: by its name on the Hub, or by the shorter of its paths."""
    return source.origin.repo_id if source.origin else min(str(source.path), os.path.relpath(source.path), key=len)


def _compare_contents(plan: Plan, clone: Source, found: Findings, progress: Progress) -> None:
    """What is in the clone's files, held against what the plan writes."""
    from hyperclone_cli.verifier.weights import compare_weights

    found.failures += compare_config(plan.config, clone.config)
    compare_files(plan, clone.path, found)
    progress.step("Comparing the weights", "bytes")
    found.weights = compare_weights(plan, clone, progress.advance)
    found.failures += [f"tensor {name} {what}" for name, what in found.weights.bad.items()]
    found.notes += filter(None, [finiteness_note(found.weights.not_finite)])


def _compare_functions(
    source: Source, clone: Source, plan: Plan | None, setting: Setting, found: Findings, progress: Progress
) -> None:
    """What the models compute. A clone that cannot be run has failed, where something else is wrong with it too."""
    from hyperclone_cli.verifier.functions import compare_functions

    try:
        compare_functions(source, clone, plan, setting, found, progress)
    except CheckpointError as error:
        if found.failures:
            found.failures.append(error.message)
            return
        strange = finiteness_note(found.weights.not_finite) if found.weights else ""
        raise CheckpointError(f"{error.message} {strange}".rstrip(), error.hint) from error
