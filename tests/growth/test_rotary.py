"""Rotary positions: how config.json states them, and the heads that cannot be larger because of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.writing.pipeline import expand
from support import models

Sources = Callable[[str], Path]


ROPES: dict[str, dict[str, Any]] = {
    "older key": {"rope_theta": 5e3, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "older key and type": {"rope_theta": 5e3, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "newer key": {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e3, "factor": 4.0}},
    "both, which disagree": {
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 5e3, "factor": 2.0},
        "rope_scaling": {"rope_type": "linear", "rope_theta": 5e3, "factor": 4.0},
    },
}


@pytest.mark.parametrize("request_", [Request(embed_mult=2), Request(head_dim_mult=2)], ids=["wider", "larger heads"])
@pytest.mark.parametrize("rope", ROPES)
def test_rotary_positions_are_read_as_transformers_reads_them(rope: str, request_: Request, tmp_path: Path) -> None:
    src = models.build("llama-gqa-tied", tmp_path / "src")
    config = json.loads((src / "config.json").read_text())
    config.pop("rope_parameters")
    (src / "config.json").write_text(json.dumps(config | ROPES[rope]))
    plan = expand(src, tmp_path / "clone", request_)
    assert plan.config.items() >= ROPES[rope].items()
    assert models.logit_error(src, tmp_path / "clone") <= 1e-5


@pytest.mark.parametrize(
    "variant, changes, reason",
    [
        ("olmo-clip", {}, "clip_qkv"),
        ("llama-mha", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "'yarn'"),
        ("pythia", {"hidden_size": 48}, "pairs do not stay pairs"),  # a quarter of twelve units turns: an odd number
    ],
)
def test_a_head_that_cannot_be_larger_is_refused(
    variant: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    src = models.build(variant, tmp_path / "src", **changes)
    with pytest.raises(RequestError, match=reason):
        expand(src, tmp_path / "clone", Request(embed_mult=2, head_dim_mult=2))


@pytest.mark.parametrize("part", ["half", [0.5], -1, True])
def test_a_partial_rotary_factor_that_is_no_number_is_refused(part: object, source: Sources, tmp_path: Path) -> None:
    shutil.copytree(source("pythia"), tmp_path / "src")
    config = json.loads((tmp_path / "src" / "config.json").read_text())
    config["rope_parameters"]["partial_rotary_factor"] = part
    (tmp_path / "src" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="partial_rotary_factor"):
        make_plan(open_source(tmp_path / "src"), Request(embed_mult=2, head_dim_mult=2))
