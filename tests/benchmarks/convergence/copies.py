"""How far the copies in a clone have parted: in its weights, and in what it computes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import torch
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel

from hyperclone_cli.inspector import inspect


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


def make_probe(
    clone: Path, source: Path, ids: torch.Tensor, width: int
) -> Callable[[PreTrainedModel], dict[str, float]]:
    """A function of the model in training: `stream`, see above, and what `hyperclone inspect` finds.

    Of that, means over the layers: `outputs`, `inputs` (cosines of weights) and `rank` (of what the shape allows).
    """

    def probe(model: PreTrainedModel) -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=clone.parent) as place:
            model.save_pretrained(place)
            inspection = inspect(Path(place), clone, src=source)
        layers = [layer for layer in inspection.layers if layer.layer is not None]
        figures = {"stream": stream_cosine(model, ids, width)}
        for name in ("outputs", "inputs", "rank"):
            found = [value for layer in layers if (value := getattr(layer, name)) is not None]
            if found:
                figures[name] = fmean(found)
        return figures

    return probe
