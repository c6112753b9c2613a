"""`--text-only`: the text model of a wrapper, alone; and text models that lie under a wrapper's names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma4UnifiedConfig, Gemma4UnifiedForConditionalGeneration, Gemma4UnifiedVisionConfig

from hyperclone_cli import clone_model, plan
from hyperclone_cli.checkpoint.source import Source, stored_tensors
from hyperclone_cli.checkpoint.transformers_model import weights_of
from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from hyperclone_cli.writing.preflight import check_loads
from support import models, wrapped

ALONE = Request(embed_mult=1.5, ffn_mult=1.5, text_only=True)

CLASSES = {
    "llava": "LlamaForCausalLM",
    "gemma4": "Gemma4ForCausalLM",  # layers with widths of their own, and a tied head
    "qwen2_vl": "Qwen2ForCausalLM",  # rotary positions in sections, and heads that were implied
    "qwen3_vl_moe": "Qwen3MoeForCausalLM",  # experts in one tensor, and a router that always normalises
    "qwen3_5": "Qwen3_5ForCausalLM",
    "glm4v": "Glm4ForCausalLM",  # biases and a head size that only the other class has keys for
    "llama4": "Llama4ForCausalLM",
}


@torch.no_grad()
def logits_alone(path: Path) -> torch.Tensor:
    logits: torch.Tensor = models.load(path)(wrapped.TEXT).logits.double()
    return logits


@pytest.mark.parametrize("name", wrapped.as_run(CLASSES))
def test_the_text_model_alone_computes_what_it_does_in_its_wrapper(name: str, tmp_path: Path) -> None:
    src = wrapped.build(name, tmp_path / "src")
    made = expand(src, tmp_path / "clone", ALONE)
    found = wrapped.errors({"text": logits_alone(tmp_path / "clone")}, wrapped.outputs(src))
    assert found["text"] <= 1e-5, found
    assert made.config["architectures"] == [CLASSES[name]]
    assert not [key for key in made.config if key.startswith(("vision", "image", "text_config"))]
    assert not [tensor.name for tensor in made.tensors if "vis" in tensor.name or tensor.part in ("tower", "projector")]


@pytest.mark.parametrize("name", ["qwen2_vl", "glm4v"])
def test_what_does_not_grow_is_the_same_too(name: str, tmp_path: Path) -> None:
    """The class of the text model alone assumes other sizes where config.json says nothing."""
    src = wrapped.build(name, tmp_path / "src")
    expand(src, tmp_path / "clone", Request(text_only=True))
    assert wrapped.errors({"text": logits_alone(tmp_path / "clone")}, wrapped.outputs(src))["text"] <= 1e-6


def test_a_verification_holds_the_text_model_against_the_wrapper(tmp_path: Path) -> None:
    src = wrapped.build("gemma3", tmp_path / "src", torch.bfloat16)
    made = expand(src, tmp_path / "clone", replace(ALONE, dtype="float32"))
    assert any(note.startswith("The text model of gemma3, gemma3_text, alone. Left out: vision") for note in made.notes)
    report = verify(tmp_path / "clone")
    assert report.passed, report
    assert report.picture is None
    card = (tmp_path / "clone" / "README.md").read_text()
    assert "--text-only" in card
    assert "AutoModelForCausalLM" in card
    assert json.loads((tmp_path / "clone" / "hyperclone.json").read_text())["wrapper"]["left out"]


def test_a_size_is_chosen_for_the_text_model(tmp_path: Path) -> None:
    src = wrapped.build("mistral3", tmp_path / "src")
    alone = plan(src, target_params=200_000, multiple_of=16, text_only=True)
    assert alone.parameters()[1].total() == pytest.approx(200_000, rel=0.2)
    whole = plan(src, target_params=200_000, multiple_of=16)
    assert whole.parameters()[1].total() == pytest.approx(200_000, rel=0.2)


def test_a_text_model_is_alone_already(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--text-only: qwen3 is a text model already"):
        plan(models.build("qwen3", tmp_path / "src"), text_only=True)


def test_the_names_of_a_wrapper_are_accepted_for_a_text_model_where_transformers_accepts_them(tmp_path: Path) -> None:
    """With the tensors of its tower beside it."""
    src = wrapped.build("qwen3_5", tmp_path / "src")
    config = json.loads((src / "config.json").read_text())["text_config"]
    (src / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen3_5ForCausalLM"]}))
    assert any(name.startswith("model.visual.") for name in load_file(src / "model.safetensors"))
    made = expand(src, tmp_path / "clone", replace(ALONE, text_only=False))
    names = {tensor.name for tensor in made.tensors}
    assert "model.language_model.embed_tokens.weight" in names
    assert not [name for name in names if "visual" in name]
    assert verify(tmp_path / "clone").passed


def test_names_of_a_wrapper_are_refused_for_a_text_model_where_transformers_would_not_find_them(tmp_path: Path) -> None:
    src = models.build("llama-gqa-tied", tmp_path / "src")
    tensors = load_file(src / "model.safetensors")
    tensors = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in tensors.items()}
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Exception, match=r"no rule of llama fits model.language_model"):
        plan(src, embed_mult=2)


def test_a_model_in_memory_keeps_its_class(tmp_path: Path) -> None:
    model = wrapped.load(wrapped.build("gemma3", tmp_path / "src"))
    with pytest.raises(RequestError, match="returns a model of the class that it was given"):
        clone_model(model, text_only=True)
    grown = clone_model(model, embed_mult=2, ffn_mult=2)
    expand(tmp_path / "src", tmp_path / "clone", Request(embed_mult=2, ffn_mult=2))
    stored = load_file(tmp_path / "clone" / "model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in weights_of(grown).items())


@pytest.mark.parametrize("text_only", [False, True])
def test_sizes_that_config_json_leaves_out_are_assumed(text_only: bool) -> None:
    """A model of real size, on the meta device: of its text model, config.json states what is not the default."""
    config = Gemma4UnifiedConfig(vision_config=Gemma4UnifiedVisionConfig())
    with torch.device("meta"):
        model = Gemma4UnifiedForConditionalGeneration(config)
    stated = json.loads(config.to_json_string())
    stated["text_config"] = {key: stated["text_config"][key] for key in ("model_type", "layer_types")}
    path = Path("src")
    source = Source(path, stated, stored_tensors(path, weights_of(model)))
    made = check_loads(make_plan(source, Request(embed_mult=1.5, ffn_mult=1.5, text_only=text_only)))
    grown = made.config if text_only else made.config["text_config"]
    assert (grown["hidden_size"], grown["intermediate_size"]) == (2304 * 3 // 2, 9216 * 3 // 2)
