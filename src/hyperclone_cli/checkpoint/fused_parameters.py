"""Which rows of a model's parameters each stored tensor is: transformers fuses some as it loads, such as experts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.checkpoint.transformers_model import as_saved
from hyperclone_cli.checkpoint.views import Cut, Cuts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Rows:
    """Rows of a parameter, whose dimensions but the last are merged into one.

    of     all rows of it
    width  numbers in a row
    """

    parameter: str
    start: int
    stop: int
    of: int
    width: int

    @property
    def whole(self) -> bool:
        return self.stop - self.start == self.of

    def cut(self, stored: StoredTensor) -> StoredTensor:
        """These rows of a tensor that has the shape of the parameter."""
        if self.whole:
            return stored
        merged = stored._replace(shape=(self.of, self.width))
        rows = Cuts((merged,), False, (Cut(0, range(self.start, self.stop), range(self.width)),))
        shape = (self.stop - self.start, self.width)
        return StoredTensor(stored.name, stored.dtype, shape, stored.path, 0, packed=rows)

    def is_all_of(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape has as many numbers as these rows."""
        return prod(shape) == (self.stop - self.start) * self.width


def stored_rows(model: PreTrainedModel, only: Collection[str] | None = None) -> dict[str, Rows]:
    """Name as stored → the rows of a parameter of `model` that it is; without those that are more than rows of one.

    model  its weights are not read: the meta device will do
    only   the parameters that are asked for; None: all

    Rows are numbered, and put through what transformers does as it saves.
    """
    import torch

    found: dict[str, Rows] = {}
    for name, parameter in model.named_parameters():
        if only is not None and name not in only:
            continue
        *leading, width = parameter.shape if parameter.dim() > 1 else (*parameter.shape, 1)
        numbers = torch.arange(prod(leading)).view(*leading, *(1,) * (parameter.dim() > 1))
        for stored, part in _saved(model, {name: numbers}).items():
            flat = part.flatten()
            in_order = torch.equal(flat, torch.arange(int(flat[0]), int(flat[0]) + len(flat)))
            if in_order and (part.dim() == 1 or part.shape[-1] == 1):
                found[stored] = Rows(name, int(flat[0]), int(flat[-1]) + 1, prod(leading), width)
    return found


def _saved(model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    try:
        return as_saved(model, tensors)
    except Exception:  # each conversion raises its own kinds, where it needs other parameters or whole rows
        return {}
