"""Transformers is asked about a plan while its first gigabytes are written: before its answer, none of them counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import load_file

from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.writing import acceptance
from hyperclone_cli.writing.pipeline import expand
from hyperclone_cli.writing.preflight import check_loads
from hyperclone_cli.writing.shard_task import ShardWritten
from support import faults
from support.models import edited

TWICE = Request(embed_mult=2, ffn_mult=2, max_shard_size="60KB")
Sources = Callable[[str], Path]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Transformers answers late: the sizes of the shards and of the journal that it finds written when it does."""
    found: list[int] = []

    def late(plan: Plan) -> Plan:
        partial = tmp_path / "clone.partial"
        while not list(partial.glob("*.safetensors")):
            time.sleep(0.001)
        found.extend(path.stat().st_size for path in [*partial.glob("*.safetensors"), partial / faults.JOURNAL])
        return check_loads(plan)

    monkeypatch.setattr(acceptance, "check_loads", late)
    return found


def test_shards_are_written_before_the_answer_and_recorded_after_it(
    written: list[int], source: Sources, tmp_path: Path
) -> None:
    expand(source("qwen3"), tmp_path / "clone", TWICE)
    assert written[0] > 0
    assert written[-1] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone"]


def test_what_transformers_refuses_leaves_nothing(written: list[int], source: Sources, tmp_path: Path) -> None:
    src = edited(source("llama-mha"), tmp_path / "src", hidden_act="no such function")
    with pytest.raises(CheckpointError, match="no such function"):
        expand(src, tmp_path / "clone", TWICE)
    assert written
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_a_source_that_transformers_sees_otherwise_is_written_as_it_sees_it(
    written: list[int], source: Sources, tmp_path: Path
) -> None:
    def without_output_biases(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("o_proj.bias")]:
            del tensors[name]

    src = edited(source("llama-head_dim-biases"), tmp_path / "src", without_output_biases)
    expand(src, tmp_path / "clone", TWICE)
    assert written
    clone = {name: one for path in (tmp_path / "clone").glob("*.safetensors") for name, one in load_file(path).items()}
    biases = [one for name, one in clone.items() if name.endswith("o_proj.bias")]
    assert len(biases) == 2
    assert not any(bias.any() for bias in biases)


def test_what_is_written_before_the_answer_is_recorded_in_order_after_it_and_bounded(
    source: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    asked = Event()

    def answer(plan: Plan) -> Plan:
        asked.wait()
        happened.append("answer")
        return plan

    monkeypatch.setattr(acceptance, "check_loads", answer)
    monkeypatch.setattr(acceptance, "_UNACCEPTED_BYTES", 100)
    answers = acceptance.Acceptance(make_plan(open_source(source("qwen3")), TWICE))
    with answers.before(lambda written: happened.append(f"{written.shard} is recorded")) as record:
        record(ShardWritten("first", (), 99, frozenset()))
        happened.append("first returned")
        asked.set()  # else the next would wait for ever
        record(ShardWritten("second", (), 1, frozenset()))
        happened.append("second returned")
    assert happened == ["first returned", "answer", "first is recorded", "second is recorded", "second returned"]


def test_what_was_cut_before_the_answer_is_nobodys(source: Sources, tmp_path: Path) -> None:
    """Any request may have the place of a shard beside a journal that has not begun."""
    partial = tmp_path / "clone.partial"
    partial.mkdir()
    (partial / faults.JOURNAL).touch()
    (partial / "model-00001-of-00009.safetensors").write_bytes(b"cut")
    expand(source("qwen3"), tmp_path / "clone", TWICE)
    expand(source("qwen3"), tmp_path / "whole", TWICE)
    assert faults.contents(tmp_path / "clone") == faults.contents(tmp_path / "whole")
