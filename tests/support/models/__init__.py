"""Small random models of every variant that changes the layout or the function, by stock transformers.

Every parameter is random, norms and biases too: fresh initialisations hide bugs behind ones and zeros.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from hyperclone_cli.verifier.self_check import randomise
from support.models import bloom, experts, falcon, gemma, gpt, llama, minicpm, newer_mixtures, opt, phi, recurrent
from support.models.config import BASE, Variant

logging.set_verbosity_error()
logging.disable_progress_bar()

_LINEAGES = (llama, gemma, opt, gpt, falcon, bloom, phi, minicpm, experts, newer_mixtures, recurrent)

_ALL: dict[str, Variant] = {name: found for lineage in _LINEAGES for name, found in lineage.VARIANTS.items()}

assert len(_ALL) == sum(len(lineage.VARIANTS) for lineage in _LINEAGES), "two variants have the same name"

VARIANTS = {name: variant for name, variant in _ALL.items() if variant.model_type in CONFIG_MAPPING}
"""Name → every variant of every architecture that the installed transformers knows, one lineage a file."""

EACH = {variant.model_type: name for name, variant in reversed(VARIANTS.items()) if not variant.fused_experts}
"""Architecture → its first variant: for what depends on its table, and not on what a model makes of it."""


def build(
    variant: str | Variant,
    path: Path,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "50GB",
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Write a model of `variant` (or of that name), random by `seed`, with `changes` to its config.

    It is written as `save_pretrained` does.
    """
    made = VARIANTS[variant] if isinstance(variant, str) else variant
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(made.model_type, **made.config | changes))
    randomise(model, seed)
    model.to(dtype).save_pretrained(path, max_shard_size=max_shard_size, save_original_format=not made.fused_experts)
    return path


def edited(
    src: Path, out: Path, change: Callable[[dict[str, torch.Tensor]], object] | None = None, **config: Any
) -> Path:
    """Copy a checkpoint to `out`, `change` its tensors, and give its config other values; None takes a key out."""
    shutil.copytree(src, out)
    if change:
        tensors = load_file(out / "model.safetensors")
        change(tensors)
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    stated = json.loads((out / "config.json").read_text()) | config
    (out / "config.json").write_text(json.dumps({key: item for key, item in stated.items() if item is not None}))
    return out


def load(path: Path, **options: Any) -> Any:
    """The checkpoint at `path` in float32 by stock transformers; every key must be there and be used."""
    model, report = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True, **options)
    problems = {kind: keys for kind, keys in report.items() if keys}
    assert not problems, problems
    model.eval()
    return model


def tokens(rows: int = 2, length: int = 24) -> torch.Tensor:
    return torch.randint(3, BASE["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(tokens()).logits.double()
    return result


@torch.no_grad()
def decode(model: Any) -> torch.Tensor:
    """Prompts of 6 tokens and the 10 that follow: twice as many as the windows of the variants that have windows."""
    prompt = tokens(length=6)
    result: torch.Tensor = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=10
    )
    return result


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@functools.cache
def _outputs_of(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, decoded tokens) of a checkpoint that does not change, worked out once."""
    model = load(path)
    return logits(model), decode(model)


def logit_error(src: Path, clone: Path) -> float:
    """The relative error of a clone's logits against those of its source, by stock transformers."""
    return relative_error(logits(load(clone)), _outputs_of(src)[0])


def assert_same_function(src: Path, clone: Path) -> None:
    """Assert that stock transformers computes the same logits (within 1e-5) and decodes the same tokens from both."""
    model = load(clone)
    expected, continuation = _outputs_of(src)
    assert relative_error(logits(model), expected) <= 1e-5
    assert torch.equal(decode(model), continuation)
