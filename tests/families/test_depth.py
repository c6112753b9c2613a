"""Deeper clones of every architecture: the same function to stock transformers, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli import plan
from hyperclone_cli.errors import HypercloneError, RequestError
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.growth import depth
from hyperclone_cli.growth.depth import ClonedLayer
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.models import EACH, VARIANTS

Sources = Callable[[str], Path]

DEEPER = Request(depth_mult=2, embed_mult=2, ffn_mult=2)
ON_TOP = Request(depth_mult=2, depth_order="top", embed_mult=2, ffn_mult=2)
REFUSED = {
    "openai-gpt": "norms follow the residual sum",
    "gemma3n_text": "mixes several residual streams",
    "gpt_neox_japanese": "the last layer alone has a bias",
    "beam": "scaled by a root of the layer's number",
    "modernbert-decoder": "first layer alone has no norm",
    "olmo_hybrid": "stands before a block in some layers",
    "longcat_flash": "experts hand on what they read",
    "hrm_text": "as often as its stack runs",
    "zamba": "layers share the modules",
    "zamba2": "layers share the modules",
    "deepseek_v4": "each layer mixes several residual streams",
    "inkling2_text": "a mean of all sums before it",
    "inkling2_loop_text": "a mean of all sums before it",
    "zaya": "what the router of the layer before has read",
    "qwen4_exp_text": "each layer mixes several residual streams",
    "dory": "each layer divides the residual stream by its length",
    "minimax": "each norm takes the place of the residual stream",
}


@pytest.mark.parametrize("model_type", EACH)
def test_twice_as_many_layers_are_the_same_function_or_refused(
    model_type: str, source: Sources, tmp_path: Path
) -> None:
    src, out = source(EACH[model_type]), tmp_path / "clone"
    request = ON_TOP if model_type in ("diffllama", "glm_moe_dsa", "hy_v4") else DEEPER
    if model_type in REFUSED:
        with pytest.raises(RequestError, match=REFUSED[model_type]):
            expand(src, out, request)
        return
    expand(src, out, request)
    models.assert_same_function(src, out)


@pytest.mark.parametrize(
    "variant, layers, options",
    [
        # order, and numbers that are no multiple
        ("llama-gqa-tied", 5, {"num_layers": 7, "depth_order": "middle"}),
        ("gemma3-gqa", 3, {"depth_mult": 1.5, "depth_order": "stack", "layer_types": ["sliding_attention"] * 3}),
        ("gpt2-scaled-by-layer", 2, {"depth_mult": 1.5, "depth_order": "top"}),
        ("gpt_neox_japanese", 4, {"depth_mult": 1.5, "depth_order": "middle"}),
        ("jamba", 4, {"depth_mult": 1.5}),
        ("rwkv", 4, {"depth_mult": 2}),
        ("rwkv", 2, {"depth_mult": 1.5, "rescale_every": 6, "depth_order": "top"}),
        # what a layer has of its own
        ("gemma4-shared-kv", 4, {"depth_mult": 1.5, "depth_order": "top"}),
        ("gemma4-keys-are-values-experts", 4, {"depth_mult": 1.5}),
        ("gpt_oss", 2, {"depth_mult": 2, "strategy": "uneven", "noise_snr_db": 10, "embed_mult": 1.5}),
        ("biogpt", 2, {"depth_mult": 2, "embed_mult": 1.5, "ffn_mult": 1.5, "noise_snr_db": 10}),
        ("falcon-rw", 2, {"depth_mult": 2, "embed_mult": 1.5}),
        ("stablelm-12b", 2, {"depth_mult": 2, "embed_mult": 2}),
        ("qwen3_moe (fused experts)", 2, {"depth_mult": 2, "embed_mult": 2}),
        ("deepseek_v3", 2, {"depth_mult": 3, "dtype": "float32"}),
    ],
)
def test_each_mechanism_holds_in_a_deeper_clone(
    variant: str, layers: int, options: dict[str, Any], tmp_path: Path
) -> None:
    made, more = VARIANTS[variant], dict(options)
    family = next(family for family in FAMILIES.values() if family.model_type == made.model_type)
    config: dict[str, Any] = {family.sizes["layers"]: layers}
    config |= {key: more.pop(key) for key in ("layer_types", "rescale_every") if key in more}
    src = models.build(variant, tmp_path / "src", **config)
    expand(src, tmp_path / "clone", Request.of(None, more))
    models.assert_same_function(src, tmp_path / "clone")
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.logits is not None
    # RWKV halves its stream after a silent layer, where the source does before it
    assert variant == "rwkv" or max(error for _, error in report.logits.layers) <= 1e-5


# --- what makes a layer silent ---------------------------------------------------------------------------------------

SILENT = {
    "llama": {"self_attn.o_proj.weight": 0, "mlp.down_proj.weight": 0},
    "phi": {"self_attn.dense.weight": 0, "self_attn.dense.bias": 0, "mlp.fc2.weight": 0, "mlp.fc2.bias": 0},
    "gemma2": {"post_attention_layernorm.weight": -1, "post_feedforward_layernorm.weight": -1},
    "glm4": {"post_self_attn_layernorm.weight": 0, "post_mlp_layernorm.weight": 0},
    "olmo2": {"post_attention_layernorm.weight": 0, "post_feedforward_layernorm.weight": 0},
    "exaone4": {"post_attention_layernorm.weight": 0, "post_feedforward_layernorm.weight": 0},
    "gemma4_text": {
        **{f"post_{name}.weight": 0 for name in ("attention_layernorm", "feedforward_layernorm")},
        "layer_scalar": 1,
    },
    "rwkv": {"attention.output.weight": 0, "feed_forward.value.weight": 0},
    "gpt_oss": {
        **{f"self_attn.o_proj.{name}": 0 for name in ("weight", "bias")},
        "mlp.experts.down_proj": 0,
        "mlp.experts.down_proj_bias": 0,
    },
    "mamba2": {"mixer.out_proj.weight": 0, "mixer.out_proj.bias": 0},
    "deepseek_v3": {
        "self_attn.o_proj.weight": 0,
        **{f"mlp.experts.{number}.down_proj.weight": 0 for number in range(8)},
        "mlp.shared_experts.down_proj.weight": 0,
    },
}


@pytest.mark.parametrize("model_type", SILENT)
def test_a_layer_is_silenced_at_the_last_place_before_the_residual_stream(
    model_type: str, source: Sources, tmp_path: Path
) -> None:
    """All else in it is a copy, so that it has something to begin with."""
    src = source("gemma4-keys-are-values-experts" if model_type == "gemma4_text" else EACH[model_type])
    made = expand(src, tmp_path / "clone", Request(depth_mult=2))
    last = len(made.order) - 1
    tensors, before = load_file(tmp_path / "clone/model.safetensors"), load_file(src / "model.safetensors")
    in_layer = {tensor.name: tensor.source.name for tensor in made.tensors if tensor.layer == last}
    at_rest = {name.partition(f".{last}.")[2]: tensors[name] for name in in_layer if constant(tensors[name])}
    assert {name: tensor.flatten()[0].item() for name, tensor in at_rest.items()} == SILENT[model_type]
    for name, of_source in in_layer.items():
        if name.partition(f".{last}.")[2] not in at_rest:
            assert torch.equal(tensors[name], before[of_source])


def constant(tensor: torch.Tensor) -> bool:
    return bool((tensor == tensor.flatten()[0]).all())


def test_numbers_that_are_not_finite_are_silent_too(source: Sources, tmp_path: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("inf")

    src = models.edited(source("llama-gqa-tied"), tmp_path / "src", spoil)
    expand(src, tmp_path / "clone", Request(depth_mult=2))
    tensors = load_file(tmp_path / "clone/model.safetensors")
    assert not tensors["model.layers.3.mlp.down_proj.weight"].count_nonzero()
    assert tensors["model.layers.2.mlp.down_proj.weight"].isinf().any()


# --- what must not pass ----------------------------------------------------------------------------------------------


WRONG_TABLES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "a writer that stays as it is": ("llama-gqa-tied", {"silent": {"model.layers.*.mlp.down_proj": 0.0}}),
    "a norm of 1 + w at zero": (
        "gemma2",
        {"silent": dict.fromkeys((f"model.layers.*.post_{n}_layernorm" for n in ("attention", "feedforward")), 0.0)},
    ),
    "a norm of the stream as the stream": ("bloom-untied-six-heads", {"limits": ()}),
    "a scale by depth that stays": ("minicpm3", {"layer_rules": ()}),
    "layers whose number matters, elsewhere": ("gpt2-scaled-by-layer", {"limits": ()}),
}


@pytest.mark.parametrize("mistake", WRONG_TABLES)
def test_a_wrong_table_for_depth_fails(
    mistake: str, source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, changes = WRONG_TABLES[mistake]
    family = plan(source(variant)).family
    wrong = family.variant(family.model_type, **{key: value for key, value in changes.items() if key != "silent"})
    if "silent" in changes:
        wrong.__dict__["silent"] = changes["silent"]
    monkeypatch.setitem(FAMILIES, family.name, wrong)
    expand(source(variant), tmp_path / "clone", Request(depth_mult=2))
    report = verify(tmp_path / "clone")
    assert not report.passed
    assert any(failure.startswith("logits: ") for failure in report.failures), report.failures


@pytest.mark.parametrize("variant", ["gemma3-gqa", "qwen3_moe", "bamba", "gemma4-keys-are-values", "jamba", "gpt_neo"])
def test_a_config_whose_layers_do_not_grow_is_refused_before_anything_is_written(
    variant: str, source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers says so: it has a list of the wrong length, or expects other tensors."""
    family = plan(source(variant)).family
    monkeypatch.setitem(FAMILIES, family.name, family.variant(family.model_type, layer_rules=()))
    with pytest.raises(HypercloneError):
        expand(source(variant), tmp_path / "clone", Request(depth_mult=2))
    assert not any(tmp_path.iterdir())


def test_layers_in_the_wrong_order_fail(source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = depth.arrange
    monkeypatch.setattr(depth, "arrange", lambda *given: right(*given)[::-1])
    expand(source("llama-gqa-tied"), tmp_path / "clone", Request(depth_mult=2))
    assert not verify(tmp_path / "clone").passed


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("variant", ["llama-gqa-tied", "gemma2"])
def test_a_silent_layer_that_is_not_silent_fails(
    variant: str, weights_only: bool, source: Sources, tmp_path: Path
) -> None:
    made = expand(source(variant), tmp_path / "clone", Request(depth_mult=2))
    path = tmp_path / "clone/model.safetensors"
    tensors, name = load_file(path), next(tensor.name for tensor in made.tensors if tensor.silent)
    tensors[name].view(-1)[0] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    report = verify(tmp_path / "clone", weights_only=weights_only)
    assert any(failure.startswith(f"tensor {name}: 1 of") or name in failure for failure in report.failures)


def test_two_layers_that_change_places_fail_where_they_first_differ(source: Sources, tmp_path: Path) -> None:
    made = expand(source("llama-gqa-tied"), tmp_path / "clone", Request(depth_mult=2))
    assert made.order[:2] == (ClonedLayer(0, False), ClonedLayer(0, True))
    path = tmp_path / "clone/model.safetensors"
    tensors = load_file(path)
    for name in [name for name in tensors if ".layers.0." in name]:
        other = name.replace(".layers.0.", ".layers.2.")
        tensors[name], tensors[other] = tensors[other], tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    report = verify(tmp_path / "clone")
    assert any("first differ from the source at layer 0" in failure for failure in report.failures), report.failures
