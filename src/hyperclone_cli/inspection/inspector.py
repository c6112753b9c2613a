"""Will a clone learn with all of its new weights? How alike its copies are, and how alike they are trained."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hyperclone_cli.checkpoint.safetensors_file import FLOAT_DTYPES, StoredTensor
from hyperclone_cli.checkpoint.source import open_source
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.hub.download import Access
from hyperclone_cli.hub.remote_headers import open_headers
from hyperclone_cli.inspection.gradients import GradientFigures, compare_gradients
from hyperclone_cli.inspection.similarity import Alikeness, compare_copies, rank_fraction
from hyperclone_cli.planning.planner import Plan
from hyperclone_cli.planning.tensors import GrownTensor
from hyperclone_cli.progress import Progress
from hyperclone_cli.writing.clone_files import PROVENANCE_NAME
from hyperclone_cli.writing.provenance import plan_again, read_provenance

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1

RANK_LIMIT = 2048
"""The rank of a matrix whose smaller side is longer than this is not computed: minutes each."""


@dataclass(frozen=True)
class LayerFigures:
    """One part of one layer: means over its matrices. None where there is nothing to compare or measure.

    layer              its number; None for the embedding and the head
    part               "attention", "feed-forward", "embedding" or "head"
    outputs            cosine between the rows that write copy 0 of a width and those that write each other copy
    inputs             cosine between the columns that read copy 0 and those that read each other copy
    rank               numerical rank over the largest that the shape allows
    gradient_outputs   as `outputs`, of the gradients
    gradient_inputs    as `inputs`, of the gradients

    Rows and columns are compared as they are stored. So the weights of a diagonal clone are not alike
    (cosines of 0), even where its copies compute, and are taught, the same.
    """

    layer: int | None
    part: str
    outputs: float | None
    inputs: float | None
    rank: float | None
    gradient_outputs: float | None = None
    gradient_inputs: float | None = None


@dataclass(frozen=True)
class Inspection:
    """The whole inspection, the embedding first, then layer by layer, the head last."""

    checkpoint: str
    clone: str
    layers: tuple[LayerFigures, ...]
    gradients: GradientFigures | None = None
    notes: tuple[str, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect(
    checkpoint: Path,
    clone: Path | None = None,
    src: str | Path | None = None,
    gradients: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
    access: Access | None = None,
) -> Inspection:
    """Compare the copies of every matrix of a clone, or of a checkpoint that was trained from it.

    clone      the clone that `checkpoint` was trained from, whose record says what is a copy of what;
               None if it is the checkpoint itself
    src        the clone's source, a directory or a model on the Hub; None takes the one that the clone recorded
    gradients  also run the checkpoint, forward and backward on one page of text, in float32
    device     torch's name of where it runs; None takes a GPU if there is one
    progress   hears of every step, and of the matrices compared
    access     revision (of `src`), token and cache for the Hub; None: the usual ones

    Raises RequestError, CheckpointError and StorageError if it cannot be known which weights are copies, or if the
    checkpoint does not hold the clone's tensors.
    """
    clone, progress = clone or checkpoint, progress or Progress()
    found = open_source(checkpoint)
    place = _choose_device(device, gradients)
    plan, notes = _plan_of(clone, src, access or Access(), progress)
    matrices = [tensor for tensor in plan.tensors if len(tensor.growths) == 2 and _is_copied(tensor)]
    if not matrices:
        notes.append("Nothing grew, so there are no copies to compare.")
    stored = _find(matrices, found.tensors, checkpoint)
    weights: dict[str, Alikeness] = {}
    ranks: dict[str, float] = {}
    with found.rows() as read:
        progress.step(f"Comparing the copies in {checkpoint}", "matrices")
        for tensor in matrices:
            weight = read(tensor.like(stored[tensor.name]), 0, tensor.growths[0].target)
            weights[tensor.name] = compare_copies(weight, tensor)
            if min(weight.shape) <= RANK_LIMIT:
                ranks[tensor.name] = rank_fraction(weight)
            progress.advance(1, len(matrices))
    taught: dict[str, Alikeness] = {}
    figures = None
    if place and matrices:
        compared = compare_gradients(found, clone, plan, matrices, place, progress)
        taught, figures = compared.alike, compared.figures
        notes += compared.notes
    layers = tuple(
        LayerFigures(
            layer,
            part,
            _mean(cosine for name in names for cosine in weights[name].outputs),
            _mean(cosine for name in names for cosine in weights[name].inputs),
            _mean(ranks[name] for name in names & ranks.keys()),
            _mean(cosine for name in names & taught.keys() for cosine in taught[name].outputs),
            _mean(cosine for name in names & taught.keys() for cosine in taught[name].inputs),
        )
        for (layer, part), names in _by_layer(matrices).items()
    )
    return Inspection(str(checkpoint), str(clone), layers, figures, tuple(notes))


def _choose_device(name: str | None, gradients: bool) -> torch.device | None:
    """Where the model is run, if it is."""
    if gradients:
        from hyperclone_cli.verifier.forward import choose_device

        return choose_device(name)
    if name is not None:
        raise RequestError(
            f"--device {name}: without --gradients no model is run.", "Add --gradients, or leave it out."
        )
    return None


def _plan_of(clone: Path, src: str | Path | None, access: Access, progress: Progress) -> tuple[Plan, list[str]]:
    """The plan that `clone` was made by, and a note if its source has changed since."""
    record = read_provenance(clone)
    if record is None:
        raise CheckpointError(
            f"{clone}: no {PROVENANCE_NAME}, so it is not known which weights are copies.",
            "For a checkpoint trained from a clone, name the clone with --clone.",
        )
    plan = plan_again(record, src, access, progress, open_headers)
    changed = plan.digest != record.plan_digest
    return plan, ["The source is not the one that was expanded; its sizes are taken all the same."] if changed else []


def _find(matrices: list[GrownTensor], stored: Mapping[str, StoredTensor], checkpoint: Path) -> dict[str, StoredTensor]:
    """The checkpoint's tensors that the plan names, each of its planned shape."""
    for tensor in matrices:
        found = stored.get(tensor.name)
        if found is None or found.shape != tensor.shape:
            what = f"found {list(found.shape)}" if found else "found none"
            raise CheckpointError(
                f"{checkpoint}: tensor {tensor.name}: expected {list(tensor.shape)}, {what}.",
                "Name the clone that it was trained from with --clone.",
            )
        if found.dtype not in FLOAT_DTYPES.values():
            raise CheckpointError(
                f"{checkpoint}: tensor {tensor.name}: expected floating-point weights, found {found.dtype}."
            )
    return {tensor.name: stored[tensor.name] for tensor in matrices}


def _is_copied(tensor: GrownTensor) -> bool:
    return any(growth.grows for growth in tensor.growths)


def _by_layer(matrices: list[GrownTensor]) -> dict[tuple[int | None, str], set[str]]:
    """(layer, part) → tensor names, in the order in which the network runs."""
    found: dict[tuple[int | None, str], set[str]] = defaultdict(set)
    for tensor in matrices:
        number = re.search(r"\.(\d+)\.", tensor.name)
        found[int(number[1]) if number else None, tensor.part].add(tensor.name)

    def place(key: tuple[int | None, str]) -> tuple[float, str]:
        layer, part = key
        return (float("inf") if part == "head" else -1 if layer is None else layer), part

    return {key: found[key] for key in sorted(found, key=place)}


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return fmean(listed) if listed else None
