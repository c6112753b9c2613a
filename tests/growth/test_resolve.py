"""A request becomes one growth for each axis, or a refusal that names the nearest request that works."""

from __future__ import annotations

import pytest

from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.resolve import resolve

LLAMA = FAMILIES["llama"]
SIZES = {"embed": 64, "ffn": 96, "kv_heads": 2, "group": 4, "head_dim": 8, "vocab": 10, "layers": 2}


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
