"""Do the tables hold for the transformers that is installed? A tiny random model of each architecture tells."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hyperclone_cli.checkpoint.json_config import with_value
from hyperclone_cli.checkpoint.transformers_model import complaints, quiet
from hyperclone_cli.errors import last_line
from hyperclone_cli.families import Family
from hyperclone_cli.growth.request import Request
from hyperclone_cli.progress import Progress
from hyperclone_cli.writing.pipeline import expand

FACTORS = (2, 3)
TOLERANCE = 1e-5
"""Relative logit error in float32 that is rounding and no more."""

_SIZES = {
    **{"embed": 64, "proj": 64, "ffn": 96, "heads": 4, "kv_heads": 2, "head_dim": 16, "layers": 2, "vocab": 96},
    **{"experts": 4, "shared": 2, "moe_ffn": 24, "shared_ffn": 40},
    **{"q_latent": 24, "kv_latent": 16, "nope": 16, "rope": 8},
}
"""Axis → units of a tiny model."""

_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Trial:
    """How far the clones of one tiny model are from it: factor → relative logit error, or why there is none."""

    errors: dict[int, float]
    failure: str = ""

    @property
    def passed(self) -> bool:
        return not self.failure and all(error <= TOLERANCE for error in self.errors.values())

    def as_json(self) -> dict[str, Any]:
        return {"passed": self.passed, "relative_logit_errors": self.errors, "failure": self.failure}


def tiny_config(family: Family) -> dict[str, Any]:
    """The config of a tiny model: every width that the table names, and what the table says that it needs besides."""
    config: dict[str, Any] = {family.context: 64, **_TOKENS}
    for axis, key in family.sizes.items():
        if axis in _SIZES:
            for name in family.names(key):
                config = with_value(config, name, _SIZES[axis])
    for key, value in {**family.when, **family.tiny}.items():
        if value is not ...:
            config = with_value(config, key, value)
    return config


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Fill every parameter and saved buffer, norms and biases too: fresh models hide errors behind ones and zeros.

    Matrices so that activations keep their size, norm weights around 1, biases around 0.
    """
    generator = torch.Generator().manual_seed(seed)
    saved = model.state_dict()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
    with torch.no_grad():
        for name, parameter in [*model.named_parameters(), *buffers]:
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * (1.0 if "embed" in name else 1.5 * parameter.shape[-1] ** -0.5))
            else:
                around_zero = name.endswith("bias") or "lambda" in name  # those are exponents
                parameter.copy_(0.3 * noise + (0.0 if around_zero else 1.0))


def try_families(families: Collection[Family], progress: Progress) -> dict[str, Trial]:
    """The trial of each architecture, by name."""
    trials = {}
    for number, family in enumerate(families, 1):
        progress.step(f"Trying {family.name}, {number} of {len(families)}")
        trials[family.name] = try_family(family)
    return trials


def try_family(family: Family) -> Trial:
    """Grow a tiny random model of an architecture by every factor, and let stock transformers load and run it."""
    errors: dict[int, float] = {}
    with quiet(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as directory:
        warnings.simplefilter("ignore")
        source = Path(directory) / "source"
        try:
            config = AutoConfig.for_model(family.model_type, **tiny_config(family))
            model = AutoModelForCausalLM.from_config(config)
            randomise(model)
            model.save_pretrained(source, save_original_format=not family.holds)
            expected = _logits(source)
            for factor in FACTORS:
                clone = Path(directory) / f"times {factor}"
                expand(source, clone, Request(embed_mult=factor, ffn_mult=factor))
                errors[factor] = float((_logits(clone) - expected).norm() / expected.norm())
        except Exception as error:  # each architecture raises what it likes
            return Trial(errors, last_line(error))
    return Trial(errors)


@torch.no_grad()
def _logits(path: Path) -> torch.Tensor:
    """Raises ValueError if transformers misses a tensor, or finds one that it has no use for, or of another shape."""
    model, report = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    if problems := complaints(report):
        raise ValueError(", ".join(problems))
    ids = torch.randint(3, _SIZES["vocab"], (2, 24), generator=torch.Generator().manual_seed(7))
    logits: torch.Tensor = model.eval()(ids).logits.double()
    return logits
