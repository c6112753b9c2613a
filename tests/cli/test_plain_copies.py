"""`--depth-init copy`: plain copies of layers, which are another function by request, and never pass for the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli import plan
from hyperclone_cli.errors import RequestError
from hyperclone_cli.verifier import verify
from hyperclone_cli.verifier.html_report import render
from hyperclone_cli.verifier.verification_record import check_verified
from support.command_line import as_json, hyperclone

Sources = Callable[[str], Path]
COPIES = ["--depth-mult", 1.5, "--depth-order", "stack", "--depth-init", "copy"]
BY_REQUEST = "not function-preserving by request (--depth-init copy)"


@pytest.fixture
def clone(source: Sources, tmp_path: Path) -> Path:
    result = hyperclone("expand", "--src", source("llama-gqa-tied"), *COPIES, "--out", tmp_path / "clone")
    assert result.stdout.splitlines()[-1].startswith(f"{BY_REQUEST}: ")
    assert f"verified by its weights only: it is {BY_REQUEST}" in result.stderr
    return tmp_path / "clone"


def test_every_layer_is_that_of_the_source_whole(clone: Path, source: Sources) -> None:
    """What merging tools call passthrough: slices of layers, one after another."""
    tensors, before = load_file(clone / "model.safetensors"), load_file(source("llama-gqa-tied") / "model.safetensors")
    for number, of_source in enumerate([0, 1, 0]):
        names = [name for name in before if f".layers.{of_source}." in name]
        assert names
        for name in names:
            assert torch.equal(tensors[name.replace(f".{of_source}.", f".{number}.", 1)], before[name])
    assert sum(".layers." in name for name in tensors) == sum(".layers." in name for name in before) * 3 / 2
    assert all(torch.equal(tensors[name], before[name]) for name in before if ".layers." not in name)


def test_verify_compares_the_weights_and_ends_with_6(clone: Path) -> None:
    found = as_json(hyperclone("verify", clone, "--json", code=6))
    assert (found["passed"], found["failures"], found["by_request"]) == (False, [], BY_REQUEST)
    assert found["weights"]["elements"] > 0
    assert found["logits"] is None
    assert not (clone / "verification.json").exists()


def test_a_number_that_is_off_still_fails(clone: Path) -> None:
    tensors = load_file(clone / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][0, 0] += 0.5
    save_file(tensors, clone / "model.safetensors", metadata={"format": "pt"})
    result = hyperclone("verify", clone, code=4)
    assert "✗ tensor model.layers.2.mlp.up_proj.weight" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("FAILED")


def test_plan_card_record_and_page_say_so(clone: Path, source: Sources) -> None:
    planned = plan(source("llama-gqa-tied"), depth_mult=1.5, depth_order="stack", depth_init="copy")
    assert planned.as_json()["function_preserving"] is False
    assert BY_REQUEST in planned.notes[0]
    card = (clone / "README.md").read_text()
    assert f"**It is {BY_REQUEST}**" in card
    assert "computes the same function" not in card
    assert json.loads((clone / "hyperclone.json").read_text())["function_preserving"] is False
    page = render(verify(clone))
    assert "Not function-preserving, by request" in page
    assert "Passed" not in page


def test_push_needs_force(clone: Path) -> None:
    with pytest.raises(RequestError, match="never verified") as refusal:
        check_verified(clone)
    assert refusal.value.hint == "Push with --force."
    result = hyperclone(
        "expand", "--src", "x", *COPIES, "--out", clone.with_name("new"), "--push-to-hub", "a/b", code=2
    )
    assert "only a verified clone is pushed" in " ".join(result.stderr.split())
