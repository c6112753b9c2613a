"""Tiny random models of wrappers, and what stock transformers computes with them after text and after a picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText

from hyperclone_cli.families import FAMILIES
from hyperclone_cli.families.wrappers import WRAPPERS
from hyperclone_cli.verifier.picture import random_pixels
from hyperclone_cli.verifier.self_check import randomise, tiny_config

RUNNABLE = [name for name in WRAPPERS if name != "gemma3n"]
"""Wrappers whose towers transformers has without a package that these tests do not need otherwise."""

_LLAMA4_FAILS = pytest.mark.xfail(
    transformers.__version__ == "5.24.0",
    raises=AttributeError,
    strict=True,
    reason="Llama 4 with towers does not run in transformers 5.24: its forward pass reads an output that there is not",
)

TEXT = torch.randint(3, 90, (1, 20), generator=torch.Generator().manual_seed(3))


def as_run(names: Iterable[str]) -> list[Any]:
    """Names of wrappers as parameters of a test that runs them; those that stock transformers cannot run are marked."""
    return [pytest.param(name, marks=_LLAMA4_FAILS) if name == "llama4" else name for name in names]


def build(name: str, path: Path, dtype: torch.dtype = torch.float32, current: bool = False, **changes: Any) -> Path:
    """Write a random model; with `current`, under the names that transformers has in memory."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **tiny_config(FAMILIES[name]) | changes)
    model = AutoModelForImageTextToText.from_config(config)
    randomise(model)
    if dtype != torch.float32:
        model.to(dtype)
    model.save_pretrained(path, save_original_format=not current)
    return path


def load(path: Path) -> Any:
    """The checkpoint in float32; every tensor must be there and be used."""
    model, report = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert {kind: keys for kind, keys in report.items() if keys} == {}
    return model.eval()


@torch.no_grad()
def outputs(path: Path) -> dict[str, torch.Tensor]:
    """Logits in float64, after "text" and after a "picture"."""
    model = load(path)
    pixels = random_pixels(model, WRAPPERS[model.config.model_type].pixels, TEXT[0].tolist())
    return {"text": model(TEXT).logits.double(), "picture": model(**pixels).logits.double()}


def errors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """The relative error of each."""
    return {
        kind: float((found[kind] - logits).norm() / logits.norm()) for kind, logits in expected.items() if kind in found
    }
