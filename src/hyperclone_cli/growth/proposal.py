"""A request put to a source: all that decides how each of its widths grows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hyperclone_cli.checkpoint.sizes import read_sizes
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import Family
from hyperclone_cli.families.axes import AXES
from hyperclone_cli.families.upcycling import Upcycling
from hyperclone_cli.growth.option import flag
from hyperclone_cli.growth.request import Request

_INSTEAD = {
    "pads": "A whole --embed-mult works.",
    "ffn": "A whole --ffn-mult works.",
    "heads": "Grow the feed-forward width alone: --ffn-mult.",
    "head_dim": "Leave --head-dim-mult out.",
    "layers": "Leave --depth-mult and --num-layers out.",
    "between": "--depth-order top works.",
    "last": "--depth-order middle works.",
    "experts": "Leave --num-experts out.",
    "untie": "Leave --tie-embeddings out.",
}


@dataclass(frozen=True)
class Proposal:
    """What is asked of which source.

    family  the table of the source's architecture
    config  the part of the source's config.json that the table's keys are in, see `Family.own`
    tied    whether head and embedding are one matrix in the source
    sizes   axis → units of the source, see `checkpoint.sizes.read_sizes`
    upcycling  how a dense source is read as a mixture; then family, config and sizes are those of that mixture
    """

    request: Request
    family: Family
    config: Mapping[str, Any]
    sizes: Mapping[str, int]
    tied: bool = False
    upcycling: Upcycling | None = None

    @classmethod
    def of(cls, request: Request, family: Family, config: Mapping[str, Any]) -> Proposal:
        """A request put to the source with this config.json. Raises CheckpointError for sizes that are none."""
        own = family.own(config)
        return cls(request, family, own, read_sizes(own, family), family.is_tied(config))

    def changed(self, **options: Any) -> Proposal:
        """The same source, asked for something else."""
        return replace(self, request=replace(self.request, **options))

    def typed(self, axis: str) -> str:
        """The option that asks for the size of an axis, as on a command line; empty where none does."""
        size, multiplier = AXES[axis].options
        given = {name: getattr(self.request, name) for name in (size, multiplier) if name}
        return next((f"{flag(name)} {item}" for name, item in given.items() if item not in (None, 1)), "")

    def target(self, axis: str, size: int) -> int | None:
        """The units that the request gives an axis of `size` units; None where it says nothing of it.

        Raises RequestError for fewer units than the source has, and for a multiplier that adds none.
        """
        option, multiplier = AXES[axis].options
        units, times = getattr(self.request, option), getattr(self.request, multiplier) if multiplier else None
        if units is None and times is None:
            return None
        target: int = round(size * times) if times is not None and units is None else units
        if units is None and target == size and times != 1:
            raise RequestError(
                f"{size} × {times:g} is {size} in whole units: nothing would grow.", f"Use {flag(option)} instead."
            )
        if target < size:
            raise RequestError(
                f"{flag(option)} {target}: the source has {size}, and growth takes nothing away.", f"At least {size}."
            )
        return target

    def check_limit(self, growth: str, wanted: str) -> None:
        """Raise RequestError where the family has a limit on this growth; `wanted` says what is asked for."""
        limit = self.family.limit(growth, self.config)
        if limit:
            raise RequestError(f"{wanted}: not in {self.family.name}, {limit.why}.", _INSTEAD[growth])
