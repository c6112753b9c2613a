"""Requests that mean nothing are refused before any checkpoint is opened."""

from __future__ import annotations

from typing import Any

import pytest

from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.request import Request


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
