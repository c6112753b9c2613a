"""Every causal language model that transformers knows has a table, or a reason why it cannot be expanded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hyperclone_cli.families.coverage import causal_model_types, coverage
from support.command_line import hyperclone

PINNED = Path(__file__).parents[2] / ".ci/constraints.txt"


def test_the_types_are_those_of_transformers() -> None:
    assert causal_model_types() == list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.skipif(
    f"transformers=={transformers.__version__}\n" not in PINNED.read_text(), reason="other releases have other types"
)
def test_no_type_of_the_pinned_release_is_unknown() -> None:
    assert coverage().unknown == ()


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
