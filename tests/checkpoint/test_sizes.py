"""The sizes of a model, as its config.json states them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hyperclone_cli.checkpoint.sizes import number_of_logits
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.verifier.self_check import tiny_config

INKLING = FAMILIES["inkling_text"]


@pytest.mark.parametrize("stated, logits", [(None, 96), (40, 40), (96, 96), (200, 96)])
def test_a_model_has_no_more_logits_than_its_padded_vocabulary(stated: int | None, logits: int) -> None:
    assert number_of_logits(tiny_config(INKLING) | {"unpadded_vocab_size": stated}, INKLING) == logits


@pytest.mark.parametrize("stated", [0, -1, "40", 4.5, True])
def test_an_impossible_number_of_logits_is_named(stated: Any) -> None:
    message = re.escape(f"unpadded_vocab_size should be a whole number from 1 up, found {stated!r}.")
    with pytest.raises(CheckpointError, match=message):
        number_of_logits(tiny_config(INKLING) | {"unpadded_vocab_size": stated}, INKLING)
