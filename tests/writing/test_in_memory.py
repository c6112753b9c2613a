"""A loaded model grown in memory has the tensors of the clone that is written to disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hyperclone_cli import clone_model, expand
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.growth.options import GrowthOptions
from hyperclone_cli.verifier.self_check import randomise
from hyperclone_cli.writing.in_memory import open_model
from support import models
from support.growth_table import CROSSED

Sources = Callable[[str], Path]
DOUBLE = GrowthOptions(embed_mult=2, ffn_mult=2)


UNEVEN = GrowthOptions(embed_mult=3, ffn_mult=3, strategy="uneven", uneven_ratio=(1, 2, 4), noise_snr_db=10.0, seed=3)


def contents(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {
        name: (tensor.dtype, tensor.shape, tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors.items()
    }


def on_disk(directory: Path) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return contents(load_file(directory / "model.safetensors"))


def in_memory(model: Any) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return contents(dict(open_model(model).weights))


@pytest.mark.parametrize("options", [DOUBLE, UNEVEN], ids=["double", "uneven-noise"])
@pytest.mark.parametrize("variant", CROSSED)
def test_a_grown_model_is_the_clone_that_expand_writes(
    variant: str, options: GrowthOptions, source: Sources, tmp_path: Path
) -> None:
    model = models.load(source(variant))
    before = contents(model.state_dict()), model.config.to_dict(), models.logits(model)
    grown = clone_model(model, **options)
    expand(source(variant), tmp_path / "clone", **options)
    assert in_memory(grown) == on_disk(tmp_path / "clone")
    assert type(grown) is type(model)
    assert grown.config.to_dict() == models.load(tmp_path / "clone").config.to_dict() | {"_name_or_path": ""}
    assert models.relative_error(models.logits(grown), before[2]) <= 1e-5
    assert (contents(model.state_dict()), model.config.to_dict()) == before[:2]


@pytest.mark.parametrize("variant", ["llama-gqa-tied", "gemma3-gqa", "olmo2", "pythia-tied", "opt-125m"])
def test_a_grown_model_is_the_clone_at_fractional_sizes_too(variant: str, source: Sources, tmp_path: Path) -> None:
    options = GrowthOptions(embed_mult=2.5, ffn_mult=1.3, noise_snr_db=10.0)
    if variant != "pythia-tied":  # whose heads have an odd number of units with rotary positions
        options |= {"embed_mult": 3.5, "head_dim_mult": 2 if variant != "opt-125m" else 1}
    grown = clone_model(models.load(source(variant)), **options)
    expand(source(variant), tmp_path / "clone", **options)
    assert in_memory(grown) == on_disk(tmp_path / "clone")


@pytest.mark.parametrize("variant", ["gemma2", "pythia-tied"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", None])
def test_the_dtype_is_the_models_or_the_one_asked_for(variant: str, dtype: str | None, tmp_path: Path) -> None:
    src = models.build(variant, tmp_path / "src", torch.bfloat16)
    model = models.load(src).to(torch.bfloat16)
    grown = clone_model(model, embed_mult=2, dtype=dtype)
    expand(src, tmp_path / "clone", embed_mult=2, dtype=dtype)
    assert in_memory(grown) == on_disk(tmp_path / "clone")
    assert grown.dtype == getattr(torch, dtype or "bfloat16")
    if dtype is None:
        assert models.relative_error(models.logits(grown), models.logits(model)) <= 2e-2


def test_a_model_of_several_dtypes_keeps_each(source: Sources) -> None:
    model = models.load(source("llama-gqa-tied")).to(torch.bfloat16)
    model.model.norm.float()
    grown = clone_model(model, **DOUBLE)
    assert {name: p.dtype for name, p in grown.named_parameters()} == {
        name: p.dtype for name, p in model.named_parameters()
    }
    assert torch.equal(grown.model.norm.weight, torch.cat([model.model.norm.weight] * 2) / 2)


def test_a_grown_model_is_saved_and_loaded_like_any_other(source: Sources, tmp_path: Path) -> None:
    grown = clone_model(models.load(source("pythia")), **DOUBLE)
    grown.save_pretrained(tmp_path / "saved")
    expand(source("pythia"), tmp_path / "clone", **DOUBLE)
    assert on_disk(tmp_path / "saved") == on_disk(tmp_path / "clone")
    assert torch.equal(models.logits(models.load(tmp_path / "saved")), models.logits(grown))


@pytest.mark.parametrize("variant", ["gemma3-gqa", "pythia"])
def test_a_model_that_was_never_on_disk_can_be_grown(variant: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, config, _ = models.VARIANTS[variant]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config)).eval()
    randomise(model)
    assert models.relative_error(models.logits(clone_model(model, **DOUBLE)), models.logits(model)) <= 1e-5


def test_what_the_user_set_on_the_model_is_kept(source: Sources) -> None:
    model = models.load(source("qwen3"))
    model.train()
    model.generation_config.max_new_tokens = 5
    model.set_attn_implementation("eager")
    grown = clone_model(model, **DOUBLE)
    assert grown.training
    assert grown.generation_config == model.generation_config
    assert grown.generation_config is not model.generation_config
    assert grown.config._attn_implementation == "eager"


def test_training_the_grown_model_leaves_the_source_alone(source: Sources) -> None:
    model = models.load(source("llama-gqa-tied"))
    before = contents(model.state_dict())
    grown = clone_model(model)  # same size: the tensors most likely to be shared
    assert in_memory(grown) == in_memory(model)
    grown(models.tokens(), labels=models.tokens()).loss.backward()
    torch.optim.SGD(grown.parameters(), lr=0.1).step()
    assert contents(model.state_dict()) == before
    assert in_memory(grown) != in_memory(model)
    assert grown.lm_head.weight is grown.model.embed_tokens.weight


def test_a_tied_head_gets_a_matrix_of_its_own_where_that_is_asked_for(source: Sources) -> None:
    model = models.load(source("gemma3-gqa"))
    grown = clone_model(model, embed_mult=2, tie_embeddings="untie")
    assert grown.lm_head.weight is not grown.model.embed_tokens.weight
    assert models.relative_error(models.logits(grown), models.logits(model)) <= 1e-5


def test_models_that_cannot_be_grown_are_refused(source: Sources) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    class StrangerConfig(GPT2Config):  # type: ignore[misc]
        model_type = "unheard-of"

    stranger = GPT2LMHeadModel(StrangerConfig(vocab_size=16, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(CheckpointError, match="'unheard-of' is not supported"):
        clone_model(stranger, embed_mult=2)
    quantised = models.load(source("qwen3"))
    quantised.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(CheckpointError, match="quantised"):
        clone_model(quantised, embed_mult=2)
    with pytest.raises(CheckpointError, match="not in memory"):
        clone_model(models.load(source("qwen3")).to("meta"), embed_mult=2)
    with pytest.raises(RequestError, match="12 heads"):
        clone_model(models.load(source("opt-125m")), embed_mult=2, heads_mult=3)
