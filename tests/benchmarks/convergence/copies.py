"""How far the copies in a clone have parted: in its weights, and in what it computes."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import torch
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel

from hyperclone_cli.inspection.similarity import compare_copies, rank_fraction
from hyperclone_cli.planning.plan import Plan

LAYER_PARTS = ("attention", "feed-forward")


@torch.no_grad()
def stream_cosine(model: PreTrainedModel, ids: torch.Tensor, width: int) -> float:
    """Cosine between copy 0 of the residual stream and the others, over all tokens, the mean over layers and copies.

    ids    (batch, length)
    width  the source's hidden size: the stream is [x, x, …], each of this width

    The same for every strategy, unlike the cosine of weights, which is 0 for a diagonal clone.
    """
    model.eval()
    states = model(input_ids=ids.to(model.device), use_cache=False, output_hidden_states=True).hidden_states[1:]
    cosines = []
    for state in states:
        first, *others = state.double().split(width, dim=-1)
        cosines += [cosine_similarity(first.flatten(), other.flatten(), dim=0).item() for other in others]
    return fmean(cosines)


def make_probe(plan: Plan, ids: torch.Tensor) -> Callable[[PreTrainedModel], dict[str, float]]:
    """A function of the clone in training: `stream`, see above, and what `hyperclone inspect` computes.

    Of that, means over the matrices of all layers: `outputs` and `inputs`, cosines of weights, and `rank`, of what
    the shapes allow. From memory and on the model's device: writing checkpoints would take longer than the training.

    plan   the one that the clone was made by
    ids    (batch, length), what the stream is computed of
    """
    matrices = [tensor for tensor in plan.tensors if len(tensor.growths) == 2 and tensor.part in LAYER_PARTS]
    width = plan.growths["embed"].source

    def probe(model: PreTrainedModel) -> dict[str, float]:
        weights = dict(model.named_parameters())
        alike = [compare_copies(weights[tensor.name].detach(), tensor) for tensor in matrices]
        return {
            "stream": stream_cosine(model, ids, width),
            "outputs": fmean(cosine for found in alike for cosine in found.outputs),
            "inputs": fmean(cosine for found in alike for cosine in found.inputs),
            "rank": fmean(rank_fraction(weights[tensor.name].detach()) for tensor in matrices),
        }

    return probe
