"""A clone of a clone is verified against every ancestor, and what was changed on the way is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hyperclone_cli.errors import OUTPUTS_ALONE, CheckpointError, RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import STRATEGIES, Mixing, Strategy
from hyperclone_cli.verifier import Report, verify
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.command_line import hyperclone

Sources = Callable[[str], Path]
WIDER = Request(embed_mult=2, ffn_mult=2)


def by(strategy: Strategy, **sizes: float) -> Request:
    return Request(**({"embed_mult": 2, "ffn_mult": 2} | sizes), mixing=Mixing(strategy=strategy))  # type: ignore[arg-type]


def grow(src: Path, *requests: Request) -> list[Path]:
    """Clones of `src`, each of the one before, beside one another."""
    chain = [src]
    for number, request in enumerate(requests, 1):
        out = src.parent / f"{src.name}-grown-{number}"
        expand(chain[-1], out, request)
        chain.append(out)
    return chain[1:]


@pytest.fixture
def root(source: Sources, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source("llama-gqa-tied"), tmp_path / "root"))


@pytest.fixture
def pair(root: Path) -> tuple[Path, Path, Path]:
    """A model, its clone, and the clone's clone."""
    return root, *grow(root, by("halving"), by("symmetric", ffn_mult=1))  # type: ignore[return-value]


def assert_whole_way(report: Report, growths: int) -> None:
    assert report.passed, report.failures
    assert not report.outputs_alone
    assert report.growths == growths
    assert report.weights is not None
    assert report.weights.worst <= 1e-5
    if report.logits:
        assert report.logits.relative_error <= 1e-5
        assert max(error for _, error in report.logits.layers) <= 1e-5


@pytest.mark.parametrize("first", STRATEGIES)
def test_every_pair_of_strategies_is_verified_against_the_first_source(first: Strategy, root: Path) -> None:
    (middle,) = grow(root, by(first))
    for second in STRATEGIES:
        (clone,) = grow(middle, by(second, ffn_mult=1))
        assert_whole_way(verify(clone, root, weights_only=True), 2)
        shutil.rmtree(clone)


@pytest.mark.parametrize(
    "variant, requests",
    [
        ("llama-gqa-tied", [by("uneven"), by("halving", embed_mult=1.5), by("symmetric", ffn_mult=3)]),
        ("llama-gqa-tied", [Request(embed_mult=1.5, heads_mult=1), Request(embed_mult=2, ffn_mult=1.5)]),
        ("llama-gqa-tied", [Request(heads_mult=2), Request(head_dim_mult=2), Request(kv_heads_mult=2)]),
        ("llama-gqa-tied", [Request(depth_mult=2), Request(embed_mult=2, depth_mult=1.5), WIDER]),
        ("opt-350m", [WIDER, Request(embed_mult=2, tie_embeddings="untie")]),
        ("pythia-tied", [Request(embed_mult=1.5), Request(embed_mult=2, mixing=Mixing(noise_snr_db=20))]),
        ("gemma3-mqa", [Request(embed_mult=2, mixing=Mixing(noise_snr_db=20)), Request(embed_mult=2, depth_mult=2)]),
        ("gpt2", [WIDER, Request(embed_mult=3)]),
        ("mixtral", [Request(num_experts=8, experts_per_token=4), Request(embed_mult=2, depth_mult=2)]),
    ],
)
def test_chains_of_two_and_three_are_verified_against_each_ancestor(
    variant: str, requests: list[Request], source: Sources, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(source(variant), tmp_path / "root"))
    chain = [root, *grow(root, *requests)]
    assert_whole_way(verify(chain[-1], root, new_tokens=2), len(requests))
    for number, ancestor in enumerate(chain[1:-1], 1):
        assert_whole_way(verify(chain[-1], ancestor, weights_only=True), len(requests) - number)


def test_a_chain_in_16_bits_is_verified_through_its_rounded_middle(tmp_path: Path) -> None:
    root = models.build("llama-gqa-tied", tmp_path / "root", torch.bfloat16)
    *_, clone = grow(root, Request(embed_mult=1.5, heads_mult=1), Request(embed_mult=2, ffn_mult=2))
    report = verify(clone, root, new_tokens=2)
    assert report.passed, report.failures
    assert report.growths == 2


def test_where_the_middle_is_gone_the_end_that_is_there_is_taken(pair: tuple[Path, Path, Path]) -> None:
    root, middle, clone = pair
    shutil.rmtree(middle)
    report = verify(clone, new_tokens=2)
    assert_whole_way(report, 2)
    assert any(f"{middle}, which it was grown from, is not there any more" in note for note in report.notes)
    shutil.rmtree(root)
    with pytest.raises(CheckpointError, match="does not exist"):
        verify(clone)


def halve_a_weight(path: Path) -> None:
    changed = models.edited(path, path.with_name("edited"), lambda tensors: tensors[DOWN].mul_(0.5))
    shutil.copy(path / "hyperclone.json", changed)
    shutil.rmtree(path)
    changed.rename(path)


DOWN = "model.layers.1.mlp.down_proj.weight"


def set_config(path: Path, **values: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize("edit", [halve_a_weight, lambda path: set_config(path, rms_norm_eps=1e-3)])
def test_a_middle_that_was_edited_before_it_was_grown_is_named(edit: Callable[[Path], object], root: Path) -> None:
    (middle,) = grow(root, by("halving"))
    edit(middle)
    (clone,) = grow(middle, by("symmetric"))
    assert verify(clone, new_tokens=2).passed  # of what it was grown from it is a true clone
    report = verify(clone, root, new_tokens=2)
    assert not report.passed
    assert f"{middle} was another model, when it was grown" in " ".join((*report.failures, *report.notes))


def test_a_middle_that_was_edited_afterwards_does_no_harm(pair: tuple[Path, Path, Path]) -> None:
    root, middle, clone = pair
    halve_a_weight(middle)
    assert_whole_way(verify(clone, root, new_tokens=2), 2)


def test_where_the_clone_itself_was_changed_it_is_said(pair: tuple[Path, Path, Path]) -> None:
    root, _, clone = pair
    halve_a_weight(clone)
    report = verify(clone, root, weights_only=True)
    assert report.failures[0].startswith("lineage: every model between was as it was grown")
    assert any(DOWN in failure for failure in report.failures)


def test_growths_in_another_order_are_caught(root: Path) -> None:
    one, other = by("halving"), by("uneven")
    (first,) = grow(root, one)
    *_, clone = grow(first, other)
    shutil.copytree(root, root.with_name("again"))
    *_, swapped = grow(root.with_name("again"), other, one)
    shutil.copy(swapped / "model.safetensors", clone)
    report = verify(clone, root, weights_only=True)
    assert report.failures[0].startswith("lineage: every model between was as it was grown: the clone itself")
    record = json.loads((swapped / "hyperclone.json").read_text())
    own, (earlier,) = {key: record[key] for key in ("source", "request", "plan_digest")}, record["lineage"]
    (swapped / "hyperclone.json").write_text(json.dumps(record | earlier | {"lineage": [own]}))
    report = verify(swapped, root, weights_only=True)
    assert report.failures[0].startswith("lineage: the growths are recorded in another order")


def test_of_a_model_that_is_no_ancestor_the_outputs_are_compared_and_the_first_line_says_so(
    pair: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    root, middle, clone = pair
    same = models.edited(root, tmp_path / "same", rope_theta=10000.0, made_by="hand")
    asked = ["verify", clone, "--src", same, "--new-tokens", 2]
    shown = hyperclone(*asked, code=OUTPUTS_ALONE, cwd=tmp_path).stdout.splitlines()
    words = f"The clone was grown from {middle}, and that from {root}, not from same: only what the two models compute"
    assert shown[0].startswith(words)
    assert shown[-1] == f"passed, by their outputs alone: {clone} against same"
    with pytest.raises(RequestError, match="their weights cannot be compared"):
        verify(clone, same, weights_only=True)
    other = models.build("llama-gqa-tied", tmp_path / "other", seed=7)
    set_config(other, made_by="hand")
    failed = hyperclone("verify", clone, "--src", other, "--new-tokens", 2, code=4).stdout.splitlines()
    assert failed[0].startswith("The clone was grown from")
    assert any("logits: relative error" in line for line in failed)
