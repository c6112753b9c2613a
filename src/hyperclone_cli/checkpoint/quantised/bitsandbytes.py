"""Four bits as bitsandbytes saves them (NF4, FP4): a code for each number, a scale for each block, all in one row.

    weight[i] = quant_map[code[i]] × scale[i // blocksize]

in the order of rows; the upper half of a byte comes first. Scales may be quantised once more (`nested_…`):
scale[j] = nested_quant_map[absmax[j]] × nested_absmax[j // nested_blocksize] + nested_offset. Shape, block sizes and
offset are JSON inside a tensor, `quant_state.bitsandbytes__nf4`. Source: bitsandbytes' functional.py, QuantState.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import TYPE_CHECKING, Any

from hyperclone_cli.checkpoint.quantised.packed import Packed
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read

STATES = ("quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__fp4")
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
MOST_STATE_BYTES = 1 << 16


@dataclass(frozen=True)
class FourBits(Packed):
    """`parts` are codes, scales and the map of codes, and if the scales are quantised, their scales and their map.

    columns  of the weight
    blocks   how many numbers have one scale, and how many scales have one
    offset   of scales that are quantised
    """

    columns: int
    blocks: tuple[int, int]
    offset: float

    def rows(self, read: Read, start: int, stop: int) -> torch.Tensor:
        """Rows start … stop - 1: (rows, columns) in float32."""
        import torch

        codes, scales, values, *nested = self.parts
        first, last = start * self.columns, stop * self.columns
        pairs = _piece(read, codes, first // 2, -(-last // 2)).int()
        each = torch.stack([pairs >> 4, pairs & 15], 1).flatten()[first % 2 :][: last - first]
        block, above = self.blocks
        begin, end = first // block, -(-last // block)
        found = _piece(read, scales, begin, end)
        if nested:
            outer, outer_values = nested
            coarse = _piece(read, outer, begin // above, -(-end // above)).float()
            of = torch.arange(begin, end) // above - begin // above
            found = (
                _piece(read, outer_values, 0, prod(outer_values.shape)).float()[found.int()] * coarse[of] + self.offset
            )
        numbers = _piece(read, values, 0, 16).float()[each]
        return (numbers * found.float()[torch.arange(first, last) // block - begin]).view(stop - start, self.columns)


def _piece(read: Read, stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
    return read(stored._replace(shape=(prod(stored.shape),)), start, stop)


def state_of(name: str, tensors: Mapping[str, StoredTensor]) -> StoredTensor | None:
    """The tensor that says how the weight `name` is stored in four bits; None if none does."""
    return next((tensors[state] for state in (f"{name}.{one}" for one in STATES) if state in tensors), None)


def four_bits(
    name: str, tensors: Mapping[str, StoredTensor], contents: Callable[[StoredTensor], bytes]
) -> tuple[Packed, str, tuple[int, ...]] | None:
    """(how it is stored, name, shape) of the weight `name`; None if it is not stored so.

    contents  reads a small tensor

    Raises CheckpointError for a state that is damaged, or does not fit the other parts.
    """
    state = state_of(name, tensors)
    if state is None:
        return None
    found = [tensors[part] for part in (f"{name}.{one}" for one in _PARTS) if part in tensors]
    try:
        if state.nbytes > MOST_STATE_BYTES:
            raise ValueError(f"it has {state.nbytes:,} bytes")
        stated: dict[str, Any] = json.loads(contents(state))
        rows, columns = stated["shape"]
        blocks = stated["blocksize"], stated.get("nested_blocksize", 1)
        offset = float(stated.get("nested_offset", 0.0))
        if any(type(number) is not int or number < 1 for number in (rows, columns, *blocks)) or not isfinite(offset):
            raise ValueError(f"shape {rows} × {columns}, blocks {blocks}, offset {offset}")
        counts = [-(-rows * columns // blocks[0]), 16]
        counts += [-(-counts[0] // blocks[1]), 256] if len(found) > 2 else []
        if [prod(one.shape) for one in found] != counts or prod(tensors[name].shape) != -(-rows * columns // 2):
            raise ValueError(f"shape {rows} × {columns} does not fit the other parts")
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError) as error:
        raise CheckpointError(
            f"tensor {state.name!r}: damaged, or not of bitsandbytes ({error}).", "Use the unquantised weights."
        ) from None
    return FourBits((tensors[name], *found), False, columns, blocks, offset), name, (rows, columns)
