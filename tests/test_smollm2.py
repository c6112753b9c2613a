"""A pretrained model as people have it: SmolLM2-135M-Instruct, from its GGUF file, with its tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import real


@pytest.mark.real
def test_smollm2_grows_to_481_million_parameters_and_is_the_same_model(tmp_path: Path) -> None:
    plan = expand(real.smollm2_gguf(), tmp_path / "clone", Request(embed_mult=2, ffn_mult=2))
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
