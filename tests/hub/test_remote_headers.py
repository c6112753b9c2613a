"""A plan of a model on the Hub reads the headers of its files and fetches no weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import models, quantised, wrapped
from support.command_line import Run
from support.local_hub import CONTENT, WEIGHTS, LocalHub, fetched, sent_bytes

GROWTH = ("--embed-mult", 2, "--ffn-mult", 2)


def plan_of(run: Run, src: object) -> dict[str, Any]:
    """The plan as JSON, but for the memory that is free, which changes from moment to moment."""
    found: dict[str, Any] = json.loads(run("plan", "--src", src, *GROWTH, "--json").stdout)
    del found["verification"]["free_bytes"]
    return found


def test_a_plan_reads_headers_and_fetches_no_weights(hub: LocalHub, run: Run, tmp_path: Path) -> None:
    src = models.build(
        "llama-gqa-tied", tmp_path / "wide", max_shard_size="2MB", vocab_size=8000, intermediate_size=8192
    )
    (src / "modeling_wide.py").touch()
    hub.add("a/wide", src)
    planned = plan_of(run, "a/wide")
    assert "modeling_wide.py" in planned["notes"][0]
    assert planned == plan_of(run, src)
    asked = hub.asked(WEIGHTS)
    assert set(fetched(hub.asked(CONTENT))) - set(fetched(asked)) == {"config.json", "model.safetensors.index.json"}
    assert len(asked) == len(list(src.glob("*.safetensors"))) > 2
    assert (
        sent_bytes(asked) <= len(asked) * (1 << 17) < sum(path.stat().st_size for path in src.glob("*.safetensors")) / 4
    )
    assert not list((tmp_path / "home").rglob("model-*.safetensors"))


def test_a_plan_of_a_quantised_model_reads_headers_and_no_scales(hub: LocalHub, run: Run, tmp_path: Path) -> None:
    wide = models.build("llama-gqa-tied", tmp_path / "wide", torch.bfloat16, intermediate_size=8192)
    src = quantised.fp8_blocks(wide, tmp_path / "src", 128, 128)
    hub.add("a/fp8", src)
    planned = plan_of(run, "a/fp8")
    assert "14 tensors are dequantised to bfloat16" in planned["notes"][0]
    assert planned == plan_of(run, src)
    assert sent_bytes(hub.asked(WEIGHTS)) <= 1 << 17 < (src / "model.safetensors").stat().st_size / 4
    assert not list((tmp_path / "home").rglob("*.safetensors"))


@pytest.mark.parametrize("repo_id", ["a/llama", "a/fp8"])
def test_a_plan_of_safetensors_on_the_hub_imports_neither_torch_nor_transformers(
    repo_id: str, hub: LocalHub, sharded: Path, tmp_path: Path
) -> None:
    plain = shutil.copytree(sharded, tmp_path / "plain", ignore=shutil.ignore_patterns("model*", "*.bin"))
    tensors = {name: tensor for path in sharded.glob("model-*.safetensors") for name, tensor in load_file(path).items()}
    save_file(tensors, plain / "model.safetensors")
    hub.add("a/fp8", quantised.fp8_blocks(plain, tmp_path / "src", 16, 16))
    code = (
        "import sys; from hyperclone_cli.cli.app import app\n"
        f"try: app(['plan', '--src', {repo_id!r}, '--embed-mult', '2'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    env = hub.environment(tmp_path / "home")
    subprocess.run([sys.executable, "-c", code], env=env, check=True, stdout=subprocess.DEVNULL)


def test_a_plan_of_a_bin_file_reads_its_pickle_and_no_weights(
    hub: LocalHub, run: Run, opt: Path, tmp_path: Path
) -> None:
    hub.add("facebook/opt-350m", opt)
    planned = json.loads(run("plan", "--src", "facebook/opt-350m", *GROWTH, "--json").stdout)
    assert planned["config"]["hidden_size"] == {"before": 1024, "after": 2048}
    assert planned["head"]["tied"] is True
    assert sent_bytes(hub.asked(WEIGHTS)) < (opt / "pytorch_model.bin").stat().st_size / 50
    assert not list((tmp_path / "home").rglob("pytorch_model.bin"))


def test_a_plan_of_an_old_bin_file_says_that_it_would_have_to_be_fetched(
    hub: LocalHub, run: Run, opt: Path, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(opt, tmp_path / "old"))
    tensors = torch.load(old / "pytorch_model.bin", weights_only=True)
    torch.save(tensors, old / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    hub.add("a/old", old)
    result = run("plan", "--src", "a/old", *GROWTH, code=2)
    assert f"{(old / 'pytorch_model.bin').stat().st_size:,} bytes" in result.stderr


NOT_IN_FULL = (
    "lm_head.weight is stored apart from the embedding that it is tied to, and was not compared with it in full"
)


@pytest.mark.parametrize(
    "file, vocab, tie, differ, noted",
    [
        ("model.safetensors", 768, True, "nowhere", True),
        ("model.safetensors", 768, True, "at the end", True),
        ("model.safetensors", 768, True, "at the start", False),  # so much is read, and settles it
        ("model.safetensors", 96, True, "nowhere", False),  # read whole
        ("model.safetensors", 768, False, "nowhere", False),
        ("pytorch_model.bin", 96, True, "nowhere", True),
        ("pytorch_model.bin", 96, False, "nowhere", False),
    ],
)
def test_a_plan_says_that_a_stored_head_was_not_compared_in_full(
    file: str, vocab: int, tie: bool, differ: str, noted: bool, hub: LocalHub, run: Run, tmp_path: Path
) -> None:

    src = models.build("llama-mha", tmp_path / "src", vocab_size=vocab, tie_word_embeddings=tie)
    tensors = load_file(src / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    if differ != "nowhere":
        head[-1 if differ == "at the end" else 0] += 1
    tensors["lm_head.weight"] = head
    (src / "model.safetensors").unlink()
    if file.endswith(".bin"):
        torch.save(tensors, src / file)
    else:
        save_file(tensors, src / file, metadata={"format": "pt"})
    hub.add("a/stored", src)
    notes = json.loads(run("plan", "--src", "a/stored", *GROWTH, "--json").stdout)["notes"]
    assert [note[: len(NOT_IN_FULL)] for note in notes] == [NOT_IN_FULL] * noted


@pytest.mark.parametrize("differ", [False, True], ids=["the same", "another"])
def test_a_plan_looks_whether_a_stored_head_is_the_tied_one(
    differ: bool, hub: LocalHub, run: Run, tmp_path: Path
) -> None:

    src = models.build("llama-gqa-tied", tmp_path / "src")
    tensors = load_file(src / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * (2 if differ else 1)
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    hub.add("a/stored", src)
    planned, local = (json.loads(run("plan", "--src", place, *GROWTH, "--json").stdout) for place in ("a/stored", src))
    for found in (planned, local):
        del found["verification"]["free_bytes"]  # which changes from moment to moment
    assert planned == local
    assert planned["head"]["tied"] is not differ


def test_a_plan_of_a_model_of_text_and_pictures_reads_headers_alone(hub: LocalHub, run: Run, tmp_path: Path) -> None:
    src = wrapped.build("gemma3", tmp_path / "src", torch.bfloat16)
    hub.add("a/gemma-3", src)
    planned = plan_of(run, "a/gemma-3")
    assert planned == plan_of(run, src)
    assert planned["config"]["text_config.hidden_size"] == {"before": 64, "after": 128}
    assert fetched(hub.asked(CONTENT)) == ["config.json", "model.safetensors"]
    assert sent_bytes(hub.asked(WEIGHTS)) <= 1 << 17 < (src / "model.safetensors").stat().st_size
