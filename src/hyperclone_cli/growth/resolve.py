"""From a request to the growth of every axis, or to the reason why the architecture cannot have it."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from hyperclone_cli.checkpoint.sizes import multiple_of, stated_width
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families.axes import AXES
from hyperclone_cli.growth.depth import grow_depth
from hyperclone_cli.growth.experts import grow_experts
from hyperclone_cli.growth.heads import choose_heads, head_copies, heads_of
from hyperclone_cli.growth.option import flag
from hyperclone_cli.growth.positions import check_rotary, grow_head, grow_kv_heads
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.widths import Growth, of_same_length, padded, spread, tiled


def resolve(proposal: Proposal) -> dict[str, Growth]:
    """The growth of each axis.

    Heads grow like the residual stream unless asked otherwise (less what the head size takes of it),
    key/value heads like the heads, and a single key/value head stays single. Query heads that grow more
    than the key/value heads grow the group inside each of these.

    Raises RequestError, with the nearest request that works, for one that the architecture cannot meet.
    """
    family, sizes = proposal.family, proposal.sizes
    embed, ffn = _asked(proposal, "embed"), _asked(proposal, "ffn")
    _check_options(proposal)
    proposal = proposal.changed(head_dim_mult=head_copies(proposal, embed))
    heads = choose_heads(proposal, embed)
    if embed % sizes["embed"]:
        what = f"{proposal.typed('embed')}: hidden size {embed} is no multiple of {sizes['embed']}"
        proposal.check_limit("pads", what)
    if ffn % sizes["ffn"]:
        proposal.check_limit("ffn", f"{proposal.typed('ffn')}: width {ffn} is no multiple of {sizes['ffn']}")
    if heads != heads_of(sizes):
        proposal.check_limit("heads", f"{heads.query} heads")
    if proposal.request.head_dim_mult > 1:
        proposal.check_limit("head_dim", f"--head-dim-mult {proposal.request.head_dim_mult}")
        check_rotary(proposal)
    if "ffn" not in family.sizes:
        _check_multiple(proposal, embed, ffn)
    ratios = {"embed": Fraction(embed, sizes["embed"]), "ffn": Fraction(ffn, sizes["ffn"])}
    grown = {
        axis: spread(size, round(size * _ratio(axis, proposal, ratios)))
        if axis in AXES and AXES[axis].follows and size
        else tiled(size, 1)
        for axis, size in sizes.items()
    }
    grown["embed"], grown["ffn"] = padded(sizes["embed"], embed), spread(sizes["ffn"], ffn)
    grown["kv_heads"] = grow_kv_heads(proposal, heads.key_value)
    grown["kv_pairs"] = spread(max(1, sizes["kv_heads"] // 2), max(1, heads.key_value // 2))
    grown["group"] = spread(sizes["group"], heads.query // heads.key_value)
    if parts := sizes.get("group_parts"):
        grown["group_part"] = spread(sizes["group"] // parts, heads.query // heads.key_value // parts)
    grown |= grow_head(proposal)
    if "rotary" in sizes:
        grown["rotary"] = tiled(sizes["rotary"], proposal.request.head_dim_mult)
    grown["layers"] = grow_depth(proposal)
    grown["experts"] = grow_experts(proposal).growth
    if family.norm == "length":
        grown["embed"], grown["ffn"] = of_same_length(grown["embed"]), of_same_length(grown["ffn"])
        copies = heads.query // (sizes["kv_heads"] * sizes["group"])
        grown["value"] = tiled(sizes["head_dim"], 1, copies**-0.5)
    if "proj" in sizes:  # without a projection the embedding has the width of the residual stream
        grown["proj"] = grown["embed"] if sizes["proj"] == sizes["embed"] else tiled(sizes["proj"], 1)
    return grown


def _asked(proposal: Proposal, axis: str) -> int:
    target = proposal.target(axis, proposal.sizes[axis])
    assert target is not None  # its multiplier is 1 unless given
    return target


def _ratio(axis: str, proposal: Proposal, ratios: dict[str, Fraction]) -> Fraction | float:
    """How an axis grows that follows another: in proportion, unless its own multiplier is given."""
    if axis in ratios:
        return ratios[axis]
    _, multiplier = AXES[axis].options
    asked: float | None = getattr(proposal.request, multiplier) if multiplier else None
    return _ratio(AXES[axis].follows, proposal, ratios) if asked is None else asked


def _check_options(proposal: Proposal) -> None:
    """Raise RequestError for an option whose axis the architecture does not have."""
    request, family = proposal.request, proposal.family
    for axis in ("heads", "kv_heads", "head_dim"):
        for name in filter(None, AXES[axis].options):
            number = getattr(request, name)
            if number is not None and not (name == "head_dim_mult" and number == 1) and not family.has_heads:
                option = flag(name)
                raise RequestError(f"{option} {number}: {family.name} has no attention heads.", f"Leave {option} out.")
    if request.moe_ffn_mult is not None and not proposal.sizes.get("moe_ffn"):
        raise RequestError(
            f"--moe-ffn-mult {request.moe_ffn_mult}: {family.model_type} has no experts with a width of their own.",
            "Use --ffn-mult.",
        )


def _check_multiple(proposal: Proposal, embed: int, ffn: int) -> None:
    """Raise RequestError for a feed-forward width that is no longer the multiple that the architecture makes it."""
    family = proposal.family
    times, axis = multiple_of("ffn", proposal.config, family), family.multiples["ffn"][1]
    width = stated_width("ffn", ceil(times * embed), proposal.config, family)
    if ffn != width:
        typed = proposal.typed("ffn") or proposal.typed("embed")
        raise RequestError(
            f"{typed}: a feed-forward width of {ffn}: {family.name} has no key for it, it is"
            f" {float(times):g} × {family.sizes[axis]}, here {width}.",
            f"Grow both alike: --intermediate-size {width}.",
        )
