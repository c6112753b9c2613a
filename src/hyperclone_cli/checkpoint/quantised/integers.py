"""Integers of a few bits, packed in words of 32, with a scale and a zero point for each group of columns of a row.

    weight[r, c] = (stored[r, c] − zero[r, group of c]) × scale[r, group of c]

GPTQ packs along the columns of the weight and stores it transposed, `qweight` (columns / n, rows), `qzeros`
(groups, rows / n), `scales` (groups, rows); `g_idx` names the group of each column; stored zero points are one too
small unless `checkpoint_format` is gptq_v2. AWQ packs eight rows in a word, in an order of its own, `qweight`
(columns, rows / 8). compressed-tensors packs along the columns, `weight_packed` (rows, columns / n). n = 32 / bits.
Sources: GPTQModel's nn_modules/qlinear/torch.py, AutoAWQ's utils/packing_utils.py, and compressed-tensors'
compressors/pack_quantized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hyperclone_cli.checkpoint.quantised.packed import Packed
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read

_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word of AWQ's each of eight rows lies."""

Layout = Literal["gptq", "awq", "compressed-tensors"]


@dataclass(frozen=True)
class Integers(Packed):
    """`parts` are the packed numbers and their scales.

    zeros      packed zero points; None: the middle of what can be stored
    zero_step  what is added to those that are stored
    groups     the group of each column; None: as many columns in each, one after another
    """

    bits: int
    layout: Layout
    zeros: StoredTensor | None = None
    zero_step: int = 0
    groups: StoredTensor | None = None

    def rows(self, read: Read, start: int, stop: int) -> torch.Tensor:
        """Rows start … stop - 1: (rows, columns) in float32, or in the dtype of the scales."""
        import torch

        from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES

        packed, scale = self.parts[:2]
        across = self.layout != "compressed-tensors"  # the rows of the weight are columns on disk
        scales = read(scale._replace(transposed=across), start, stop).float()
        if self.layout == "awq":
            numbers = self._packed_rows(read, packed, start, stop)
        else:
            numbers = self._unpack(read(packed._replace(transposed=across), start, stop)).flatten(1)
        columns = numbers.shape[1]
        if self.groups is None:
            group = torch.arange(columns) // -(-columns // scales.shape[1])
        else:
            group = read(self.groups, 0, columns).long()
            if not bool(((group >= 0) & (group < scales.shape[1])).all()):
                raise CheckpointError(f"tensor {self.groups.name!r}: names groups that have no scales.")
        if self.zeros is None:
            numbers -= 1 << self.bits - 1
        else:
            numbers -= (self._packed_rows(read, self.zeros, start, stop) + self.zero_step)[:, group]
        weights = numbers * scales[:, group]
        # compressed-tensors multiplies in the scales' dtype
        return weights if across else weights.to(TORCH_DTYPES[scale.dtype])

    def _packed_rows(self, read: Read, words: StoredTensor, start: int, stop: int) -> torch.Tensor:
        """Rows start … stop - 1 of numbers of which several rows are packed in a word."""
        each = 32 // self.bits
        first = start // each
        found = read(words._replace(transposed=self.layout != "compressed-tensors"), first, -(-stop // each))
        numbers = self._unpack(found).transpose(1, 2).flatten(0, 1)
        return numbers[start - first * each : stop - first * each]

    def _unpack(self, words: torch.Tensor) -> torch.Tensor:
        """(…, words) → (…, words, numbers of each), in float32."""
        import torch

        places = torch.tensor(_AWQ_PLACES if self.layout == "awq" else range(32 // self.bits)) * self.bits
        return ((words[..., None] >> places) & ((1 << self.bits) - 1)).float()


def gptq_or_awq(
    words: StoredTensor, zeros: StoredTensor, scales: StoredTensor, groups: StoredTensor | None, stated_format: str
) -> tuple[Integers, tuple[int, int]]:
    """(how it is stored, shape) of the weight of `qweight`, `qzeros`, `scales` and `g_idx`.

    stated_format  what config.json calls checkpoint_format

    Raises CheckpointError if they do not fit, or numbers of three bits would cross words.
    """
    layout: Layout = "gptq" if words.shape[-1] == scales.shape[-1] else "awq"
    rows = scales.shape[-1]
    each = rows // max(1, zeros.shape[-1])
    bits = 32 // max(1, each)
    columns = words.shape[0] * (each if layout == "gptq" else 1)
    fits = (
        {len(one.shape) for one in (words, zeros, scales)} == {2}
        and bits in ((2, 4, 8) if layout == "gptq" else (4,))
        and zeros.shape == (scales.shape[0], rows // each)
        and words.shape == ((columns // each, rows) if layout == "gptq" else (columns, rows // each))
        and rows % each == 0
        and (groups is None or groups.shape == (columns,))
        and {words.dtype, zeros.dtype, *([groups.dtype] if groups else [])} == {"I32"}
    )
    if not fits:
        raise _misfit(words, scales, zeros)
    step = 1 if layout == "gptq" and stated_format != "gptq_v2" else 0
    return Integers((words, scales, zeros, *([groups] if groups else [])), False, bits, layout, zeros, step, groups), (
        rows,
        columns,
    )


def pack_quantised(
    words: StoredTensor, scales: StoredTensor, zeros: StoredTensor | None, groups: StoredTensor | None, bits: int
) -> tuple[Integers, tuple[int, int]]:
    """(how it is stored, shape) of the weight of compressed-tensors' `weight_packed`. Raises CheckpointError."""
    each = 32 // bits
    if len(words.shape) != 2 or len(scales.shape) != 2 or scales.shape[0] != words.shape[0] or words.dtype != "I32":
        raise _misfit(words, scales)
    rows, columns = words.shape[0], words.shape[1] * each
    if zeros is not None and zeros.shape != (-(-rows // each), scales.shape[1]):
        raise _misfit(words, scales, zeros)
    parts = (words, scales, *(one for one in (zeros, groups) if one is not None))
    return Integers(parts, False, bits, "compressed-tensors", zeros, 0, groups), (rows, columns)


def _misfit(words: StoredTensor, *others: StoredTensor) -> CheckpointError:
    found = ", ".join(f"{one.name.rpartition('.')[2]} {list(one.shape)}" for one in others)
    return CheckpointError(
        f"tensor {words.name!r}: packed numbers {list(words.shape)} in a layout that is not read, with {found}.",
        "Numbers of 2, 4 or 8 bits are read. Use the weights that it was quantised from.",
    )
