"""Architectures that fuse or transpose their tensors: the same function at every growth, or a refusal that says why."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from hyperclone_cli import budget, expander
from hyperclone_cli.axes import conv1d, embedding, linear
from hyperclone_cli.clone import expand
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import FAMILIES, Family, Fold
from hyperclone_cli.inspector import inspect
from hyperclone_cli.memory import clone_model
from hyperclone_cli.mixing import Mixing
from hyperclone_cli.planner import make_plan
from hyperclone_cli.request import Request
from hyperclone_cli.source import open_source
from hyperclone_cli.verifier import verify
from models_fused import GPT, VARIANTS

Sources = Callable[[str], Path]

GROWTHS = {
    "twice": Request(embed_mult=2, ffn_mult=2),
    "three times": Request(embed_mult=3, ffn_mult=3),
    "twice, uneven and noisy": Request(embed_mult=2, ffn_mult=2, mixing=Mixing("uneven", noise_snr_db=10)),
    "half as wide again": Request(embed_mult=1.5),
    "larger heads": Request(embed_mult=2, ffn_mult=2, head_dim_mult=2),
    "feed-forward alone": Request(ffn_mult=2.5),
}

POST_NORM = "norms after the residual sum leave no room for padding"
FOUR_TIMES = "it is 4 × n_embd"
REFUSED: dict[tuple[str, str], str] = {
    ("gpt2-unscaled", "larger heads"): "no head size scales the scores",
    ("openai-gpt", "half as wide again"): POST_NORM,
    ("openai-gpt-untied", "half as wide again"): POST_NORM,
    ("openai-gpt", "feed-forward alone"): FOUR_TIMES,
    ("openai-gpt-untied", "feed-forward alone"): FOUR_TIMES,
    ("codegen-tied", "half as wide again"): "heads come in 4 blocks",
    ("falcon-rw", "larger heads"): "slopes are divided by the root of the head size",
    ("phi-gqa-tied-qk-norms", "larger heads"): "LayerNorm of queries and keys leaves no room",
    ("persimmon", "larger heads"): "LayerNorm of queries and keys leaves no room",
    ("phi3-longrope", "larger heads"): "rotary positions of type 'longrope'",
}
"""What an architecture cannot have, and what it says; everything else is exact."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    @functools.cache
    def build(variant: str) -> Path:
        return models.build(VARIANTS[variant], tmp_path_factory.mktemp("source") / variant)

    return build


@pytest.fixture(scope="module")
def computed(source: Sources) -> Callable[[str], tuple[torch.Tensor, torch.Tensor]]:
    """`computed(variant)`: what the source's logits are, and how it continues the prompts."""

    @functools.cache
    def run(variant: str) -> tuple[torch.Tensor, torch.Tensor]:
        model = models.load(source(variant))
        return models.logits(model), models.decode(model)

    return run


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_growth_is_the_same_function_or_refused(
    variant: str,
    growth: str,
    source: Sources,
    computed: Callable[[str], tuple[torch.Tensor, torch.Tensor]],
    tmp_path: Path,
) -> None:
    clone = tmp_path / "clone"
    if (variant, growth) in REFUSED:
        with pytest.raises(RequestError, match=REFUSED[variant, growth]):
            expand(source(variant), clone, GROWTHS[growth])
        return
    expand(source(variant), clone, GROWTHS[growth])
    logits, decoded = computed(variant)
    model = models.load(clone)
    assert models.relative_error(models.logits(model), logits) <= 1e-5
    assert torch.equal(models.decode(model), decoded)
    report = verify(clone, weights_only=True)
    assert report.passed, report.failures


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if (variant, "twice") not in REFUSED])
def test_verify_passes(variant: str, source: Sources, tmp_path: Path) -> None:
    expand(source(variant), tmp_path / "clone", GROWTHS["twice, uneven and noisy"])
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


def with_rule(name: str, module: str, form: Any) -> Family:
    assert module in FAMILIES[name].tensors
    return replace(FAMILIES[name], tensors={**FAMILIES[name].tensors, module: form})


def without_size(name: str, axis: str) -> Family:
    return replace(
        FAMILIES[name], sizes={key: FAMILIES[name].sizes[key] for key in FAMILIES[name].sizes if key != axis}
    )


HEAD_BY_HEAD, PART_BY_PART = "heads query+key+value", "heads query | heads key | heads value"
WRONG: dict[str, tuple[str, str, Family]] = {
    "GPT-2's attention head by head": (
        "gpt2",
        "twice",
        with_rule("gpt2", "transformer.h.*.attn.c_attn", conv1d("embed", HEAD_BY_HEAD)),
    ),
    "BigCode's attention part by part": (
        "gpt_bigcode-mha-untied",
        "twice",
        with_rule("gpt_bigcode (multi-head)", "transformer.h.*.attn.c_attn", linear(PART_BY_PART, "embed")),
    ),
    "Falcon's groups part by part": (
        "falcon-40b",
        "twice",
        with_rule(
            "falcon (new decoder)",
            "transformer.h.*.self_attention.query_key_value",
            linear("heads query | kv_heads key | kv_heads value", "embed"),
        ),
    ),
    "gate and up unit by unit": (
        "phi3",
        "twice",
        with_rule("phi3", "model.layers.*.mlp.gate_up_proj", linear("ffn 2", "embed")),
    ),
    "the first norm of the last block before the head": (
        "openai-gpt",
        "twice",
        replace(FAMILIES["openai-gpt"], folds=(Fold("transformer.h.-1.ln_1"),)),
    ),
    "no root of the width on the embeddings": (
        "biogpt",
        "twice",
        with_rule("biogpt", "biogpt.embed_tokens", embedding("vocab", "embed")),
    ),
    "CodeGen's attention without its four blocks": (
        "codegen",
        "twice",
        replace(
            with_rule(
                "codegen", "transformer.h.*.attn.qkv_proj", linear("heads query | heads value | heads key", "embed")
            ),
            fixed={},
        ),
    ),
    "rotary pairs as halves": ("gptj", "larger heads", replace(FAMILIES["gptj"], rotary="halves")),
    "rotary halves as pairs": ("phi", "larger heads", replace(FAMILIES["phi"], rotary="pairs")),
    "rotary units that do not grow with the head": ("gptj", "larger heads", without_size("gptj", "rotary")),
    "scores taken as scaled": ("gpt_neo", "larger heads", replace(FAMILIES["gpt_neo"], query_scalar="")),
    "padding of zeros under LayerNorm": ("gpt2", "half as wide again", replace(FAMILIES["gpt2"], norm="rms")),
    "ALiBi as if heads did not matter": (
        "falcon-rw",
        "twice",
        replace(FAMILIES["falcon (multi-head)"], alibi=None),
    ),
}


@pytest.mark.parametrize("variant, growth, wrong", WRONG.values(), ids=list(WRONG))
def test_a_wrong_table_shows(
    variant: str,
    growth: str,
    wrong: Family,
    source: Sources,
    computed: Callable[[str], tuple[torch.Tensor, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FAMILIES, wrong.name, wrong)
    expand(source(variant), tmp_path / "clone", GROWTHS[growth])
    assert models.relative_error(models.logits(models.load(tmp_path / "clone")), computed(variant)[0]) > 1e-3


@pytest.mark.parametrize("growth", ["three times", "half as wide again", "twice, uneven and noisy"])
def test_a_transposed_tensor_may_be_cut_into_blocks_anywhere(
    growth: str, source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expand(source("gpt2"), tmp_path / "whole", GROWTHS[growth])
    monkeypatch.setattr(budget, "LARGEST_BLOCK_BYTES", 5000)
    plan = expand(source("gpt2"), tmp_path / "cut", GROWTHS[growth])
    tensor = next(tensor for tensor in plan.tensors if tensor.source.transposed)
    assert len(list(expander.blocks(tensor, 5000))) > 3
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_transposed_tensors_are_the_same_from_bin_files_and_in_memory(source: Sources, tmp_path: Path) -> None:
    request = GROWTHS["three times"]
    expand(source("gpt2"), tmp_path / "clone", request)
    expected = load_file(tmp_path / "clone/model.safetensors")

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/config.json").write_bytes((source("gpt2") / "config.json").read_bytes())
    torch.save(load_file(source("gpt2") / "model.safetensors"), tmp_path / "bin/pytorch_model.bin")
    expand(tmp_path / "bin", tmp_path / "from bin", request)
    found = load_file(tmp_path / "from bin/model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    grown = clone_model(models.load(source("gpt2")), embed_mult=3, ffn_mult=3).state_dict()
    assert all(torch.equal(grown[name], expected[name]) for name in expected)


def test_shapes_are_those_on_disk(source: Sources) -> None:
    plan = make_plan(open_source(source("gpt2-untied-n_inner")), Request(embed_mult=2, ffn_mult=3))
    shapes = {tensor.name: tensor.shape for tensor in plan.tensors}
    assert shapes["transformer.h.0.attn.c_attn.weight"] == (96, 288)
    assert shapes["transformer.h.0.mlp.c_fc.weight"] == (96, 240)
    assert shapes["transformer.h.0.mlp.c_proj.weight"] == (240, 96)
    assert shapes["transformer.h.0.mlp.c_fc.bias"] == (240,)


def test_a_weight_that_is_not_transposed_is_refused_by_its_shape_on_disk(source: Sources, tmp_path: Path) -> None:
    src = copy(source("gpt2"), tmp_path / "src")
    tensors = load_file(src / "model.safetensors")
    tensors["transformer.h.0.mlp.c_fc.weight"] = tensors["transformer.h.0.mlp.c_fc.weight"].T.contiguous()
    save_file(tensors, src / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"makes dimension 1 \(ffn\) 192, found shape \[192, 48\]"):
        expand(src, tmp_path / "clone", Request(embed_mult=2))


def test_the_copies_of_transposed_tensors_are_told_apart(source: Sources, tmp_path: Path) -> None:
    expand(source("gpt2"), tmp_path / "alike", replace(GROWTHS["twice"], mixing=Mixing("symmetric")))
    expand(source("gpt2"), tmp_path / "noisy", GROWTHS["twice, uneven and noisy"])
    for name, alike in (("alike", True), ("noisy", False)):
        found = inspect(tmp_path / name, gradients=True)
        assert found.gradients is not None
        assert found.gradients.largest_difference is not None
        assert (found.gradients.largest_difference < 1e-3) is alike
        inner = [layer for layer in found.layers if layer.part == "feed-forward"]
        assert len(inner) == 2
        for layer in inner:
            assert layer.outputs is not None
            assert layer.inputs is not None
            assert (min(layer.outputs, layer.inputs) > 0.999999) is alike


def copy(src: Path, to: Path, **changes: Any) -> Path:
    """A checkpoint with `changes` to its config; None takes a key out."""
    to.mkdir()
    config = json.loads((src / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps({key: item for key, item in config.items() if item is not None}))
    (to / "model.safetensors").write_bytes((src / "model.safetensors").read_bytes())
    return to


def assert_doubles(src: Path, clone: Path) -> dict[str, Any]:
    """Assert that twice the source is the same function; the clone's config."""
    expand(src, clone, GROWTHS["twice"])
    error = models.relative_error(models.logits(models.load(clone)), models.logits(models.load(src)))
    assert error <= 1e-5
    report = verify(clone)
    assert report.passed, report.failures
    config: dict[str, Any] = json.loads((clone / "config.json").read_text())
    return config


def test_a_number_may_go_by_another_name(source: Sources, tmp_path: Path) -> None:
    src = copy(source("gpt2"), tmp_path / "src", n_embd=None, hidden_size=48, n_head=4, num_attention_heads=4)
    config = assert_doubles(src, tmp_path / "clone")
    assert "n_embd" not in config
    assert [config[key] for key in ("hidden_size", "n_head", "num_attention_heads")] == [96, 8, 8]


def test_names_that_contradict_each_other_are_refused(source: Sources, tmp_path: Path) -> None:
    src = copy(source("gpt2"), tmp_path / "src", hidden_size=96)
    with pytest.raises(CheckpointError, match="n_embd 48 and hidden_size 96 contradict"):
        expand(src, tmp_path / "clone", GROWTHS["twice"])


def test_a_width_that_is_left_to_the_architecture_is_written_out(source: Sources, tmp_path: Path) -> None:
    assert json.loads((source("gpt2") / "config.json").read_text())["n_inner"] is None
    expand(source("gpt2"), tmp_path / "clone", Request(embed_mult=2))
    assert json.loads((tmp_path / "clone/config.json").read_text())["n_inner"] == 192


def test_the_file_of_gpt2_on_the_hub(source: Sources, tmp_path: Path) -> None:
    """Without the base model's prefix, and with the causal masks that old versions saved."""
    src = copy(source("gpt2"), tmp_path / "src")
    tensors = {
        name.removeprefix("transformer."): tensor for name, tensor in load_file(src / "model.safetensors").items()
    }
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64).tril() for layer in range(2)}
    save_file(tensors | masks, src / "model.safetensors", metadata={"format": "pt"})
    plan = expand(src, tmp_path / "clone", GROWTHS["twice"])
    assert set(plan.dropped) == set(masks)
    logits = models.logits(models.load(source("gpt2")))
    assert models.relative_error(models.logits(models.load(tmp_path / "clone")), logits) <= 1e-5


@pytest.mark.parametrize("variant", ["gpt_bigcode-mqa", "falcon-7b"])
def test_a_single_key_value_head_stays_single(variant: str, source: Sources, tmp_path: Path) -> None:
    before, after = make_plan(open_source(source(variant)), GROWTHS["twice"]).kv_cache_bytes()
    assert before == after
    with pytest.raises(RequestError, match="the number of key/value heads is no choice"):
        expand(source(variant), tmp_path / "clone", Request(embed_mult=2, num_kv_heads=2))


@pytest.mark.parametrize("variant", ["codegen", "phi-gqa-tied-qk-norms", "gpt2"])
def test_the_cache_grows_as_transformers_fills_it(variant: str, source: Sources, tmp_path: Path) -> None:
    plan = expand(source(variant), tmp_path / "clone", GROWTHS["twice"])
    for path, planned in zip((source(variant), tmp_path / "clone"), plan.kv_cache_bytes(), strict=True):
        cache = models.load(path)(models.tokens(rows=1, length=10), use_cache=True).past_key_values
        assert sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) == 10 * planned


@pytest.mark.parametrize("variant", ["gpt2", "gptj", "falcon-40b", "phi3"])
def test_a_number_of_parameters_leads_to_the_closest_shape(variant: str, source: Sources, tmp_path: Path) -> None:
    expand(source(variant), tmp_path / "clone", Request(target_params="600K", multiple_of=8))
    assert abs(models.load(tmp_path / "clone").num_parameters() / 600_000 - 1) <= 0.05
    report = verify(tmp_path / "clone", weights_only=True)
    assert report.passed, report.failures


def test_bfloat16_halves_of_a_transposed_tensor_are_exact(tmp_path: Path) -> None:
    src = models.build(("gpt2", GPT), tmp_path / "src", torch.bfloat16)
    plan = expand(src, tmp_path / "clone", GROWTHS["twice"])
    assert plan.rounded() == []
    weight = load_file(src / "model.safetensors")["transformer.h.1.mlp.c_proj.weight"]
    grown = load_file(tmp_path / "clone/model.safetensors")["transformer.h.1.mlp.c_proj.weight"]
    assert torch.equal(grown, torch.cat([torch.cat([weight, 0 * weight]), torch.cat([weight / 2] * 2)], 1))
