"""Are the copies in a checkpoint taught alike? One pass, forward and backward, tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.sizes import context_length
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.inspection.similarity import Alikeness, compare_copies
from hyperclone_cli.planning.planner import Plan
from hyperclone_cli.planning.tensors import GrownTensor
from hyperclone_cli.progress import Progress

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GradientFigures:
    """One backward pass in float32, without dropout.

    text                what was read: "a page of English" or "random tokens"
    loss                mean cross entropy of the next token, in nats
    largest_difference  |a - b| / max(|a|, |b|), L2 norms, of the gradients of any copy and copy 0; a cosine
                        does not see gradients that differ in size alone. None if none could be compared
    """

    text: str
    tokens: int
    device: str
    loss: float
    largest_difference: float | None


@dataclass(frozen=True)
class Taught:
    """What the pass showed: `alike` by tensor, of those that were compared, and what the user should know of it."""

    alike: dict[str, Alikeness]
    figures: GradientFigures
    notes: tuple[str, ...]


def compare_gradients(
    checkpoint: Source,
    clone: Path,
    plan: Plan,
    matrices: Sequence[GrownTensor],
    device: torch.device,
    progress: Progress,
) -> Taught:
    """The gradients of the copies in `matrices`, on the page of English, or random tokens if `clone` cannot read it.

    Raises CheckpointError for a checkpoint with holes.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from hyperclone_cli.checkpoint.row_io import rows_in_memory
    from hyperclone_cli.checkpoint.transformers_model import gradients_of
    from hyperclone_cli.verifier import forward, text

    progress.step(f"Loading {checkpoint.path} in float32")
    model, complaints = forward.load(checkpoint, torch.float32, device)
    missing = [complaint for complaint in complaints if not complaint.startswith("unexpected")]
    if missing:
        raise CheckpointError(f"{checkpoint.path}: {missing[0]}.", "The checkpoint is incomplete.")
    vocab_size = int(model.config.vocab_size)
    tokenizer, note = text.load_tokenizer(clone, vocab_size)  # training saves none beside its checkpoints
    context = context_length(plan.source.config, plan.family)
    ids = torch.tensor([text.page(tokenizer, vocab_size, context)], device=model.device)
    progress.step(f"Running it forward and backward on {ids.shape[1]} tokens")
    loss = cross_entropy(model(ids, use_cache=False).logits[0, :-1].float(), ids[0, 1:])
    loss.backward()  # type: ignore[no-untyped-call]

    gradients = gradients_of(model)
    progress.step("Comparing the gradients of the copies")
    read = rows_in_memory(gradients)
    alike = {
        tensor.name: compare_copies(
            read(tensor.like(checkpoint.tensors[tensor.name]), 0, tensor.growths[0].target), tensor
        )
        for tensor in matrices
        if tensor.name in gradients
    }
    figures = GradientFigures(
        text="a page of English" if tokenizer else "random tokens",
        tokens=ids.shape[1],
        device=model.device.type,
        loss=loss.item(),
        largest_difference=max((number for found in alike.values() for number in found.differences), default=None),
    )
    absent = [tensor.name for tensor in matrices if tensor.name not in gradients]
    return Taught(alike, figures, tuple(filter(None, [note, _absence(absent, len(matrices))])))


def _absence(names: Sequence[str], number: int) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"{len(names)} of {number} matrices have no gradient in transformers' model, and theirs were not compared:"
        f" {', '.join(names[:3])}{more}."
    )
