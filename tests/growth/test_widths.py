"""A growth says what every new unit copies and how much of it is read; packed dimensions nest growths."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperclone_cli.errors import RequestError
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


@pytest.mark.parametrize(
    "request_, kv_heads, group",
    [
        (Request(embed_mult=2), 2, 1),  # heads follow the residual stream, key/value heads follow the heads
        (Request(embed_mult=2, kv_heads_mult=1), 1, 2),
        (Request(embed_mult=1, heads_mult=4, kv_heads_mult=2), 2, 2),
    ],
)
def test_heads_are_key_value_heads_times_a_group(request_: Request, kv_heads: int, group: int) -> None:
    grown = resolve(Proposal(request_, LLAMA, {}, SIZES))
    assert grown["kv_heads"].ratio == kv_heads
    assert grown["group"].ratio == group


def test_a_single_key_value_head_stays_single_unless_asked() -> None:
    sizes = SIZES | {"kv_heads": 1, "group": 8}
    assert resolve(Proposal(Request(embed_mult=2), LLAMA, {}, sizes))["kv_heads"].target == 1
    assert resolve(Proposal(Request(embed_mult=2, kv_heads_mult=2), LLAMA, {}, sizes))["kv_heads"].target == 2


@pytest.mark.parametrize(
    "model_type, request_, nearest",
    [
        ("opt", Request(embed_mult=2, heads_mult=1), "--hidden-size 128 --num-heads 16."),
        ("gpt_neox", Request(embed_mult=1, heads_mult=3), "--hidden-size 64 --num-heads 8."),
        ("opt", Request(embed_mult=2, kv_heads_mult=1), "--hidden-size 128 --num-heads 16."),
        ("opt", Request(hidden_size=100), "--hidden-size 96."),
        ("opt", Request(head_dim_mult=2), "--hidden-size 128."),
        ("llama", Request(heads_mult=4, kv_heads_mult=3), "--hidden-size 64 --num-heads 32 --num-kv-heads 8."),
        ("llama", Request(heads_mult=1, kv_heads_mult=2), "--hidden-size 64 --num-heads 16 --num-kv-heads 4."),
        ("llama", Request(heads_mult=3), "--hidden-size 64 --num-heads 16 --num-kv-heads 4."),
        ("olmo2", Request(heads_mult=1.5), "--hidden-size 64 --num-heads 8 --num-kv-heads 2."),
        ("llama", Request(hidden_size=63), "At least 64."),
    ],
)
def test_a_request_that_cannot_be_met_names_the_nearest_that_can(
    model_type: str, request_: Request, nearest: str
) -> None:
    sizes = SIZES if model_type in ("llama", "olmo2") else SIZES | {"kv_heads": 8, "group": 1}
    with pytest.raises(RequestError) as refusal:
        resolve(Proposal(request_, FAMILIES[model_type], {}, sizes))
    assert nearest in refusal.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"embed_mult": 0},
        {"ffn_mult": 0.5},
        {"ffn_mult": float("nan")},
        {"heads_mult": "2"},
        {"head_dim_mult": 1.5},
        {"hidden_size": 0},
        {"hidden_size": 64, "embed_mult": 2},
        {"num_heads": 4, "heads_mult": 2},
        {"target_params": "many"},
        {"target_params": "1B", "ffn_mult": 2},
        {"multiple_of": 0},
        {"embed_mult": None},
        {"embed_mult": 10**9},
        {"dtype": "int8"},
        {"tie_embeddings": "x"},
    ],
)
def test_a_request_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        Request(**wrong)
