"""What of a checkpoint decides how it is run: neither its kernels nor its code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from hyperclone_cli.checkpoint.transformers_model import stock_config
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.families.transformers_faults import FAULTS, Fault
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support.command_line import hyperclone
from support.models import edited

KERNELS = ("flash_attention_2", "kernels-community/flash-attn", "no such kernel", "eager")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("key", ["attn_implementation", "experts_implementation"])
def test_kernels_that_a_config_names_are_not_asked_for(key: str, kernel: str) -> None:
    for name in (key, f"_{key}", f"_{key}_internal"):
        found = stock_config({"model_type": "llama", name: kernel}, "source")
        assert found._attn_implementation is None
        assert found._experts_implementation is None
        nested = {"model_type": "gemma3", "text_config": {name: kernel}, name: {"text_config": kernel}}
        found = stock_config(nested, "source")
        assert found._attn_implementation is None
        assert found.get_text_config()._attn_implementation is None


@pytest.mark.parametrize(
    "variant, key",
    [
        ("llama-mha", "_attn_implementation"),
        ("gpt2", "attn_implementation"),
        ("gemma3n", "_attn_implementation"),
        ("mixtral", "_experts_implementation"),
    ],
)
def test_a_clone_keeps_its_kernels_and_is_verified_without_them(
    variant: str, key: str, source: Callable[[str], Path], tmp_path: Path
) -> None:
    src = edited(source(variant), tmp_path / "src", None, **{key: "flash_attention_2"})
    expand(src, tmp_path / "clone", Request(embed_mult=2))
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert json.loads((tmp_path / "clone" / "config.json").read_text())[key] == "flash_attention_2"


@pytest.mark.parametrize("model_type, fault", FAULTS.items())
def test_a_release_with_a_fault_that_nothing_shows_is_refused_until_it_is_mended(
    model_type: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    major, minor = map(int, fault.mended.split("."))
    monkeypatch.setattr("transformers.__version__", f"{major}.{minor - 1}.9")
    with pytest.raises(CheckpointError, match=f"source: transformers {major}.{minor - 1}.9 {fault.what}") as refusal:
        stock_config({"model_type": model_type}, "source")
    assert refusal.value.hint == f"Install transformers {fault.mended} or later."
    monkeypatch.setattr("transformers.__version__", f"{fault.mended}.0")
    assert stock_config({"model_type": model_type}, "source").model_type == model_type


CODE = """
from io import StringIO
from pathlib import Path
Path({marker!r}).write_text("this ran")
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model, PreTrainedTokenizerFast as Tokenizer
"""

AUTO_MAP = {
    "AutoConfig": "code_of_its_own.Config",
    "AutoModelForCausalLM": "code_of_its_own.Model",
    "AutoTokenizer": ["code_of_its_own.Tokenizer", "code_of_its_own.Tokenizer"],
}

WITH_CODE: dict[str, tuple[dict[str, Any], list[str], int, str]] = {
    "a known architecture": ({}, [], 0, "passed: "),
    "its tokenizer alone": ({"auto_map": {"AutoTokenizer": AUTO_MAP["AutoTokenizer"]}}, [], 0, "passed: "),
    "an unknown architecture": ({"model_type": "heron"}, [], 3, "--family llama"),
    "an unknown architecture, read as another": (
        {"model_type": "heron"}, ["--family", "llama"], 3, "The checkpoint's own code (auto_map) is never run.",
    ),
    # transformers knows this config, but no causal language model of it
    "a known config without a model": (
        {"model_type": "siglip_text_model"}, ["--family", "llama"], 3, "no causal language model of model_type",
    ),
}  # fmt: skip


@pytest.mark.parametrize("changes, options, code, words", WITH_CODE.values(), ids=list(WITH_CODE))
def test_code_of_a_source_is_never_run_nor_is_anybody_asked(
    changes: dict[str, Any],
    options: list[str],
    code: int,
    words: str,
    source: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marker = tmp_path / "it ran"
    src = edited(source("llama-mha"), tmp_path / "src", **({"auto_map": AUTO_MAP} | changes))
    (src / "code_of_its_own.py").write_text(CODE.format(marker=str(marker)))
    tokenizer = {"tokenizer_class": "OfItsOwn", "auto_map": {"AutoTokenizer": AUTO_MAP["AutoTokenizer"]}}
    (src / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    clone = tmp_path / "clone"
    monkeypatch.setattr(sys, "stdin", StringIO("y\n" * 20))  # to whatever is asked
    result = hyperclone("expand", "--src", src, "--embed-mult", 2, "--out", clone, *options, code=code)
    said = result.stdout + result.stderr
    assert words in said
    assert "[y/N]" not in said
    assert "trust_remote_code" not in said
    assert not marker.exists()
    if not code:
        assert "needs code of its own, which is never run; random tokens are used" in said
