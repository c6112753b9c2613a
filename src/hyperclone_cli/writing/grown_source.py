"""A clone that is not on the disk: its rows are grown from its own source as they are read.

Expansion is deterministic, so that a model between an ancestor and a clone can be had again from the ancestor, by the
request that made it, row by row and in no more memory than a block takes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.planning.plan import Plan

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read


@dataclass(frozen=True, kw_only=True)
class GrownSource(Source):
    """The clone of `plan` as a checkpoint: what `expand` writes, without being written."""

    plan: Plan

    @classmethod
    def of(cls, plan: Plan) -> GrownSource:
        """The clone of `plan`; its path, name and side files are those of the plan's source."""
        source = plan.source
        tensors = {one.name: StoredTensor(one.name, one.dtype, one.shape, source.path, 0) for one in plan.tensors}
        return cls(path=source.path, config=plan.config, tensors=tensors, origin=source.origin, foreign=True, plan=plan)

    @contextmanager
    def _stored_rows(self) -> Iterator[Read]:
        from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES
        from hyperclone_cli.writing.arithmetic import grow_block
        from hyperclone_cli.writing.block_loop import rows_of, survey
        from hyperclone_cli.writing.blocks import Block

        planned = {tensor.name: tensor for tensor in self.plan.tensors}
        starts = {
            name: list(accumulate((run.length for run in tensor.growths[0].runs), initial=0))
            for name, tensor in planned.items()
        }
        surveys: dict[str, tuple[float, torch.Tensor | None]] = {}
        with self.plan.source.rows() as read_source, ThreadPoolExecutor(1) as executor:

            def read(stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
                import torch

                if stored.zeros:
                    return torch.zeros((stop - start, *stored.shape[1:]), dtype=TORCH_DTYPES[stored.dtype])
                tensor, begins = planned[stored.name], starts[stored.name]
                # one table describes both growths of a module, so that both number its rows alike
                assert (stored.transposed, stored.stack) == (tensor.transposed, tensor.stack), stored.name
                if stored.name not in surveys:
                    surveys[stored.name] = survey(tensor, read_source, executor, noise=True)
                noise_power, means = surveys[stored.name]
                grown = []
                while start < stop:
                    number = bisect_right(begins, start) - 1
                    run, first = tensor.growths[0].runs[number], start - begins[number]
                    last = min(run.length, first + stop - start)
                    shares = tensor.shares(tensor.mixing_row(run))
                    place = run.start + first, run.start + last
                    block = Block(tensor, *place, shares, run.scale, run.is_padding, (start,))
                    grown += [rows for _, rows in grow_block(block, rows_of(block, read_source, means), noise_power)]
                    start += last - first
                return grown[0] if len(grown) == 1 else torch.cat(grown)

            yield read

    def same_bytes(self, one: str, other: str) -> bool:
        """Whether two tensors, by name, have the same dtype, shape and bytes."""
        a, b = self.tensors[one], self.tensors[other]
        return (a.dtype, a.shape) == (b.dtype, b.shape) and self._same_rows(a, b)

    def side_files(self) -> list[Path]:
        """The side files, which a clone has from its source."""
        return self.plan.source.side_files()

    def read_side_file(self, name: Path) -> bytes:
        """The contents of one side file."""
        return self.plan.source.read_side_file(name)

    def side_file_bytes(self) -> int:
        """The bytes in all side files together."""
        return self.plan.source.side_file_bytes()
