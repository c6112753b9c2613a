"""The head: whether it stays one matrix with the embedding, and who carries the factor if it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose

from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import Match
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.widths import Growth
from hyperclone_cli.planning.grown_tensor import GrownTensor
from hyperclone_cli.planning.tensors import as_stored, kind_of


@dataclass(frozen=True)
class Head:
    """How the clone's head works.

    factor  what the last norm is scaled by, because a tied matrix reads several copies of the hidden state
    """

    tied: bool
    why: str
    factor: float = 1.0


def decide_head(
    source: Source, proposal: Proposal, growths: Mapping[str, Growth], tensors: list[GrownTensor]
) -> tuple[list[GrownTensor], Head, dict[str, str]]:
    """Decide whether the head stays tied: (tensors, head, stored tensors that are not written → why).

    A tied matrix E is copied like any embedding (its rows times a gain g), so a head that reads n copies of the hidden
    state gives n·g times the logits, or less where the forward pass divides them by a power of the width. That factor
    is folded into the last module before the head, or the head is untied.

    Raises RequestError where the request keeps a tie that cannot be kept, CheckpointError if there is no head.
    """
    family, request = proposal.family, proposal.request
    by_name = {tensor.name: tensor for tensor in tensors}
    embedding = by_name[f"{family.embedding}.weight"]
    heads = [tensor for tensor in tensors if tensor.part == "head" and tensor.name.endswith(".weight")]
    redundant: dict[str, str] = {}
    if proposal.tied:
        for head in heads:
            if source.same_bytes(head.source.name, embedding.source.name):
                redundant[head.source.name] = "the tied head, stored a second time"
        tensors = [tensor for tensor in tensors if tensor.source.name not in redundant]
        if len(redundant) < len(heads):
            return tensors, Head(False, "untied: the stored head differs from the embedding"), redundant
    elif heads:
        return tensors, Head(False, "untied, as in the source"), redundant
    else:
        raise CheckpointError(
            f"{source.path}: no tensor {family.head}.weight, and config.json does not tie it to the embedding.",
            "The checkpoint is incomplete.",
        )

    copy = embedding.growths[1].runs[0]
    embed, form = growths["embed"], family.tensors[family.head]
    divided = (embed.source / embed.target) ** form.forward_power
    factor = divided / (copy.copies * copy.scale * embedding.gain)
    if form.from_stream:  # whose copies have the scale too, which no norm undoes
        factor /= copy.scale
    if request.tie_embeddings != "untie" and isclose(factor, 1.0):
        return tensors, Head(True, "tied, as in the source"), redundant
    fold = next((fold for fold in family.carriers if family.fits(proposal.config, fold.when)), None)
    module = fold.module.replace(".-1.", f".{growths['layers'].source - 1}.") if fold else None
    foldable = f"{module}.weight" in by_name
    if request.tie_embeddings == "keep" and not foldable:
        raise RequestError(
            f"--tie-embeddings keep: {family.model_type} has no weight before the head that could carry {factor:g}.",
            "Use --tie-embeddings auto, which writes a head of its own.",
        )
    if request.tie_embeddings != "untie" and foldable:
        tensors = [
            tensor.changed(gain=tensor.gain * factor) if tensor.name.rpartition(".")[0] == module else tensor
            for tensor in tensors
        ]
        return tensors, Head(True, f"tied: {module} carries the factor {factor:g}", factor), redundant
    proposal.check_limit("untie", "a head of its own")
    match = Match(f"{family.head}.weight", family.head, "weight", form, ())
    kind = kind_of(embedding.source, match, family, growths, request)
    head = GrownTensor(match.name, match.layer, as_stored(embedding.source, kind), kind)
    why = "asked for" if request.tie_embeddings == "untie" else "no weight before the head can carry the factor"
    return [*tensors, head], Head(False, f"untied: {head.name} is written ({why})"), redundant
