"""--family: an architecture without a table of its own grows by that of another whose tensors it has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import FAMILIES, Family
from hyperclone_cli.growth.request import Request
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from hyperclone_cli.writing.provenance import read_provenance
from support import models


@pytest.fixture
def forget() -> Iterator[Callable[[str], Family]]:
    """Make hyperclone one that has no table for an architecture."""
    tables = dict(FAMILIES)
    yield FAMILIES.pop
    FAMILIES.clear()
    FAMILIES.update(tables)  # in their order


@pytest.fixture
def unknown(tmp_path: Path, forget: Callable[[str], Family]) -> Path:
    forget("mistral")
    return models.build("mistral", tmp_path / "src")


def test_an_unknown_architecture_is_refused_with_the_table_that_fits_it(unknown: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'mistral' is not supported") as refusal:
        expand(unknown, tmp_path / "clone", Request(embed_mult=2))
    assert "--family llama" in refusal.value.hint


def test_an_unknown_architecture_grows_by_the_table_that_is_named(unknown: Path, tmp_path: Path) -> None:
    expand(unknown, tmp_path / "clone", Request(embed_mult=2, ffn_mult=3, family="llama"))
    assert models.logit_error(unknown, tmp_path / "clone") <= 1e-5
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    record = read_provenance(tmp_path / "clone")
    assert record
    assert record.request.family == "llama"


@pytest.mark.parametrize(
    "layout",
    ["mixtral", "qwen3_moe", "stablelm-12b", "falcon-7b", "falcon-40b", "gpt_bigcode-mqa"],
)
def test_a_name_stands_for_whichever_of_its_layouts_fits(layout: str, tmp_path: Path) -> None:
    src = models.build(layout, tmp_path / "src")
    known = make_plan(open_source(src), Request(embed_mult=2))
    config = json.loads((src / "config.json").read_text())
    (src / "config.json").write_text(json.dumps(config | {"model_type": "unheard_of"}))
    with pytest.raises(CheckpointError) as refusal:
        make_plan(open_source(src), Request(embed_mult=2))
    assert f"--family {known.family.model_type}" in refusal.value.hint
    plan = make_plan(open_source(src), Request(embed_mult=2, family=known.family.model_type))
    assert plan.family == known.family


def test_a_table_that_fits_the_tensors_but_not_the_function_is_caught(
    tmp_path: Path, forget: Callable[[str], Family]
) -> None:
    """Gemma has Llama's tensors, but norms that multiply by (1 + weight) and a scaled embedding."""
    forget("gemma")
    src = models.build("gemma-gqa", tmp_path / "src")
    expand(src, tmp_path / "clone", Request(embed_mult=2, family="llama"))
    assert not verify(tmp_path / "clone").passed


@pytest.mark.parametrize("family, reason", [("gpt2", "no rule of gpt2 fits"), ("lama", "no such architecture")])
def test_a_table_that_does_not_fit_is_refused(family: str, reason: str, unknown: Path) -> None:
    with pytest.raises((CheckpointError, RequestError), match=reason):
        make_plan(open_source(unknown), Request(family=family))


def test_an_architecture_with_a_table_needs_no_other(tmp_path: Path) -> None:
    src = models.build("mistral", tmp_path / "src")
    with pytest.raises(RequestError, match="a table of its own"):
        make_plan(open_source(src), Request(family="llama"))


def test_where_no_table_fits_the_nearest_name_is_a_hint(tmp_path: Path) -> None:
    src = models.build("opt-125m", tmp_path / "src")
    config = json.loads((src / "config.json").read_text())
    (src / "config.json").write_text(json.dumps(config | {"model_type": "opps", "ffn_dim": 79}))
    with pytest.raises(CheckpointError, match="'opps' is not supported") as refusal:
        make_plan(open_source(src), Request())
    assert "'opt'" in refusal.value.hint


def test_a_clone_that_transformers_would_not_load_is_refused_before_it_is_written(tmp_path: Path) -> None:
    """A descendant of Llama under a name that transformers does not know: its table fits, no clone could be run."""
    src = models.build("llama-gqa-tied", tmp_path / "src")
    config = json.loads((src / "config.json").read_text())
    (src / "config.json").write_text(json.dumps(config | {"model_type": "unheard_of"}))
    with pytest.raises(CheckpointError, match="does not know model_type 'unheard_of'") as refusal:
        expand(src, tmp_path / "clone", Request(embed_mult=2, family="llama"))
    assert 'put "model_type": "llama" into its config.json' in refusal.value.hint
    assert not list(tmp_path.glob("clone*"))
