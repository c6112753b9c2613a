"""Wrappers: a text model grows inside, what joins pictures to it grows with it, and towers stay as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli import plan
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families.vocabulary import Form, Role, dimension, linear
from hyperclone_cli.families.wrappers import WRAPPERS
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import wrapped

WIDER = Request(embed_mult=1.5, ffn_mult=1.5)
TWICE = Request(embed_mult=2, ffn_mult=2)


def kept_bytes(path: Path, towers: list[str]) -> dict[str, bytes]:
    """Name → bytes of every tensor in the towers."""
    return {
        name: tensor.contiguous().view(torch.uint8).numpy().tobytes()
        for name, tensor in load_file(path / "model.safetensors").items()
        if name in towers
    }


@pytest.mark.parametrize("name", wrapped.as_run(wrapped.RUNNABLE))
def test_a_clone_computes_the_same_after_text_and_after_a_picture(name: str, tmp_path: Path) -> None:
    src = wrapped.build(name, tmp_path / "src")
    request = TWICE if name == "glm4v" else WIDER  # see its limits
    made = expand(src, tmp_path / "clone", request)
    found = wrapped.errors(wrapped.outputs(tmp_path / "clone"), wrapped.outputs(src))
    assert max(found.values()) <= 1e-5, found
    kept = [tensor.name for tensor in made.tensors if tensor.kept]
    assert kept
    assert kept_bytes(src, kept) == kept_bytes(tmp_path / "clone", kept)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_tensors_keep_the_names_that_transformers_has_now(name: str, tmp_path: Path) -> None:
    src = wrapped.build(name, tmp_path / "src", current=True)
    expand(src, tmp_path / "clone", TWICE)
    names = load_file(src / "model.safetensors").keys()
    assert "model.language_model.embed_tokens.weight" in names
    assert load_file(tmp_path / "clone" / "model.safetensors").keys() == names
    found = wrapped.errors(wrapped.outputs(tmp_path / "clone"), wrapped.outputs(src))
    assert max(found.values()) <= 1e-5, found


def test_experts_that_are_stored_transposed_are_told_by_their_shape(tmp_path: Path) -> None:
    """As they were published; transformers transposes what has not the shape that it computes with."""
    src = wrapped.build("qwen3_vl_moe", tmp_path / "src")
    tensors = load_file(src / "model.safetensors")
    experts = [name for name in tensors if "experts" in name]
    assert experts
    tensors |= {name: tensors[name].mT.contiguous() for name in experts}
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    expand(src, tmp_path / "clone", TWICE)
    found = wrapped.errors(wrapped.outputs(tmp_path / "clone"), wrapped.outputs(src))
    assert max(found.values()) <= 1e-5, found


_COPIED = Form(
    "linear",
    {
        "weight": (dimension(Role.OUT, "embed"), dimension(Role.OUT, "projector")),
        "bias": (dimension(Role.OUT, "embed"),),
    },
)
_PROJECTOR = "multi_modal_projector"
WRONG: dict[str, tuple[str, dict[str, Form]]] = {
    "copies of columns that do not share their weight": ("llava", {f"{_PROJECTOR}.linear_2": _COPIED}),
    "rows where the residual stream has padding": ("paligemma", {f"{_PROJECTOR}.linear": linear("projector", "*")}),
    "padding where a layer without a norm reads": (
        "llava",
        {f"{_PROJECTOR}.linear_1": linear("embed", "*"), f"{_PROJECTOR}.linear_2": linear("embed", "embed")},
    ),
    "a factor of the width": ("paligemma", {f"{_PROJECTOR}.linear": linear("embed", "*", forward_power=0.5)}),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_join_fails_after_a_picture_and_not_after_text(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, joins = WRONG[mistake]
    src = wrapped.build(name, tmp_path / "src")
    monkeypatch.setitem(WRAPPERS, name, replace(WRAPPERS[name], joins={**WRAPPERS[name].joins, **joins}))
    expand(src, tmp_path / "clone", WIDER)
    found = wrapped.errors(wrapped.outputs(tmp_path / "clone"), wrapped.outputs(src))
    assert found["text"] <= 1e-5, found
    assert found["picture"] > 1e-3, found
    assert any(failure.startswith("picture: ") for failure in verify(tmp_path / "clone").failures)


def test_rows_that_are_not_copied_fail_after_a_picture_and_not_after_text(tmp_path: Path) -> None:
    src = wrapped.build("gemma3", tmp_path / "src")
    expand(src, tmp_path / "clone", TWICE)
    tensors = load_file(tmp_path / "clone" / "model.safetensors")
    tensors["multi_modal_projector.mm_input_projection_weight"][:, 64:] = 0  # its columns are rows of the others
    save_file(tensors, tmp_path / "clone" / "model.safetensors", metadata={"format": "pt"})
    found = wrapped.errors(wrapped.outputs(tmp_path / "clone"), wrapped.outputs(src))
    assert found["text"] <= 1e-5 < 1e-3 < found["picture"], found
    failures = [failure.partition(" ")[0] for failure in verify(tmp_path / "clone").failures]
    assert failures == ["tensor", "picture:"]


def test_a_join_that_does_not_grow_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = wrapped.build("gemma3", tmp_path / "src")
    monkeypatch.setitem(WRAPPERS, "gemma3", replace(WRAPPERS["gemma3"], joins={}))
    with pytest.raises(
        CheckpointError, match=r"mismatched tensor model.multi_modal_projector.mm_input_projection_weight"
    ):
        expand(src, tmp_path / "clone", TWICE)
    assert not (tmp_path / "clone").exists()


def test_bytes_of_a_tower_are_kept_whatever_they_are(tmp_path: Path) -> None:
    """NaN, whole numbers, and another dtype than the request's."""
    src = wrapped.build("llava", tmp_path / "src", torch.bfloat16)
    tensors = load_file(src / "model.safetensors")
    name = next(name for name in tensors if name.startswith("vision_tower") and name.endswith("layer_norm1.bias"))
    tensors[name][0] = torch.nan
    tensors["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(5)
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    made = expand(src, tmp_path / "clone", replace(TWICE, dtype="float32"))
    kept = [tensor.name for tensor in made.tensors if tensor.kept]
    assert {name, "vision_tower.vision_model.embeddings.position_ids"} <= set(kept)
    assert kept_bytes(src, kept) == kept_bytes(tmp_path / "clone", kept)
    grown = load_file(tmp_path / "clone" / "model.safetensors")
    assert grown["language_model.lm_head.weight"].dtype == torch.float32
    grown[name][0] = 0
    save_file(grown, tmp_path / "clone" / "model.safetensors", metadata={"format": "pt"})
    assert [failure for failure in verify(tmp_path / "clone", weights_only=True).failures if name in failure]


def test_a_verification_reports_the_picture_and_the_card_what_was_left_alone(tmp_path: Path) -> None:
    src = wrapped.build("mistral3", tmp_path / "src")
    expand(src, tmp_path / "clone", TWICE)
    report = verify(tmp_path / "clone")
    assert report.passed
    assert report.picture is not None
    assert report.picture.relative_error <= report.picture.tolerance == 1e-5
    recorded = json.loads((tmp_path / "clone" / "verification.json").read_text())
    assert recorded["picture"]["input"] == "random pixels"
    card = (tmp_path / "clone" / "README.md").read_text()
    assert all(
        words in card for words in ("AutoModelForImageTextToText", "mistral3 is mistral with towers", "vision_tower")
    )
    assert "| `text_config.hidden_size` | `64` | `128` |" in card
    assert "the same after random pixels" in card
    made = json.loads((tmp_path / "clone" / "hyperclone.json").read_text())
    kept = ["vision_tower", "multi_modal_projector"]
    assert made["wrapper"] == {"model_type": "mistral3", "text_model": "mistral", "kept": kept}


def test_a_text_model_without_a_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava", "text_config": {"model_type": "bert"}}')
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(
        CheckpointError, match=r"text model inside llava has model_type 'bert'.*: it reads text in both"
    ):
        plan(tmp_path, embed_mult=2)


def test_a_wrapper_without_its_text_models_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gemma3"}')
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="text_config should be the config of the text model, found None"):
        plan(tmp_path, embed_mult=2)


def test_larger_heads_are_refused_where_positions_come_in_sections(tmp_path: Path) -> None:
    src = wrapped.build("qwen3_vl", tmp_path / "src")
    with pytest.raises(RequestError, match="sections, for time, height and width"):
        plan(src, embed_mult=2, head_dim_mult=2)


@pytest.mark.parametrize(
    "stated, message",
    [
        ({"text_config": {"model_type": ["llama"]}}, r"text_config.model_type should be a name, found \['llama'\]"),
        ({"text_config": "llama"}, "text_config should be the config of the text model, found 'llama'"),
        ({"vision_config": {"num_hidden_layers": 10**9}}, "vision_config.num_hidden_layers states 1,000,000,000, of a"),
        ({"vision_config": {"of": {"depth": 10**9}}}, "vision_config.of.depth states 1,000,000,000"),
        ({"vision_config": {"layers_block_type": ["a"] * 9999}}, "layers_block_type states 9,999"),
    ],
)
def test_impossible_configs_inside_are_refused(stated: dict[str, Any], message: str, tmp_path: Path) -> None:
    src = wrapped.build("llava", tmp_path / "src")
    config = json.loads((src / "config.json").read_text())
    (src / "config.json").write_text(json.dumps(config | stated))
    with pytest.raises(CheckpointError, match=message):
        plan(src, embed_mult=2)


def test_numbers_of_the_text_model_that_lie_beside_those_of_the_wrapper_grow_too(tmp_path: Path) -> None:
    """Older files have them there alone, some have them twice."""
    src = wrapped.build("qwen2_vl", tmp_path / "src")
    config = json.loads((src / "config.json").read_text())
    text = {key: value for key, value in config["text_config"].items() if key != "model_type"}
    for number, stated in enumerate((text | config, {**text, **config, "text_config": None})):
        (src / "config.json").write_text(json.dumps({key: item for key, item in stated.items() if item is not None}))
        made = expand(src, tmp_path / f"clone {number}", WIDER)
        assert (made.config["hidden_size"], made.config["num_attention_heads"]) == (96, 6)
        assert ("text_config" in made.config) is (number == 0)
        found = wrapped.errors(wrapped.outputs(tmp_path / f"clone {number}"), wrapped.outputs(src))
        assert max(found.values()) <= 1e-5, found


def test_sizes_that_an_older_file_leaves_out_are_those_of_transformers(tmp_path: Path) -> None:
    """As LLaVA 1.5 was published: of its text model, config.json says what is not the default."""
    src = wrapped.build("llava", tmp_path / "src")
    config = json.loads((src / "config.json").read_text())
    config["text_config"] = {"model_type": "llama", "vocab_size": 96}
    (src / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="says llava with 32 layers"):
        plan(src, embed_mult=2)
