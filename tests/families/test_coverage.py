"""Every causal language model that transformers knows has a table, or a reason why it cannot be expanded."""

from __future__ import annotations

import json
from pathlib import Path

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hyperclone_cli.families import FAMILIES, REFUSED
from hyperclone_cli.families.coverage import causal_model_types, coverage
from support.command_line import hyperclone

PINNED = Path(__file__).parents[2] / ".ci/constraints.txt"

WITHOUT_AN_ANSWER: set[str] = {
    "dory",
    "inkling2_loop_text",
    "inkling2_text",
    "qwen4_exp_text",
    "zaya",
}
"""Model types for which neither a table nor a reason has been found yet."""


def test_the_types_are_those_of_transformers() -> None:
    assert causal_model_types() == list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_no_type_is_unknown_but_those_that_are_listed() -> None:
    assert set(coverage().unknown) <= WITHOUT_AN_ANSWER


def test_what_is_listed_as_unknown_is_unknown_and_real() -> None:
    answered = {family.model_type for family in FAMILIES.values()} | set(REFUSED)
    assert not WITHOUT_AN_ANSWER & answered
    if f"transformers=={transformers.__version__}\n" in PINNED.read_text():
        assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) >= WITHOUT_AN_ANSWER


def test_the_command_counts_them() -> None:
    found = coverage()
    printed = json.loads(hyperclone("families", "--json").stdout)["coverage"]
    assert {answer: len(types) for answer, types in printed.items() if answer != "transformers"} == {
        "exact": len(found.exact),
        "conditional": len(found.conditional),
        "refused": len(found.refused),
        "unknown": len(found.unknown),
    }
    assert f"Of the {len(found.all)} causal model types of transformers {transformers.__version__}: " in hyperclone(
        "families"
    ).stdout.replace("\n", " ")
