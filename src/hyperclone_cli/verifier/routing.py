"""Which experts a model chooses for the tokens of a forward pass, counted as it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

Routing = tuple[tuple[str, tuple[int, ...]], ...]
"""(layer, how many tokens chose each of its experts), in forward order."""


@contextmanager
def counted(model: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Layer → how many tokens chose each expert, while the context is open; empty for a model without experts.

    Experts of a layer are the modules that transformers gives the choices to: (tokens, chosen experts).
    """
    counts: dict[str, torch.Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        number = re.search(r"\.(\d+)\.", name)
        if hasattr(module, "is_transposed") and hasattr(module, "num_experts") and number:
            layer, experts = f"layer {number[1]}", module.num_experts

            def count(
                _: Any, given: tuple[Any, ...], named: dict[str, Any], layer: str = layer, experts: int = experts
            ) -> None:
                for chosen in (*given, *named.values()):
                    if isinstance(chosen, torch.Tensor) and chosen.dtype == torch.int64:
                        found = torch.bincount(chosen.flatten().cpu(), minlength=experts)[:experts]
                        counts[layer] = counts.get(layer, 0) + found
                        return

            hooks.append(module.register_forward_pre_hook(count, with_kwargs=True))
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def as_routing(counts: dict[str, torch.Tensor]) -> Routing:
    """What was counted, as plain numbers."""
    return tuple((layer, tuple(found.tolist())) for layer, found in counts.items())
