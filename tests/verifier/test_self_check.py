"""`families --check`: every table against the installed transformers, and every kind of tensor matters to that."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from hyperclone_cli.cli.checking import families
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.families import FAMILIES, families_named
from hyperclone_cli.families.vocabulary import linear
from hyperclone_cli.growth.request import Request
from hyperclone_cli.progress import Progress
from hyperclone_cli.verifier.self_check import (
    DEEPER,
    GROWTHS,
    TOLERANCE,
    check_family,
    known_here,
    randomise,
    tiny_config,
)
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.command_line import hyperclone

INSENSITIVE = {
    "a key's bias adds the same to all scores of a query, and softmax takes it away": {
        "opt": ["model.decoder.layers.*.self_attn.k_proj.bias"],
        "biogpt": ["biogpt.layers.*.self_attn.k_proj.bias"],
        "biogpt (unscaled embedding)": ["biogpt.layers.*.self_attn.k_proj.bias"],
    },
}
"""Tensors that the architecture itself does not see: why → architecture → their names."""


TEXT = [name for name, family in FAMILIES.items() if not family.wrapping and family.model_type in CONFIG_MAPPING]


@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "qwen3_moe (fused experts)", "mamba2", "gemma4_text", "dbrx", "gemma3"]
)
def test_clones_of_a_tiny_model_are_the_same_function(name: str) -> None:
    """All others are held against their sources below, and in tests of their own."""
    trial = check_family(FAMILIES[name])
    assert trial.passed, trial
    assert set(trial.errors) == {*GROWTHS, DEEPER}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @functools.cache
    def build(name: str) -> Path:
        family = FAMILIES[name]
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family.model_type, **tiny_config(family)))
        randomise(model)
        model.save_pretrained(path := tmp_path_factory.mktemp("source") / family.model_type)
        return path

    return build


@pytest.mark.parametrize("name", TEXT)
def test_every_kind_of_tensor_matters_to_the_check(name: str, source: Callable[[str], Path], tmp_path: Path) -> None:
    expand(source(name), tmp_path / "clone", Request(embed_mult=2, ffn_mult=2))
    clone, expected = models.load(tmp_path / "clone"), models.logits(models.load(source(name)))
    unseen = [kind for family in INSENSITIVE.values() for kind in family.get(name, [])]
    kinds: dict[str, list[torch.nn.Parameter]] = {}
    for parameter, weight in clone.named_parameters():
        kinds.setdefault(re.sub(r"\.\d+\.", ".*.", parameter), []).append(weight)
    assert set(unseen) <= set(kinds)
    generator = torch.Generator().manual_seed(1)
    for kind, weights in kinds.items():
        kept = [weight.detach().clone() for weight in weights]
        for weight in weights:
            size = weight.square().mean().sqrt()
            weight.data += 0.5 * size * torch.randn(weight.shape, generator=generator)
        error = models.relative_error(models.logits(clone), expected)
        assert (error > 10 * TOLERANCE) is (kind not in unseen), f"{kind}: {error:.1e}"
        for weight, old in zip(weights, kept, strict=True):
            weight.data = old
    assert models.relative_error(models.logits(clone), expected) <= TOLERANCE


WRONG = {
    "query heads interleaved": FAMILIES["llama"].variant(
        "llama", tensors={"model.layers.*.self_attn.q_proj": linear("query heads", "embed")}
    ),
    "a module unknown": FAMILIES["llama"].without("model.norm"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_table_fails_the_check(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "llama", WRONG[mistake])
    assert not check_family(WRONG[mistake]).passed


def test_the_check_names_what_was_tried_and_with_which_transformers() -> None:
    found = json.loads(hyperclone("families", "gpt2", "--check", "--json").stdout)
    assert found["families"]["gpt2"]["passed"]
    assert set(found["families"]["gpt2"]["relative_logit_errors"]) == {"2", "3", "depth"}
    assert found["transformers"][0].isdecimal()


def test_what_transformers_itself_does_not_run_is_no_failure_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "5.3.0")
    trial = check_family(FAMILIES["recurrent_gemma"])
    assert "leaves the rotary frequencies" in trial.not_run
    assert not trial.passed
    assert not trial.failure
    with pytest.raises(CheckpointError, match="1 of 1 architectures could not be tried: recurrent_gemma"):
        families(["recurrent_gemma"], check=True)


def test_a_name_stands_for_all_its_layouts() -> None:
    assert [family.name for family in families_named(["gpt_bigcode"])] == ["gpt_bigcode (multi-head)", "gpt_bigcode"]


def test_what_an_older_transformers_does_not_know_is_left_out() -> None:
    llama = FAMILIES["llama"]
    assert known_here([llama, llama.variant("unheard_of")], Progress()) == [llama]
