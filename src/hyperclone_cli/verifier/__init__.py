"""Is the clone the source? Stock transformers decides, and the weights say where it is not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperclone_cli.checksums import differences
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.hub import Access, locate, open_checkpoint
from hyperclone_cli.integrity import finiteness_note
from hyperclone_cli.planner import make_plan
from hyperclone_cli.provenance import PROVENANCE_NAME, read_provenance, recorded_source
from hyperclone_cli.source import Source, open_source
from hyperclone_cli.verification import file_digests, record_verification
from hyperclone_cli.verifier.report import Report, finite

__all__ = ["Report", "verify"]

_NOT_COMPARED = {"transformers_version", "_name_or_path"}
"""Keys that say where a config comes from, not what it means."""


def verify(
    clone: str | Path,
    src: str | Path | None = None,
    device: str | None = None,
    dtype: str = "float32",
    weights_only: bool = False,
    new_tokens: int = 16,
    log: Callable[[str], None] | None = None,
    access: Access | None = None,
    checksum: bool = False,
) -> Report:
    """Hold a clone against its source: config, tokenizer, every weight, logits, and greedy decoding.

    src           the source: a directory, a GGUF file, or a model on the Hub; None takes the one that was recorded
    device        torch's name of it; None takes a GPU if there is one
    dtype         what both models run in. In float32 the logits' relative error may be at most
                  max(1e-5, the error that the source's own storage dtype makes); in another dtype
                  at most twice the error that this dtype makes in the source
    weights_only  skip everything that needs a forward pass
    new_tokens    tokens that greedy decoding continues each prompt by
    log           called with each step as it begins
    access        revision (of `src`), token and cache for the Hub; None: the usual ones
    checksum      also compare the SHA-256 of every file with those that `expand` recorded

    What a full verification against the recorded source finds is also written into the clone, see `verification`.
    A clone that differs is no error but a report with `failures`. Raises RequestError and
    CheckpointError for inputs that cannot be compared at all, StorageError if the source cannot be fetched.
    """
    clone, access = Path(clone), access or Access()
    found = open_source(clone)
    record = read_provenance(clone)
    if record is None and (src is None or weights_only):
        raise CheckpointError(
            f"{clone}: no {PROVENANCE_NAME}, so its source and its growth are not known.",
            "Name the source with --src. The weights can be compared only for clones that hyperclone wrote.",
        )
    if checksum and not (record and record.sha256):
        raise RequestError(f"--checksum: {clone / PROVENANCE_NAME} records no SHA-256.", "Expand with --checksum.")
    place = locate(src, access) if src is not None else recorded_source(record, access) if record else clone
    source = open_checkpoint(place, access, record.request.dtype if record else None)
    plan = make_plan(source, record.request) if record else None
    files: dict[str, str] = {}
    if record and plan and src is None and not weights_only and plan.digest == record.plan_digest:
        if log:
            log(f"Hashing the files of {clone}")
        files = file_digests(clone, record)  # before they are read: whatever changes meanwhile is not what was verified
    notes: list[str] = []
    failures: list[str] = []
    weights = logits = generation = None
    strange = ""
    if record and checksum:
        if log:
            log(f"Hashing the files of {clone}")
        failures += differences(clone, record.sha256)
    if not record:
        notes.append(f"No {PROVENANCE_NAME}: config and weights were not compared, only what the models compute.")
    if plan and record:
        if plan.digest != record.plan_digest:
            notes.append("The source is not the one that was expanded; compared with what is there now.")
        failures += _compare_configs(plan.config, found.config)
        failures += _compare_companions(source, found)
        if log:
            log("Comparing the weights")
        from hyperclone_cli.verifier.weights import compare_weights

        weights = compare_weights(plan, found)
        failures += [f"tensor {name} {what}" for name, what in weights.bad.items()]
        strange = finiteness_note(weights.not_finite)
        notes += [strange] if strange else []
    if not weights_only:
        import torch

        from hyperclone_cli.verifier.forward import choose_device
        from hyperclone_cli.verifier.functions import Setting, compare_functions

        setting = Setting(choose_device(device), getattr(torch, dtype), new_tokens)
        try:
            compared = compare_functions(source, found, plan, setting, log)
            logits, generation = compared.logits, compared.generation
            notes += compared.notes
            failures += compared.failures
        except CheckpointError as error:
            if not failures:
                raise CheckpointError(f"{error.message} {strange}".rstrip(), error.hint) from error
            failures.append(error.message)  # it cannot even be loaded: the reasons stand above
    origin = source.origin
    shown = origin.repo_id if origin else min(str(source.path), os.path.relpath(source.path), key=len)
    hashed = len(record.sha256) if record and checksum else None
    report = Report(str(clone), shown, tuple(notes), tuple(failures), weights, logits, generation, hashed)
    if plan and files:
        note = record_verification(clone, plan.digest, files, finite(report.as_json()))
        report = replace(report, notes=(*report.notes, note)) if note else report
    return report


def _compare_configs(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    keys = [key for key in {**expected, **found} if key not in _NOT_COMPARED]
    return [
        f"config.json: {key} should be {expected.get(key, 'absent')!r}, found {found.get(key, 'absent')!r}"
        for key in keys
        if expected.get(key, "absent") != found.get(key, "absent")
    ]


def _compare_companions(source: Source, clone: Source) -> list[str]:
    return [
        f"file {name} is not the source's"
        for name in source.companions()
        if not (clone.path / name).is_file() or (clone.path / name).read_bytes() != source.companion(name)
    ]
