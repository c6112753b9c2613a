"""Models that do not fit in memory are run layer by layer, with the same figures, or it is said that they cannot be."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from hyperclone_cli import expand, verify
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import find_family
from hyperclone_cli.verifier import generation, memory
from hyperclone_cli.verifier.forecast import forecast
from hyperclone_cli.verifier.report import Report
from hyperclone_cli.verifier.run_options import follow_passes, follow_steps
from hyperclone_cli.verifier.verification_record import check_verified
from support import models, quantised
from support.command_line import as_json, hyperclone

Sources = Callable[[str], Path]
PAGE = 64


def least_bytes(checkpoint: Path, tokens: int = PAGE) -> int:
    """The least memory that a checkpoint runs in, layer by layer."""
    source = open_source(checkpoint)
    return memory.needs(source, find_family(source.config), 4, tokens).layer_by_layer


def modes(report: Report) -> dict[str, str]:
    return {run.model: run.mode for run in report.runs}


LAYOUTS = {
    "llama-gqa-tied": 5,
    "opt-350m": 5,
    "olmoe": 5,  # experts that are fused on loading, into temporary files
    "gpt_oss": 5,
    "dbrx": 5,  # experts that their parent reads without calling them
    "gemma3n": 5,
    "qwen3_next": 5,
    "bamba": 5,
    "mamba": 16,  # its cache takes one token at a time
    "recurrent_gemma": 16,
    "rwkv": 16,
}
"""Variant → passes in which the clone follows 16 tokens."""


@pytest.mark.parametrize("variant, steps", LAYOUTS.items(), ids=LAYOUTS)
def test_figures_layer_by_layer_are_those_in_memory(variant: str, steps: int, source: Sources, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    expand(source(variant), clone, embed_mult=2, ffn_mult=2)
    whole = verify(clone)
    bounded = verify(clone, new_tokens=16, max_memory=least_bytes(clone))
    assert modes(whole) == {"source": "in memory", "clone": "in memory"}
    assert modes(bounded)["clone"] == "layer by layer"
    assert bounded.passed, bounded.failures
    assert (bounded.logits, bounded.generation) == (whole.logits, whole.generation)
    assert whole.generation is not None
    assert whole.generation.steps == steps
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]


@pytest.mark.parametrize("stored", ["bin", "gguf", "fp8"])
def test_sources_in_other_formats_run_layer_by_layer(stored: str, source: Sources, tmp_path: Path) -> None:
    src = source("llama-gqa-tied")
    if stored == "bin":
        shutil.copytree(src, tmp_path / "src", ignore=shutil.ignore_patterns("*.safetensors"))
        torch.save(load_file(src / "model.safetensors"), tmp_path / "src" / "pytorch_model.bin")
        src = tmp_path / "src"
    elif stored == "fp8":
        src = quantised.fp8_blocks(src, tmp_path / "src", 16, 16)
    else:
        pytest.importorskip("gguf")
        from checkpoint.test_gguf import write_gguf

        src = write_gguf(tmp_path / "tiny.gguf")
    clone = tmp_path / "clone"
    expand(src, clone, dtype="float32")  # of the source's size, so that one limit is too small for both
    whole = verify(clone, new_tokens=4)
    bounded = verify(clone, max_memory=least_bytes(clone))
    assert modes(bounded) == {"source": "layer by layer", "clone": "layer by layer"}
    assert bounded.passed, bounded.failures
    assert (bounded.logits, bounded.generation) == (whole.logits, whole.generation)  # few tokens unless asked for more
    assert all(run.bytes_read > 0 for run in bounded.runs)


def test_a_wrong_clone_fails_layer_by_layer(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-gqa-tied"), tmp_path / "clone", embed_mult=2)
    forged = models.edited(
        tmp_path / "clone", tmp_path / "forged", lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"].mul_(1.01)
    )
    (forged / "hyperclone.json").unlink()
    report = verify(forged, source("llama-gqa-tied"), max_memory=least_bytes(forged))
    assert modes(report)["clone"] == "layer by layer"
    assert any("layer 1" in failure for failure in report.failures)


def test_nothing_but_steps_is_said_of_a_model_that_runs_layer_by_layer(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-gqa-tied"), tmp_path / "clone", embed_mult=2)
    words = ["verify", tmp_path / "clone", "--max-memory", least_bytes(tmp_path / "clone"), "--json"]
    command = [sys.executable, "-m", "hyperclone_cli", *map(str, words)]
    result = subprocess.run(command, text=True, capture_output=True, timeout=120, check=True)
    assert [line for line in result.stderr.splitlines() if not line.endswith("…")] == []
    assert "the clone in float32, layer by layer" in result.stderr


def test_a_page_is_cut_to_the_tokens_that_there_is_memory_for(source: Sources, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    expand(source("llama-gqa-tied"), clone, embed_mult=2)
    limit = least_bytes(clone, PAGE // 2)
    report = verify(clone, max_memory=limit)
    assert report.passed
    assert report.logits is not None
    assert report.logits.tokens == PAGE // 2
    assert any("cut from 64 to 32 tokens" in note for note in report.notes)
    assert verify(clone, max_memory=limit, page_tokens=PAGE).logits is None  # as many as were asked for, or none


def test_a_clone_that_cannot_be_run_has_its_weights_compared(source: Sources, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    expand(source("llama-gqa-tied"), clone, embed_mult=2)
    report = verify(clone, max_memory="1MB")
    assert report.passed
    assert (report.logits, report.generation, report.runs) == (None, None, ())
    assert any("only the weights were compared" in note and "1.0 MB are free" in note for note in report.notes)
    with pytest.raises(RequestError, match="never verified"):
        check_verified(clone)
    (clone / "hyperclone.json").unlink()
    result = hyperclone("verify", clone, "--src", source("llama-gqa-tied"), "--max-memory", "1MB", code=5)
    assert "The models were not run" in result.stderr


ANNOUNCED = {
    "what is free": ([], "in memory"),
    "too little": (["--max-memory", "20MB"], "by its weights only: it cannot be run here"),
}


@pytest.mark.parametrize("options, how", ANNOUNCED.values(), ids=ANNOUNCED)
def test_expand_says_before_it_writes_how_it_verifies(
    options: list[str], how: str, source: Sources, tmp_path: Path
) -> None:
    words = ["expand", "--src", source("llama-gqa-tied"), "--embed-mult", 2, "--out", tmp_path / "clone", *options]
    lines = hyperclone(*words).stderr.splitlines()
    said = next(number for number, line in enumerate(lines) if line.startswith(f"The clone will be verified {how}"))
    assert said < next(number for number, line in enumerate(lines) if line.startswith("Writing"))


def test_plan_says_how_the_clone_would_be_verified(source: Sources) -> None:
    words = ["plan", "--src", source("llama-gqa-tied"), "--embed-mult", 2]
    found = as_json(hyperclone(*words, "--json"))["verification"]
    assert found["mode"] == "in memory"
    assert found["needed_bytes"] < found["free_bytes"]
    with patch.object(memory, "free_memory", lambda: found["least_bytes"]):
        assert "layer by layer, about 6 passes over " in " ".join(hyperclone(*words).stdout.split())


@pytest.mark.parametrize("short", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_memory_that_runs_out_is_one_message(short: Exception, source: Sources, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    expand(source("llama-gqa-tied"), clone, embed_mult=2)

    def fail(*_: Any) -> None:
        raise short

    with patch.object(generation, "follow_singly", fail), patch.object(generation, "follow", fail):
        result = hyperclone("verify", clone, code=5)
    lines = [line for line in result.stderr.splitlines() if not line.endswith("…")]
    assert "memory ran out" in lines[0]
    assert "in memory or" in lines[0]
    assert "--max-memory" in lines[1]
    assert "Traceback" not in result.stderr


MEMINFO = "MemTotal: 8000 kB\nMemFree: 100 kB\nMemAvailable: 4000 kB\n"
V2 = {"memory.max": "3000000\n", "memory.current": "2500000\n", "memory.stat": "inactive_file 300000\nactive_file 5\n"}
V1 = {
    "memory.limit_in_bytes": "2000000\n",
    "memory.usage_in_bytes": "1900000\n",
    "memory.stat": "inactive_file 1\ntotal_inactive_file 200000\ntotal_active_file 7\n",
}
GROUPS: dict[str, tuple[str, dict[str, dict[str, str]], int]] = {
    "none": ("", {}, 4_096_000),
    "version 2": ("0::/job\n", {"job": V2}, 800_005),
    "a parent's limit": ("0::/job/step\n", {"job": V2, "job/step": V2 | {"memory.max": "max\n"}}, 800_005),
    "version 1": ("9:cpu:/\n4:memory:/job\n", {"memory/job": V1}, 300_007),
    "both": ("4:memory:/job\n0::/job\n", {"memory/job": V1, "job": V2}, 300_007),
    "a path that is not mounted": ("4:memory:/docker/abc\n", {"memory": V1}, 300_007),
    "no limit": ("4:memory:/\n", {"memory": V1 | {"memory.limit_in_bytes": "9223372036854771712\n"}}, 4_096_000),
}


@pytest.mark.parametrize("listed, groups, free", GROUPS.values(), ids=GROUPS)
def test_what_is_free_is_the_least_that_anything_allows(
    listed: str, groups: dict[str, dict[str, str]], free: int, tmp_path: Path
) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    (tmp_path / "proc" / "self" / "cgroup").write_text(listed)
    for group, files in groups.items():
        (tmp_path / "groups" / group).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (tmp_path / "groups" / group / name).write_text(content)
    assert memory.free_memory(tmp_path / "proc", tmp_path / "groups") == free


def test_experts_count_as_the_one_tensor_that_they_are_fused_to(source: Sources) -> None:
    opened = open_source(source("olmoe"))
    needs = memory.needs(opened, find_family(opened.config), 4, PAGE)
    experts = [tensor for name, tensor in opened.tensors.items() if ".experts." in name]
    one_projection = [tensor for tensor in experts if ".layers.0." in tensor.name and "up_proj" in tensor.name]
    assert needs.largest == sum(tensor.nbytes for tensor in one_projection)
    assert needs.scratch == sum(tensor.nbytes for tensor in experts)


@pytest.mark.parametrize("variant", ["olmoe", "gpt_oss", "deepseek_v3-tied", "llama-gqa-tied", "qwen3_next"])
def test_a_plan_forecasts_what_the_written_clone_needs(variant: str, source: Sources, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    planned = forecast(expand(source(variant), clone, embed_mult=2, depth_mult=2), clone, "cpu", None, PAGE)
    opened = open_source(clone)
    needs = memory.needs(opened, find_family(opened.config), 4, PAGE)
    assert (planned.needed_bytes, planned.least_bytes) == (needs.in_memory, needs.layer_by_layer)


@pytest.mark.parametrize("new_tokens", [1, 2, 3, 4, 15, 16, 17, 64])
def test_every_new_token_but_the_last_is_fed_once(new_tokens: int) -> None:
    fed = [place for first, stop in follow_steps(new_tokens) for place in range(first, stop)]
    assert fed == list(range(new_tokens - 1))
    assert follow_passes(new_tokens) <= 1 + new_tokens.bit_length()


def test_positions_after_a_near_tie_are_compared() -> None:
    decoded = generation.Decoded(torch.tensor([[1, 2, 3], [1, 2, 3]]), torch.tensor([[1.0, 1e-6, 1.0]] * 2))
    chosen = torch.tensor([[1, 9, 3], [1, 9, 9]])
    found = generation.compare(decoded, chosen, [[0], [0]], 1e-5, at_once=True)
    assert (found.identical, found.ties, found.parted) == (0, 1, ((1, 2),))
