"""Wider starts that do not compute the source's function: its weights in a corner of larger ones drawn at random."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def pad_into(large: PreTrainedModel, small: PreTrainedModel, shrink: float) -> None:
    """Set the leading block of every parameter of `large`, freshly drawn, from that of `small`, in place.

    Units of the source come first in each width, which for attention means: its heads.

    shrink   1 puts the source's weights there as they are; what lies outside the block stays as it was drawn.
             Below 1 the block is `shrink` times the source's weights plus what was drawn: shrinking and perturbing
             (arXiv 1910.08475; for growth, arXiv 2605.13405)
    """
    source = dict(small.named_parameters())
    for name, parameter in large.named_parameters():
        weight = source[name]
        block = parameter[tuple(slice(size) for size in weight.shape)]
        block.copy_(shrink * weight + (block if shrink < 1 else 0))
