"""What stock transformers makes of source and clone is known before anything that is written counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hyperclone_cli.checkpoint.json_config import read_json
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.errors import CheckpointError, HypercloneError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from hyperclone_cli.writing.preflight import check_loads
from support import models
from support.command_line import hyperclone
from support.models import EACH, VARIANTS, edited

TWICE = Request(embed_mult=2, ffn_mult=2)

SWITCHED_IN_FULL = {
    "llama-mha": ("attention_bias", True),
    "arcee": ("mlp_bias", False),
    "starcoder2": ("use_bias", False),
    "falcon-7b": ("bias", True),
    "stablelm-parallel-tied-biases": ("use_qkv_bias", False),
    "jamba": ("mamba_proj_bias", False),
    "mamba2": ("use_conv_bias", False),
    "qwen3_moe": ("attention_bias", False),
    "opt-no-bias": ("enable_bias", True),
}
"""Variant → a key that is grown, written and run as well. True: biases that the config promises are not stored."""

HAS_NO_PADDING_ROW = (
    "nemotron_h",
    "gpt2",
    "gpt_big",
    "gpt_neo",
    "gptj",
    "openai",
    "codegen",
    "pythia",
    "falcon",
    "bloom",
    "mpt",
    "mamba",
    "rwkv",
    "xlstm",
)
"""The beginnings of architectures whose embedding knows no padding, so that any pad_token_id is accepted."""

SWITCHES = dict.fromkeys([*EACH.values(), *SWITCHED_IN_FULL, *(name for name in VARIANTS if "bias" in name)])
"""Variants whose boolean keys that speak of biases are turned over, each in turn."""

CUT = ["llama-gqa-tied", "olmo2", "opt-125m", "gpt2", "bloom", "falcon-7b", "pythia", "mixtral", "phi", "rwkv"]


def set_config(src: Path, out: Path, **values: Any) -> Path:
    """Copy a checkpoint to `out`, and give its config other values."""
    shutil.copytree(src, out)
    (out / "config.json").write_text(json.dumps(read_json(src / "config.json") | values))
    return out


def checked(src: Path) -> Plan:
    return check_loads(make_plan(open_source(src), TWICE))


def stock_logits(path: Path) -> torch.Tensor:
    """The logits of a checkpoint with whatever it lacks or has too much."""
    return models.logits(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval())


def assert_grows_as_stock_sees_it(src: Path, clone: Path) -> None:
    expand(src, clone, TWICE)
    assert models.relative_error(models.logits(models.load(clone)), stock_logits(src)) <= 1e-5
    report = verify(clone)
    assert report.passed, report.failures


NEVER_READ = {
    ("nemotron_h", "attention_bias"),
    ("nemotron_h", "use_conv_bias"),
    ("nemotron_h", "mamba_proj_bias"),
    ("deepseek_v32", "mlp_bias"),
    ("dots3_note", "mlp_bias"),
    ("deepseek_v4", "attention_bias"),
    ("zamba2", "use_conv_bias"),
    ("glm_moe_dsa-tied", "mlp_bias"),
}
"""(variant, key) that the class takes no notice of, or of whose stored biases transformers says nothing."""

OTHER_NAMES = {("exaone-tied", "attention_bias"), ("exaone-tied", "mlp_bias"), ("sarvam_moe-tied", "attention_bias")}
OTHER_NAMES |= {("hrm_text", "attention_bias"), ("hrm_text", "mlp_bias"), ("bailing_hybrid", "attention_bias")}
OTHER_NAMES |= {
    ("deepseek_v4", "mlp_bias"),
    ("dory", "attention_bias"),
    ("dory", "mlp_bias"),
    ("hy_v3", "mlp_bias"),
    ("nemotron_h", "mlp_bias"),
    ("nemotron_h", "use_bias"),
}
"""(variant, key) whose biases transformers misses under names in memory, which are not those of the checkpoint."""


@pytest.mark.parametrize("variant", SWITCHES)
def test_every_switch_of_biases_does_what_it_does_in_transformers(
    variant: str, source: Callable[[str], Path], tmp_path: Path
) -> None:
    config = read_json(source(variant) / "config.json")
    for key, value in config.items():
        if type(value) is not bool or "bias" not in key:
            continue
        src = set_config(source(variant), tmp_path / key, **{key: not value})
        if variant.startswith("internlm3"):
            with pytest.raises(CheckpointError, match="transformers refuses the config"):
                checked(src)
            continue
        if (variant, key) in OTHER_NAMES:
            with pytest.raises(CheckpointError, match=r"no rule of .* fits "):
                checked(src)
            continue
        found = checked(src).source
        zeros = [tensor.name for tensor in found.tensors.values() if tensor.zeros]
        if key != "no_bias" and (variant, key) not in NEVER_READ:  # MPT's no_bias is never read
            assert bool(found.ignored) == value
            assert bool(zeros) != value
        assert all(name.endswith("bias") for name in (*found.ignored, *zeros))


@pytest.mark.parametrize("variant", SWITCHED_IN_FULL)
def test_biases_are_written_as_transformers_sees_them(
    variant: str, source: Callable[[str], Path], tmp_path: Path
) -> None:
    key, value = SWITCHED_IN_FULL[variant]
    src = set_config(source(variant), tmp_path / "src", **{key: value})
    assert_grows_as_stock_sees_it(src, tmp_path / "clone")
    changed = {name for name in load_file(tmp_path / "clone" / "model.safetensors") if name.endswith("bias")}
    stored = {name for name in load_file(src / "model.safetensors") if name.endswith("bias")}
    assert changed > stored if value else changed < stored


def test_a_bias_that_one_layer_lacks_is_no_bias_of_zeros(source: Callable[[str], Path], tmp_path: Path) -> None:
    src = edited(source("qwen2"), tmp_path / "src", lambda t: t.pop("model.layers.1.self_attn.q_proj.bias"))
    with pytest.raises(CheckpointError, match=r"missing tensors: model.layers.1.self_attn.q_proj.bias"):
        expand(src, tmp_path / "clone", TWICE)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_zeros_are_noted_recorded_and_verified(kind: str, source: Callable[[str], Path], tmp_path: Path) -> None:
    def without_output_biases(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("o_proj.bias")]:
            del tensors[name]

    src = edited(source("llama-head_dim-biases"), tmp_path / "src", without_output_biases)
    if kind == "bin":
        torch.save(load_file(src / "model.safetensors"), src / "pytorch_model.bin")
        (src / "model.safetensors").unlink()
    result = hyperclone("expand", "--src", src, "--embed-mult", 2, "--out", tmp_path / "clone")
    names = [f"model.layers.{layer}.self_attn.o_proj.bias" for layer in (0, 1)]
    assert f"written as zeros, which transformers takes it for: {', '.join(names)}" in result.stderr
    assert list(read_json(tmp_path / "clone" / "hyperclone.json")["zeros"]) == names
    tensors = load_file(tmp_path / "clone" / "model.safetensors")
    assert not any(tensors[name].any() for name in names)
    hyperclone("verify", tmp_path / "clone")
    hyperclone("inspect", tmp_path / "clone")


@pytest.mark.parametrize("variant", EACH.values())
def test_a_padding_token_beyond_the_vocabulary_is_found_where_transformers_minds(
    variant: str, source: Callable[[str], Path], tmp_path: Path
) -> None:
    vocabulary = int(read_json(source(variant) / "config.json")["vocab_size"])
    src = set_config(source(variant), tmp_path / "src", pad_token_id=vocabulary)
    if variant.startswith(HAS_NO_PADDING_ROW) and not variant.startswith("falcon_h1"):
        checked(src)
        return
    with pytest.raises(CheckpointError, match="transformers refuses the model") as refusal:
        expand(src, tmp_path / "clone", TWICE)
    assert f"pad_token_id {vocabulary} is beyond the" in refusal.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


@pytest.mark.parametrize("variant", CUT)
def test_layers_beyond_those_of_the_config_are_left_out(
    variant: str, source: Callable[[str], Path], tmp_path: Path
) -> None:
    stated = make_plan(open_source(source(variant)), TWICE)
    key, layers = stated.family.sizes["layers"], stated.proposal.sizes["layers"]
    src = set_config(source(variant), tmp_path / "src", **{key: layers - 1})
    assert_grows_as_stock_sees_it(src, tmp_path / "clone")
    plan = make_plan(open_source(src), TWICE)
    assert len(plan.dropped) > len(stated.dropped)
    assert any("beyond those that config.json states" in note for note in plan.notes)


@pytest.mark.parametrize("variant", ["llama-mha", "gpt2", "gemma2"])
def test_a_value_head_is_left_out(variant: str, source: Callable[[str], Path], tmp_path: Path) -> None:
    def value_head(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {"v_head.summary.weight": torch.ones(1, 8), "v_head.summary.bias": torch.ones(1)}

    src = edited(source(variant), tmp_path / "src", value_head)
    assert_grows_as_stock_sees_it(src, tmp_path / "clone")
    assert any("a value head" in note for note in make_plan(open_source(src), TWICE).notes)


@pytest.mark.parametrize(
    "variant, changes, words",
    [
        ("llama-mha", {"rope_parameters": {"rope_type": "yarn"}}, "transformers refuses"),
        ("llama-mha", {"hidden_act": "no such function"}, "transformers refuses the model: .*no such function"),
        (
            "qwen2",
            {"layer_types": ["full_attention", "no such kind"]},
            "transformers refuses the config: .*layer_types",
        ),
    ],
)
def test_whatever_transformers_refuses_is_refused_and_leaves_nothing(
    variant: str, changes: dict[str, Any], words: str, source: Callable[[str], Path], tmp_path: Path
) -> None:
    src = set_config(source(variant), tmp_path / "src", **changes)
    with pytest.raises(HypercloneError, match=words) as refusal:
        expand(src, tmp_path / "clone", TWICE)
    assert refusal.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_a_model_type_that_transformers_does_not_know_is_named_with_the_next_step(
    source: Callable[[str], Path], tmp_path: Path
) -> None:
    src = edited(source("llama-mha"), tmp_path / "src", model_type="heronlm", architectures=["HeronForCausalLM"])
    with pytest.raises(CheckpointError, match="does not know model_type 'heronlm'") as refusal:
        expand(src, tmp_path / "clone", Request(embed_mult=2, family="llama"))
    assert '"model_type": "llama"' in refusal.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["src"]
    known = json.loads((src / "config.json").read_text()) | {"model_type": "llama"}
    (src / "config.json").write_text(json.dumps(known))
    assert_grows_as_stock_sees_it(src, tmp_path / "clone")


def test_several_threads_may_ask_at_once(source: Callable[[str], Path]) -> None:
    """Transformers replaces methods of its classes while it loads; overlapping loads would leave them replaced."""
    plan = make_plan(open_source(source("llama-gqa-tied")), TWICE)
    with ThreadPoolExecutor(8) as pool:
        assert all(found is plan for found in pool.map(check_loads, [plan] * 32))
    models.load(source("llama-gqa-tied"))
