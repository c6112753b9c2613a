"""How similar the copies in a checkpoint are, and whether training will keep them equal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.checkpoint.safetensors_file import FLOAT_DTYPES, StoredTensor
from hyperclone_cli.errors import CheckpointError, RequestError, StorageError, first_of
from hyperclone_cli.hub.download import Access
from hyperclone_cli.hub.remote_headers import open_headers
from hyperclone_cli.inspection.earlier_growths import folded
from hyperclone_cli.inspection.expert_copies import ExpertCopies, matrices_of_experts, measure_experts
from hyperclone_cli.inspection.gradients import GradientFigures, compare_gradients
from hyperclone_cli.inspection.new_layers import NewLayer, at_rest, measure_new_layers
from hyperclone_cli.inspection.similarity import CopySimilarity, compare_copies, rank_fraction
from hyperclone_cli.planning.grown_tensor import GrownTensor
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.writing.clone_files import PROVENANCE_NAME
from hyperclone_cli.writing.lineage import place_name, plan_again, plans_to
from hyperclone_cli.writing.provenance import read_provenance

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read

SCHEMA_VERSION = 1

RANK_LIMIT = 2048
"""The rank is computed only of matrices whose smaller side is at most this: larger ones take minutes each."""


@dataclass(frozen=True)
class LayerFigures:
    """One part of one layer: means over its matrices. None if it has nothing to compare or measure.

    layer              number of the layer; None for the embedding and the head. Of an earlier growth: in its clone
    part               "attention", "feed-forward", "embedding" or "head"
    outputs            cosine between the rows that write copy 0 of a width and those that write each other copy
    inputs             cosine between the columns that read copy 0 and those that read each other copy
    rank               numerical rank over the largest that the shape allows
    gradient_outputs   `outputs` of the gradients
    gradient_inputs    `inputs` of the gradients
    growth             which growth the copies stem from, where there were several: 1 is the first. Those of an earlier
                       one are compared once the copies of later ones are folded, see `earlier_growths`, and have
                       neither rank nor gradients

    Rows and columns are compared as they are stored: the weights of a diagonal clone have cosines of 0 even where its
    copies compute the same and get equal gradients.
    """

    layer: int | None
    part: str
    outputs: float | None
    inputs: float | None
    rank: float | None
    gradient_outputs: float | None = None
    gradient_inputs: float | None = None
    growth: int = 1


@dataclass(frozen=True)
class Inspection:
    """The figures of the embedding, each layer in order and the head, and of the gradients if they were compared.

    new_layers  those that were silent in the clone, in order
    experts     those of each layer that has copies of experts, in order
    """

    checkpoint: str
    clone: str
    layers: tuple[LayerFigures, ...]
    gradients: GradientFigures | None = None
    new_layers: tuple[NewLayer, ...] = ()
    experts: tuple[ExpertCopies, ...] = ()
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
    """Compare the copies in every matrix of a clone, or of a checkpoint that was trained from it.

    clone      the clone that `checkpoint` was trained from, whose hyperclone.json tells which weights are copies;
               None if it is the checkpoint itself
    src        the clone's source, a directory or a model on the Hub; None: the one that the clone recorded
    gradients  also compare gradients, of one forward and backward pass over a page of text in float32
    device     torch's name of the device for that pass; None: a GPU if there is one
    progress   hears of every step, and of the matrices compared
    access     revision (of `src`), token and cache for the Hub; None: the usual ones

    Raises RequestError, CheckpointError or StorageError if the clone's plan cannot be made again, CheckpointError if
    the checkpoint lacks tensors of the plan.
    """
    clone, progress = clone or checkpoint, progress or Progress()
    found = open_source(checkpoint)
    gradient_device = _choose_device(device, gradients)
    plans, number, notes = _plans_of(clone, src, access or Access(), progress)
    plan = plans[-1]
    matrices = _grown_matrices(plan)
    of_experts = matrices_of_experts(plan)
    if not matrices and not at_rest(plan) and not of_experts:
        notes.append("Nothing grew, so there are no copies to compare.")
    _check_shapes([*matrices, *at_rest(plan), *of_experts], found.tensors, checkpoint)
    weights: dict[str, CopySimilarity] = {}
    ranks: dict[str, float] = {}
    with found.rows() as read:
        progress.step(f"Comparing the copies in {checkpoint}", "matrices")
        for tensor in matrices:
            weight = read(tensor.like(found.tensors[tensor.name]), 0, tensor.growths[0].target)
            weights[tensor.name] = compare_copies(weight, tensor)
            if min(weight.shape) <= RANK_LIMIT:
                ranks[tensor.name] = rank_fraction(weight)
            progress.advance(1, len(matrices))
        new_layers = measure_new_layers(plan, found.tensors, read)
        experts = measure_experts(plan, found.tensors, read)
        earlier = _earlier(plans, number, found.tensors, read)
    gradient_similarities: dict[str, CopySimilarity] = {}
    figures = None
    if gradient_device and matrices:
        compared = compare_gradients(found, clone, plan, matrices, gradient_device, progress)
        gradient_similarities, figures, more_notes = compared
        notes += more_notes
    layers = earlier
    for (layer, part), names in _by_layer(matrices).items():
        of_weights = [weights[name] for name in names]
        of_gradients = [gradient_similarities[name] for name in names & gradient_similarities.keys()]
        means = (
            _mean(cosine for one in of_weights for cosine in one.outputs),
            _mean(cosine for one in of_weights for cosine in one.inputs),
            _mean(ranks[name] for name in names & ranks.keys()),
            _mean(cosine for one in of_gradients for cosine in one.outputs),
            _mean(cosine for one in of_gradients for cosine in one.inputs),
        )
        layers.append(LayerFigures(layer, part, *means, growth=number))
    return Inspection(str(checkpoint), str(clone), tuple(layers), figures, new_layers, experts, tuple(notes))


def _choose_device(name: str | None, gradients: bool) -> torch.device | None:
    """The device for the gradients; None if they are not compared. Raises RequestError for one that is not used."""
    if gradients:
        from hyperclone_cli.verifier.forward import choose_device

        return choose_device(name)
    if name is not None:
        raise RequestError(
            f"--device {name}: without --gradients no model is run.", "Add --gradients, or leave --device out."
        )
    return None


def _plans_of(
    clone: Path, src: str | Path | None, access: Access, progress: Progress
) -> tuple[tuple[Plan, ...], int, list[str]]:
    """(plans, number, notes) of the growths that made a clone, as far back as can be told, the last with its number.

    Notes say if a source has changed since, and which growths are not told apart.
    """
    record = read_provenance(clone)
    if record is None:
        raise CheckpointError(
            f"{clone}: no {PROVENANCE_NAME}, which tells which weights are copies.",
            "For a checkpoint trained from a clone, name the clone with --clone.",
        )
    planned = None
    if src is None and record.lineage:
        with suppress(CheckpointError, RequestError, StorageError):
            planned = plan_again(record, None, access, progress, open_headers, oldest=True)
    if planned is None or not planned.recorded or planned.unlike:
        planned = plan_again(record, src, access, progress, open_headers)
    if planned.plan is None:
        raise CheckpointError(
            f"{clone}: its growths do not lead from {planned.source.path}.", "Leave --src out, or name an ancestor."
        )
    notes = []
    if planned.plan.digest != record.plan_digest:
        notes.append("The source has changed since it was expanded; its present sizes are used.")
    if planned.growths < len(record.chain):
        before = first_of([place_name(growth.source) for growth in record.chain[planned.growths :]])
        notes.append(f"The copies that {planned.source.path} has from growths of its own are not shown: of {before}.")
    return plans_to(planned.plan), len(record.chain), notes


def _earlier(plans: Sequence[Plan], number: int, stored: Mapping[str, StoredTensor], read: Read) -> list[LayerFigures]:
    """The figures of all growths before the last, whose number is given, the first growth first."""
    found: list[LayerFigures] = []
    for growth, (plan, later) in enumerate(zip(plans[-2::-1], plans[:0:-1], strict=True), 1):
        stored, read = folded(later, stored, read)
        matrices = _grown_matrices(plan)
        copies = {
            tensor.name: compare_copies(read(tensor.like(stored[tensor.name]), 0, tensor.growths[0].target), tensor)
            for tensor in matrices
        }
        found = [
            LayerFigures(
                layer,
                part,
                _mean(cosine for name in names for cosine in copies[name].outputs),
                _mean(cosine for name in names for cosine in copies[name].inputs),
                None,
                growth=number - growth,
            )
            for (layer, part), names in _by_layer(matrices).items()
        ] + found
    return found


def _grown_matrices(plan: Plan) -> list[GrownTensor]:
    return [one for one in plan.tensors if len(one.growths) == 2 and any(growth.grows for growth in one.growths)]


def _check_shapes(matrices: list[GrownTensor], stored: Mapping[str, StoredTensor], checkpoint: Path) -> None:
    """Raise CheckpointError unless the checkpoint has every matrix, in its planned shape and a float dtype."""
    for tensor in matrices:
        found = stored.get(tensor.name)
        if found is None or found.shape != tensor.shape:
            shape = list(found.shape) if found else "none"
            raise CheckpointError(
                f"{checkpoint}: tensor {tensor.name}: expected {list(tensor.shape)}, found {shape}.",
                "Name the clone that the checkpoint was trained from with --clone.",
            )
        if found.dtype not in FLOAT_DTYPES.values():
            raise CheckpointError(
                f"{checkpoint}: tensor {tensor.name}: expected floating-point weights, found {found.dtype}."
            )


def _by_layer(matrices: list[GrownTensor]) -> dict[tuple[int | None, str], set[str]]:
    """(layer, part) → tensor names, in forward order."""
    found: dict[tuple[int | None, str], set[str]] = defaultdict(set)
    for tensor in matrices:
        found[tensor.layer, tensor.part].add(tensor.name)

    def place(key: tuple[int | None, str]) -> tuple[float, str]:
        layer, part = key
        return (float("inf") if part == "head" else -1 if layer is None else layer), part

    return {key: found[key] for key in sorted(found, key=place)}


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return fmean(listed) if listed else None
