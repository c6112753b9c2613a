"""Recurrent and hybrid architectures at every kind of growth: the same function, or a refusal that says why."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from hyperclone_cli import clone_model, plan
from hyperclone_cli.axes import Form, depthwise, embedding, linear, norm, parameter
from hyperclone_cli.clone import expand
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import FAMILIES, Fold
from hyperclone_cli.mixing import Mixing
from hyperclone_cli.planner import make_plan
from hyperclone_cli.request import Request
from hyperclone_cli.source import open_source
from hyperclone_cli.verifier import verify
from models_recurrent import VARIANTS

Sources = Callable[[str], Path]

REQUESTS: dict[str, dict[str, Any]] = {
    "2×2": {"embed_mult": 2, "ffn_mult": 2},
    "3×3": {"embed_mult": 3, "ffn_mult": 3},
    "uneven, noise": {"embed_mult": 2, "ffn_mult": 2, "mixing": Mixing("uneven", noise_snr_db=10.0)},
    "embed 1.5": {"embed_mult": 1.5, "ffn_mult": 1.5},
    "head_dim 2": {"embed_mult": 2, "ffn_mult": 2, "head_dim_mult": 2},
    "ffn 2.5": {"ffn_mult": 2.5},
}

GATED_NORM = "a norm spans the state space's heads"

REFUSED: dict[str, dict[str, str]] = {
    "embed 1.5": dict.fromkeys(
        [
            "mamba2",
            "mamba2-groups-tied",
            "bamba",
            "bamba-tied",
            "falcon_h1",
            "granite",
            "granite-experts",
            "granite-tied",
        ],
        GATED_NORM,
    )
    | dict.fromkeys(["rwkv", "rwkv-tied"], "leaves no room for padding"),
    "head_dim 2": dict.fromkeys(
        [variant for variant in VARIANTS if "mamba" in variant or "rwkv" in variant], "no attention heads"
    ),
    "ffn 2.5": dict.fromkeys(["mamba2", "mamba2-groups-tied"], "it is 2 × hidden_size"),
}
"""For each request the variants that cannot have it, and what they say; for all others it is exact."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    @functools.cache
    def build(variant: str) -> Path:
        return models.build(VARIANTS[variant], tmp_path_factory.mktemp("source") / variant)

    return build


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_clone_is_the_same_function_or_refused(variant: str, name: str, source: Sources, tmp_path: Path) -> None:
    src, out, request = source(variant), tmp_path / "clone", Request(**REQUESTS[name])
    if variant in REFUSED.get(name, {}):
        with pytest.raises(RequestError, match=REFUSED[name][variant]):
            expand(src, out, request)
        return
    expand(src, out, request)
    one, other = models.load(src), models.load(out)
    assert models.relative_error(models.logits(other), models.logits(one)) <= 1e-5
    assert torch.equal(models.decode(other), models.decode(one))
    report = verify(out, weights_only=name != "uneven, noise")
    assert report.passed, report.failures


def changed(form: Form, name: str, module: str) -> dict[str, Any]:
    """Another form for a module of a family, in the same layers."""
    return {"tensors": {module: replace(form, layer_kind=FAMILIES[name].tensors[module].layer_kind)}}


MISTAKES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "three parts unit by unit": (
        "lfm2",
        "2×2",
        "lfm2",
        changed(linear("inner 3", "embed"), "lfm2", "model.layers.*.conv.in_proj"),
    ),
    "input and gate unit by unit": (
        "mamba",
        "2×2",
        "mamba",
        changed(linear("ffn 2", "embed"), "mamba", "backbone.layers.*.mixer.in_proj"),
    ),
    "inputs that are copied, not shared out": (
        "mamba",
        "2×2",
        "mamba",
        changed(embedding("dt_rank | ssm_state | ssm_state", "ffn"), "mamba", "backbone.layers.*.mixer.x_proj"),
    ),
    "a router that is copied, not shared out": (
        "jamba",
        "2×2",
        "jamba",
        changed(embedding("experts", "embed"), "jamba", "model.layers.*.feed_forward.router"),
    ),
    "groups in heads, not heads in groups": (
        "mamba2-groups-tied",
        "2×2",
        "mamba2",
        changed(parameter("ssm_group ssm_groups"), "mamba2", "backbone.layers.*.mixer.A_log"),
    ),
    "the state's matrices before its input": (
        "bamba",
        "2×2",
        "bamba",
        changed(
            depthwise("ssm_groups ssm_state | ssm_groups ssm_state | ssm_inner"), "bamba", "model.layers.*.mamba.conv1d"
        ),
    ),
    "heads in blocks, not blocks in heads": (
        "recurrent_gemma",
        "2×2",
        "recurrent_gemma",
        changed(parameter("block heads"), "recurrent_gemma", "model.layers.*.temporal_block.rg_lru.recurrent_param"),
    ),
    "the root of the width as it is, not as bfloat16 has it": (
        "recurrent_gemma",
        "3×3",
        "recurrent_gemma",
        changed(embedding("vocab", "embed", forward_power=0.5), "recurrent_gemma", "model.embed_tokens"),
    ),
    "a delta net's parts one after another": (
        "qwen3_next",
        "2×2",
        "qwen3_next",
        changed(
            linear("delta_heads delta_key+delta_key | delta_values delta_value+delta_value", "embed"),
            "qwen3_next",
            "model.layers.*.linear_attn.in_proj_qkvz",
        ),
    ),
    "the gates of all heads after their queries": (
        "qwen3_5",
        "2×2",
        "qwen3_5_text",
        changed(linear("heads query | heads value", "embed"), "qwen3_5_text", "model.layers.*.self_attn.q_proj"),
    ),
    "(1 + w) taken for w": (
        "qwen3_5-tied",
        "2×2",
        "qwen3_5_text",
        changed(norm("embed"), "qwen3_5_text", "model.norm"),
    ),
    "the last block's norm taken for the final one": (
        "rwkv-tied",
        "2×2",
        "rwkv",
        {"folds": (Fold("rwkv.blocks.3.ln2"),)},
    ),
}
"""Tables that are nearly right: (variant, a request that tells them from the right one, the table, what is wrong)."""


@pytest.mark.parametrize("variant, name, table, changes", MISTAKES.values(), ids=list(MISTAKES))
def test_a_wrong_table_is_found_out(
    variant: str,
    name: str,
    table: str,
    changes: dict[str, Any],
    source: Sources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FAMILIES, table, FAMILIES[table].variant(table, **changes))
    expand(source(variant), tmp_path / "clone", Request(**REQUESTS[name]))
    error = models.relative_error(
        models.logits(models.load(tmp_path / "clone")), models.logits(models.load(source(variant)))
    )
    assert error > 1e-4
    assert any(failure.startswith("logits:") for failure in verify(tmp_path / "clone").failures)


def edit(src: Path, out: Path, change: Callable[[dict[str, torch.Tensor]], object], **config: Any) -> Path:
    """A copy of a checkpoint with other tensors and another config; None takes a key out."""
    shutil.copytree(src, out)
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    stated = json.loads((out / "config.json").read_text()) | config
    (out / "config.json").write_text(json.dumps({key: item for key, item in stated.items() if item is not None}))
    return out


def unchanged(tensors: dict[str, torch.Tensor]) -> None:
    pass


def doubled(src: Path, out: Path) -> dict[str, Any]:
    """The config of a clone twice as wide, which is verified to be the same function."""
    made = expand(src, out, Request(embed_mult=2, ffn_mult=2))
    report = verify(out)
    assert report.passed, report.failures
    return dict(made.config)


@pytest.mark.parametrize("rank", ["auto", None])
@pytest.mark.parametrize("variant, key", [("mamba", "time_step_rank"), ("jamba", "mamba_dt_rank")])
def test_a_rank_that_would_follow_the_width_is_written_out(
    variant: str, key: str, rank: str | None, source: Sources, tmp_path: Path
) -> None:
    src = edit(source(variant), tmp_path / "src", unchanged, **{key: rank})
    assert doubled(src, tmp_path / "clone")[key] == 3


def test_a_head_size_that_would_follow_the_width_is_written_out(source: Sources, tmp_path: Path) -> None:
    src = edit(source("bamba"), tmp_path / "src", unchanged, mamba_d_head="auto")
    config = doubled(src, tmp_path / "clone")
    assert (config["mamba_d_head"], config["mamba_n_heads"], config["mamba_n_groups"]) == (12, 16, 2)


def test_a_width_that_transformers_adjusts_is_stated_as_it_is(source: Sources, tmp_path: Path) -> None:
    """LFM2 takes two thirds of what its config states, rounded up, unless told not to: 80 is 64 units."""
    config = doubled(source("lfm2-adjusted-untied"), tmp_path / "clone")
    assert (config["intermediate_size"], config["block_auto_adjust_ff_dim"]) == (128, False)


def test_the_names_that_lfm2_has_on_the_hub(source: Sources, tmp_path: Path) -> None:
    hub = {"block_dim": 48, "block_ff_dim": 80, "conv_dim": 48, "num_heads": 4, "tie_embedding": True}
    src = edit(source("lfm2"), tmp_path / "src", unchanged, **hub, intermediate_size=None, tie_word_embeddings=None)
    config = doubled(src, tmp_path / "clone")
    assert {key: config[key] for key in hub} == {
        "block_dim": 96,
        "block_ff_dim": 160,
        "conv_dim": 96,
        "num_heads": 8,
        "tie_embedding": True,
    }
    assert (
        expand(src, tmp_path / "untied", Request(embed_mult=2, tie_embeddings="untie")).config["tie_embedding"] is False
    )


def test_the_width_of_a_mamba_block_grows_alone(source: Sources, tmp_path: Path) -> None:
    made = expand(source("mamba"), tmp_path / "clone", Request(ffn_mult=1.5))
    assert (made.config["hidden_size"], made.config["intermediate_size"], made.config["expand"]) == (48, 144, 2)
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


@pytest.mark.parametrize("option", ["num_heads", "heads_mult", "num_kv_heads", "kv_heads_mult", "head_dim_mult"])
def test_heads_are_refused_where_there_are_none(option: str, source: Sources) -> None:
    with pytest.raises(RequestError, match=f"--{option.replace('_', '-')} 2: mamba has no attention heads"):
        make_plan(open_source(source("mamba")), Request(**{option: 2}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "variant, lost",
    [
        ("jamba", "model.layers.0.mamba.D"),
        ("jamba", "model.layers.1.self_attn.v_proj.weight"),
        ("jamba", "model.layers.0.feed_forward.router.weight"),
        ("jamba", "model.layers.1.feed_forward.up_proj.weight"),
        ("lfm2", "model.layers.0.conv.conv.weight"),
        ("rwkv", "rwkv.blocks.0.pre_ln.weight"),
        ("rwkv", "rwkv.blocks.2.attention.time_decay"),
        ("falcon_h1", "model.layers.1.mamba.norm.weight"),
        ("qwen3_next", "model.layers.0.linear_attn.dt_bias"),
    ],
)
def test_a_checkpoint_with_holes_is_refused(variant: str, lost: str, source: Sources, tmp_path: Path) -> None:
    src = edit(source(variant), tmp_path / "src", lambda tensors: tensors.pop(lost))
    with pytest.raises(CheckpointError, match=f"missing tensors: {lost}"):
        plan(src, embed_mult=2)


@pytest.mark.parametrize(
    "variant, config, words",
    [
        ("mamba2", {"head_dim": 10}, "expand × hidden_size"),
        ("bamba", {"mamba_n_groups": 3}, "mamba_n_heads 8 is not a multiple of mamba_n_groups 3"),
        ("jamba", {"mamba_expand": 0}, "mamba_expand should be a number above 0"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(
    variant: str, config: dict[str, Any], words: str, source: Sources, tmp_path: Path
) -> None:
    src = edit(source(variant), tmp_path / "src", unchanged, **config)
    with pytest.raises(CheckpointError, match=words):
        plan(src, embed_mult=2)


def test_layers_that_predict_further_tokens_are_left_out(source: Sources, tmp_path: Path) -> None:
    src = edit(source("qwen3_5"), tmp_path / "src", lambda tensors: tensors.update({"mtp.fc.weight": torch.ones(4)}))
    assert list(expand(src, tmp_path / "clone", Request(embed_mult=2)).dropped) == ["mtp.fc.weight"]
    models.load(tmp_path / "clone")


@pytest.mark.parametrize("variant", ["lfm2", "jamba", "falcon_h1", "qwen3_next", "mamba"])
def test_attention_alone_adds_to_the_cache(variant: str, source: Sources) -> None:
    before, after = plan(source(variant), embed_mult=2).kv_cache_bytes()
    cache = models.load(source(variant))(models.tokens(rows=1, length=10), use_cache=True).get("past_key_values")
    layers = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None] if cache else []
    assert before * 10 == sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert after == 2 * before


@pytest.mark.parametrize("variant", ["jamba", "recurrent_gemma", "rwkv", "mamba2-groups-tied"])
def test_a_loaded_model_grows_to_the_same_tensors(variant: str, source: Sources, tmp_path: Path) -> None:
    grown = clone_model(models.load(source(variant)), embed_mult=2, ffn_mult=2)
    grown.save_pretrained(tmp_path / "memory")
    expand(source(variant), tmp_path / "disk", Request(embed_mult=2, ffn_mult=2))
    in_memory, on_disk = (load_file(tmp_path / place / "model.safetensors") for place in ("memory", "disk"))
    assert in_memory.keys() == on_disk.keys()
    assert all(torch.equal(in_memory[name], on_disk[name]) for name in on_disk)
