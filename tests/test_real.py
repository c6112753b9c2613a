"""A real pretrained model: SmolLM2-135M-Instruct, bfloat16, with its tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

import pytest

import real
from hyperclone_cli.clone import expand
from hyperclone_cli.request import Request
from hyperclone_cli.verifier import verify


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real.smollm2(tmp_path_factory.mktemp("real") / "smollm2")


def test_smollm2_grows_to_481_million_parameters_and_is_the_same_model(smollm2: Path, tmp_path: Path) -> None:
    plan = expand(smollm2, tmp_path / "clone", Request(embed_mult=2, ffn_mult=2))
    assert sum(tensor.elements for tensor in plan.tensors) == 481_366_656
    assert plan.rounded() == []
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.logits is not None
    assert report.generation is not None
    assert report.logits.text == "a page of English"
    assert report.logits.relative_error <= 1e-5
    assert f"{report.logits.perplexity_clone:.4g}" == f"{report.logits.perplexity_source:.4g}"
    assert report.generation.identical == report.generation.prompts
