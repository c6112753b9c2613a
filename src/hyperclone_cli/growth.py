"""How one width grows, and what the user asked for on each of them.

A growth from s to t units says, for every new unit, which source unit it copies, and which of that
unit's copies it is. Widths are long and growths regular, so both are kept run by run instead of unit
by unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from hyperclone_cli.axes import ANY
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import Family
from hyperclone_cli.mixing import Mixing


class Run(NamedTuple):
    """New units that copy the source units start … start + length - 1: copy number `copy` of `copies`."""

    start: int
    length: int
    copy: int
    copies: int


@dataclass(frozen=True)
class Growth:
    """One width's growth: `source` units become those listed by `runs`, in order."""

    source: int
    runs: tuple[Run, ...]

    @property
    def target(self) -> int:
        """Units after the growth."""
        return sum(run.length for run in self.runs)

    @property
    def ratio(self) -> Fraction:
        """Units after for each unit before."""
        return Fraction(self.target, self.source)

    @property
    def grows(self) -> bool:
        return self.runs != (Run(0, self.source, 0, 1),)


def tiled(size: int, copies: int) -> Growth:
    """`size` units repeated copy after copy, [x, x, …]."""
    return Growth(size, tuple(Run(0, size, copy, copies) for copy in range(copies)))


def nest(outer: Growth, inner: Growth) -> Growth:
    """The growth of a packed dimension: every unit of `outer` holds a whole `inner`."""
    size = outer.source * inner.source
    if not inner.grows:
        return Growth(
            size,
            tuple(Run(r.start * inner.source, r.length * inner.source, r.copy, r.copies) for r in outer.runs),
        )
    return Growth(
        size,
        tuple(
            Run(
                unit * inner.source + part.start,
                part.length,
                run.copy * part.copies + part.copy,
                run.copies * part.copies,
            )
            for run in outer.runs
            for unit in range(run.start, run.start + run.length)
            for part in inner.runs
        ),
    )


def grow_dimension(axes: tuple[str, ...], size: int, growths: Mapping[str, Growth]) -> Growth:
    """The growth of a tensor dimension of `size` units that packs `axes`, outermost first.

    Raises ValueError, saying what was expected, if the axes' sizes do not multiply to `size`.
    """
    if axes == (ANY,):
        return tiled(size, 1)
    packed = [tiled(int(axis), 1) if axis.isdecimal() else growths[axis] for axis in axes]
    grown = packed[0]
    for inner in packed[1:]:
        grown = nest(grown, inner)
    if grown.source != size:
        raise ValueError(str(grown.source))
    return grown


MAX_MULTIPLIER = 65536
DTYPES = ("float32", "bfloat16", "float16")
TIES = ("auto", "keep", "untie")


@dataclass(frozen=True)
class Request:
    """What the user asked for. Multipliers of None take their default; see `resolve`.

    dtype           storage dtype of the clone; None keeps each tensor's own
    max_shard_size  bytes, or a size such as "5GB"
    tie_embeddings  "auto": tied where that can be exact; "keep": tied or refused; "untie"
    mixing          strategy and noise

    Raises RequestError for a value that no checkpoint could be grown by.
    """

    embed_mult: int = 1
    ffn_mult: int = 1
    heads_mult: int | None = None
    kv_heads_mult: int | None = None
    dtype: str | None = None
    max_shard_size: int | str = "50GB"
    tie_embeddings: str = "auto"
    mixing: Mixing = field(default_factory=Mixing)

    def __post_init__(self) -> None:
        for name in ("embed_mult", "ffn_mult", "heads_mult", "kv_heads_mult"):
            mult = getattr(self, name)
            if mult is None and name not in ("embed_mult", "ffn_mult"):
                continue
            if type(mult) is not int or not 1 <= mult <= MAX_MULTIPLIER:
                option = name.replace("_", "-")
                raise RequestError(f"--{option} {mult}: a multiplier is a whole number from 1 to {MAX_MULTIPLIER}.")
        if self.dtype not in (None, *DTYPES):
            raise RequestError(f"--dtype {self.dtype}: expected one of {', '.join(DTYPES)}.")
        if self.tie_embeddings not in TIES:
            raise RequestError(f"--tie-embeddings {self.tie_embeddings}: expected one of {', '.join(TIES)}.")


def resolve(request: Request, sizes: Mapping[str, int], family: Family) -> dict[str, Growth]:
    """The growth of each axis under `request`, for a source of these `sizes` (axis → units).

    Heads grow like the residual stream unless asked otherwise, key/value heads like the heads, and
    a single key/value head stays single. Query heads that grow more than the key/value heads grow
    the group inside each of these.

    Raises RequestError, with the nearest request that works, for one that the architecture cannot meet.
    """
    embed, ffn = request.embed_mult, request.ffn_mult
    heads = request.heads_mult or embed
    shares_keys = "kv_heads" in family.sizes
    kv_heads = request.kv_heads_mult or (1 if shares_keys and sizes["kv_heads"] == 1 else heads)
    if "head_dim" not in family.sizes and heads != embed:
        raise RequestError(
            f"--embed-mult {embed} with --heads-mult {heads}: {family.model_type} computes the head size as"
            " hidden_size / heads, so both must grow alike for heads to stay whole.",
            f"The nearest that works: --embed-mult {embed} --heads-mult {embed}.",
        )
    if not shares_keys and kv_heads != heads:
        raise RequestError(
            f"--kv-heads-mult {kv_heads}: in {family.model_type} every query head has a key and value head of its own.",
            f"The nearest that works: --kv-heads-mult {heads}.",
        )
    if heads % kv_heads:
        nearest = max(1, round(heads / kv_heads)) * kv_heads
        raise RequestError(
            f"--heads-mult {heads} with --kv-heads-mult {kv_heads}: every key/value head serves the same"
            " number of query heads, so the first must be a multiple of the second.",
            f"The nearest that works: --heads-mult {nearest} --kv-heads-mult {kv_heads}.",
        )
    old, new = sizes["kv_heads"] * sizes["group"], sizes["embed"] * embed
    if family.embed_divides_by_heads and new % (old * heads):
        dividing = (n for n in range(1, new // old + 1) if new % (old * n) == 0)
        nearest = min(dividing, key=lambda n: abs(n - heads), default=embed)
        raise RequestError(
            f"--embed-mult {embed} with --heads-mult {heads}: transformers wants hidden_size, here {new}, to be a"
            f" multiple of the number of heads, here {old * heads}.",
            f"The nearest that works: --embed-mult {embed} --heads-mult {nearest}.",
        )
    multipliers = {"embed": embed, "ffn": ffn, "kv_heads": kv_heads, "group": heads // kv_heads}
    if sizes.get("proj") == sizes["embed"]:
        multipliers["proj"] = embed  # no projection: the embedding's width is the residual stream
    return {axis: tiled(size, multipliers.get(axis, 1)) for axis, size in sizes.items()}
