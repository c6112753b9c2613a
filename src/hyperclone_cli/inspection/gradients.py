"""Whether the copies in a checkpoint get equal gradients, measured in one forward and backward pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.sizes import context_length, number_of_logits
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.errors import StorageError, first_of
from hyperclone_cli.inspection.similarity import CopySimilarity, compare_copies
from hyperclone_cli.planning.grown_tensor import GrownTensor
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.progress import Progress

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GradientFigures:
    """One backward pass in float32, without dropout.

    text                the input: "a page of English" or "random tokens"
    loss                mean cross entropy of the next token, in nats
    largest_difference  |a - b| / max(|a|, |b|), L2 norms, of the gradients of any copy and copy 0: unlike a cosine, it
                        also shows gradients that differ in size alone. None if none could be compared
    """

    text: str
    tokens: int
    device: str
    loss: float
    largest_difference: float | None


def compare_gradients(
    checkpoint: Source,
    clone: Path,
    plan: Plan,
    matrices: Sequence[GrownTensor],
    device: torch.device,
    progress: Progress,
) -> tuple[dict[str, CopySimilarity], GradientFigures, list[str]]:
    """Compare the gradients of the copies in `matrices`, on one page of English, or random tokens without a tokenizer.

    Returns the similarities by name of each tensor that has a gradient, the figures of the pass, and notes.

    clone  the directory with the tokenizer: training often saves none beside its checkpoints

    Raises CheckpointError if tensors are missing from the checkpoint, StorageError if there is too little memory.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from hyperclone_cli.checkpoint.row_io import rows_in_memory
    from hyperclone_cli.checkpoint.transformers_model import gradients_of
    from hyperclone_cli.verifier import forward, text
    from hyperclone_cli.verifier.loading import loaded, scratch_directory
    from hyperclone_cli.verifier.memory import fit

    vocab_size = number_of_logits(plan.proposal.config, plan.family)
    tokenizer, note = text.load_tokenizer(clone, vocab_size)
    page = text.page(tokenizer, vocab_size, context_length(plan.proposal.config, plan.family))
    scratch = scratch_directory(clone)
    how = fit(checkpoint, plan.family, 2 * torch.float32.itemsize, len(page), None, device, scratch)  # and gradients
    if how.mode != "in memory":
        raise StorageError(f"{checkpoint.path}: with its gradients it {how}.", "Leave --gradients out.")
    progress.step(f"Loading {checkpoint.path} in float32")
    with loaded(checkpoint, torch.float32, device, how, scratch) as run:
        forward.check_complete(checkpoint, run.problems)
        ids = torch.tensor([page], device=run.device)
        progress.step(f"Running it forward and backward on {ids.shape[1]} tokens")
        loss = cross_entropy(run.model(ids, use_cache=False).logits[0, :-1].float(), ids[0, 1:])
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = gradients_of(run.model)
    progress.step("Comparing the gradients of the copies")
    read = rows_in_memory(gradients)
    similarities = {
        tensor.name: compare_copies(
            read(tensor.like(checkpoint.tensors[tensor.name]), 0, tensor.growths[0].target), tensor
        )
        for tensor in matrices
        if tensor.name in gradients
    }
    figures = GradientFigures(
        text="a page of English" if tokenizer else "random tokens",
        tokens=ids.shape[1],
        device=device.type,
        loss=loss.item(),
        largest_difference=max((number for one in similarities.values() for number in one.differences), default=None),
    )
    notes = [note, _missing_gradients_note([tensor.name for tensor in matrices], gradients.keys())]
    return similarities, figures, list(filter(None, notes))


def _missing_gradients_note(matrices: Sequence[str], gradients: Collection[str]) -> str:
    """A note that names the matrices without a gradient; "" if all have one."""
    names = [name for name in matrices if name not in gradients]
    if not names:
        return ""
    return (
        f"{len(names)} of {len(matrices)} matrices have no gradient in transformers' model, and were not compared:"
        f" {first_of(names, 3)}."
    )
