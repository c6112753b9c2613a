"""A growth says what every new unit copies and how much of it is read; packed dimensions nest growths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperclone_cli.families import FAMILIES
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.resolve import resolve
from hyperclone_cli.growth.widths import Growth, grow_dimension, nest, tiled

LLAMA = FAMILIES["llama"]
SIZES = {"embed": 64, "ffn": 96, "kv_heads": 2, "group": 4, "head_dim": 8, "vocab": 10, "layers": 2}
growths = st.builds(tiled, st.integers(1, 6), st.integers(1, 4))


def units(growth: Growth) -> list[tuple[int, int, int]]:
    """The growth written out: (source unit, which of its copies, of how many) for every new unit."""
    return [(unit, run.copy, run.copies) for run in growth.runs for unit in range(run.start, run.start + run.length)]


def test_a_tiled_width_is_copy_after_copy() -> None:
    assert units(tiled(3, 2)) == [(0, 0, 2), (1, 0, 2), (2, 0, 2), (0, 1, 2), (1, 1, 2), (2, 1, 2)]


def test_query_heads_grow_inside_their_key_value_head() -> None:
    """Two key/value heads of two query heads each; the group doubles, the key/value heads stay."""
    assert [unit for unit, _, _ in units(nest(tiled(2, 1), tiled(2, 2)))] == [0, 1, 0, 1, 2, 3, 2, 3]


@given(growths, growths, growths)
def test_nesting_packs_units_like_a_reshape(a: Growth, b: Growth, c: Growth) -> None:
    expected = [(i * b.source + j) * c.source + k for i, *_ in units(a) for j, *_ in units(b) for k, *_ in units(c)]
    assert [unit for unit, *_ in units(nest(nest(a, b), c))] == expected
    assert units(nest(a, nest(b, c))) == units(nest(nest(a, b), c))


@given(growths, growths)
def test_every_copy_of_a_unit_is_there_once_and_in_order(a: Growth, b: Growth) -> None:
    packed = nest(a, b)
    for unit in range(packed.source):
        found = [(copy, copies) for copied, copy, copies in units(packed) if copied == unit]
        assert found == [(copy, len(found)) for copy in range(len(found))]
    assert packed.target == len(units(packed))


def test_a_dimension_that_does_not_fit_its_axes_says_what_would() -> None:
    growths = resolve(Proposal(Request(), LLAMA, {}, SIZES))
    with pytest.raises(ValueError, match="64"):
        grow_dimension((("embed",),), 65, growths)
    with pytest.raises(ValueError, match="192"):
        grow_dimension((("kv_heads", "group", "query+key+value"),), 65, growths)
    assert grow_dimension((("*",),), 65, growths).target == 65
