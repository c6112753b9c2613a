"""A model that stock transformers has loaded: its tensors and gradients in the names and layout of its checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Switch off transformers' progress bars, and its and accelerate's warnings meanwhile."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    accelerate = logging.getLogger("accelerate")
    accelerate_level = accelerate.level
    accelerate.setLevel(logging.CRITICAL)
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        accelerate.setLevel(accelerate_level)
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def loading_problems(report: Mapping[str, Any]) -> list[str]:
    """The faults in transformers' loading info: "missing tensor NAME", "unexpected tensor NAME", "mismatched …"."""
    return [
        f"{kind.removesuffix('_keys')} tensor {key[0] if isinstance(key, tuple) else key}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        for key in sorted(report[kind])
    ]


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Name → tensor as `save_pretrained` would write them, without copying."""
    named = model.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(named.items())}  # a tied head is the embedding's tensor
    weights = {name: tensor.detach() for name, tensor in named.items() if first[id(tensor)] == name}
    return _as_saved(model, weights)


def gradients_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Name → gradient of every parameter that has one, in the names and layout of `weights_of`."""
    return _as_saved(model, {name: one.grad for name, one in model.named_parameters() if one.grad is not None})


def _as_saved(model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # as save_pretrained does: some architectures rename or fuse tensors on loading
    from transformers.core_model_loading import revert_weight_conversion

    reverted: dict[str, torch.Tensor] = revert_weight_conversion(model, tensors)
    return reverted
