"""A model that stock transformers has loaded: kept quiet, and taken apart as it would be saved."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the user's screen."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def complaints(report: Mapping[str, Any]) -> list[str]:
    """What a loading report of transformers finds wrong: "missing tensor …", "unexpected tensor …", and so on."""
    return [
        f"{kind.removesuffix('_keys')} tensor {key[0] if isinstance(key, tuple) else key}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        for key in sorted(report[kind])
    ]


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors that `save_pretrained` would write, in its names and layout. Copies none."""
    named = model.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(named.items())}  # a tied head is the embedding again
    weights = {name: tensor.detach() for name, tensor in named.items() if first[id(tensor)] == name}
    return _as_saved(model, weights)


def gradients_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The gradient of every parameter that has one, in the names and the layout of `weights_of`."""
    return _as_saved(model, {name: one.grad for name, one in model.named_parameters() if one.grad is not None})


def _as_saved(model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # what save_pretrained uses: some architectures rename or fuse tensors when they are loaded
    from transformers.core_model_loading import revert_weight_conversion

    reverted: dict[str, torch.Tensor] = revert_weight_conversion(model, tensors)
    return reverted
