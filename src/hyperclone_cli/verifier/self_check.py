"""Check the tables of architectures with the installed transformers, on clones of a tiny random model of each."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import CONFIG_MAPPING, AutoConfig, __version__

from hyperclone_cli.checkpoint.json_config import read_config, with_value
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.checkpoint.transformers_model import (
    NOTHING_RUN,
    loading_problems,
    model_class_of,
    quiet_transformers,
    stock_config,
)
from hyperclone_cli.errors import RequestError, last_line
from hyperclone_cli.families import Family
from hyperclone_cli.families.axes import AXES
from hyperclone_cli.families.tiny_towers import TINY_TOWERS
from hyperclone_cli.families.wrapper import Wrapping
from hyperclone_cli.growth.request import DepthOrder, Request
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.verifier.picture import random_pixels
from hyperclone_cli.writing.pipeline import expand

GROWTHS = {"2": Request(embed_mult=2, ffn_mult=2), "3": Request(embed_mult=3, ffn_mult=3)}
"""Factors of hidden and feed-forward size, by name."""

DEEPER = "depth"
"""The name of twice as many layers, or half as many more, in the first order that the architecture can have."""

TOLERANCE = 1e-5
"""Relative logit error that float32 rounding explains."""

_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class FamilyCheck:
    """The clones of one tiny model: growth → relative logit error.

    failure  the error that stopped it
    not_run  why the installed transformers cannot save, load or run the tiny model, so that no table was tried

    There is no error of DEEPER where the architecture keeps its number of layers.
    """

    errors: dict[str, float]
    failure: str = ""
    not_run: str = ""

    @property
    def passed(self) -> bool:
        tried = not self.failure and not self.not_run
        return tried and all(error <= TOLERANCE for error in self.errors.values())

    def as_json(self) -> dict[str, Any]:
        found = {"relative_logit_errors": self.errors, "failure": self.failure, "not_run": self.not_run}
        return {"passed": self.passed, **found}


def tiny_config(family: Family) -> dict[str, Any]:
    """The config of a tiny model: a size for every axis of the table, and the table's own keys for tiny models."""
    if family.wrapping:
        return _with_towers(family.wrapping)
    config: dict[str, Any] = {family.context: 64, **_TOKENS}
    for axis, key in family.sizes.items():
        if AXES[axis].tiny:
            for name in family.names(key):
                config = with_value(config, name, AXES[axis].tiny)
    for key, value in {**family.layout.when, **family.tiny}.items():
        if value is not ...:
            config = with_value(config, key, value)
    return config


def _with_towers(wrapping: Wrapping) -> dict[str, Any]:
    wrapper = wrapping.wrapper
    config: dict[str, Any] = {wrapper.config: tiny_config(wrapping.text) | {"model_type": wrapper.text}}
    for key, value in {**TINY_TOWERS[wrapper.model_type], **dict.fromkeys(wrapper.widths, AXES["embed"].tiny)}.items():
        inside = config
        for part in key.split(".")[:-1]:
            inside = inside.setdefault(part, {})
        inside[key.rpartition(".")[2]] = value
    return config


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Fill every parameter and saved buffer with random numbers: the ones and zeros of a fresh model hide errors.

    Matrices keep the scale of activations; norm weights are around 1, biases around 0. Whole numbers that
    are all zero are those of experts, of which there are two at least; others the model has worked out, and needs.
    """
    generator = torch.Generator().manual_seed(seed)
    saved = model.state_dict()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
    with torch.no_grad():
        for name, parameter in [*model.named_parameters(), *buffers]:
            noise = torch.randn(parameter.shape, generator=generator)
            if not parameter.is_floating_point():
                parameter.copy_(parameter if parameter.any() else noise > 0)
            elif name.endswith("slope_rate"):
                parameter.copy_(noise.abs())  # below zero a state would grow with every token
            elif parameter.dim() > 1:
                parameter.copy_(noise * (1.0 if "embed" in name else 1.5 * parameter.shape[-1] ** -0.5))
            else:
                around_zero = name.endswith("bias") or "lambda" in name  # lambdas are exponents
                parameter.copy_(0.3 * noise + (0.0 if around_zero else 1.0))


def known_here(families: Collection[Family], progress: Progress) -> list[Family]:
    """Those of an architecture that the installed transformers knows; an older release has not heard of the newest."""
    known = [family for family in families if family.model_type in CONFIG_MAPPING]
    if unknown := len(families) - len(known):
        progress.step(f"Leaving out {unknown} that transformers {__version__} does not know")
    return known


def check_families(families: Collection[Family], progress: Progress) -> dict[str, FamilyCheck]:
    """Architecture → its check."""
    checks = {}
    for number, family in enumerate(families, 1):
        progress.step(f"Growing a tiny {family.name}, {number} of {len(families)}")
        checks[family.name] = check_family(family)
    return checks


def check_family(family: Family) -> FamilyCheck:
    """Grow a tiny random model in each way, and compare the logits of the clones under stock transformers."""
    errors: dict[str, float] = {}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as directory:
        warnings.simplefilter("ignore")
        source = Path(directory) / "source"
        try:
            with quiet_transformers():
                _save_tiny(family, source)
                expected = _logits(source, family)
        except Exception as error:  # each architecture raises its own kinds
            return FamilyCheck(errors, not_run=last_line(error))
        try:
            for name, request in (GROWTHS | _deeper(open_source(source))).items():
                clone = Path(directory) / name
                expand(source, clone, request)
                with quiet_transformers():
                    errors[name] = _error(_logits(clone, family), expected)
        except Exception as error:
            return FamilyCheck(errors, last_line(error))
    return FamilyCheck(errors)


def _save_tiny(family: Family, path: Path) -> None:
    """Write a tiny random model, in the layout of the table."""
    config = AutoConfig.for_model(family.model_type, **tiny_config(family))
    model = model_class_of(config, family.name)(config)
    randomise(model)
    model.save_pretrained(path, save_original_format=not family.layout.module)


def _deeper(source: Source) -> dict[str, Request]:
    """Twice as many layers, or half as many more, in the first order that the architecture can have, if any."""
    for times, order in product((2, 1.5), get_args(DepthOrder)):
        request = Request(depth_mult=times, depth_order=order)
        try:
            make_plan(source, request)
        except RequestError:
            continue
        return {DEEPER: request}
    return {}


def _error(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest relative error, of the logits after text and after a picture."""
    return max(float((one - other).norm() / other.norm()) for one, other in zip(found, expected, strict=True))


def _logits(path: Path, family: Family) -> list[torch.Tensor]:
    """Logits of random tokens in float64, and around a wrapper those of random pixels too.

    Raises ValueError for missing, unexpected or mismatched tensors.
    """
    model_class = model_class_of(stock_config(read_config(path), path.name), path.name)
    model, report = model_class.from_pretrained(path, dtype=torch.float32, output_loading_info=True, **NOTHING_RUN)
    if problems := loading_problems(report):
        raise ValueError(", ".join(problems))
    return tiny_logits(model.eval(), family)


@torch.no_grad()
def tiny_logits(model: Any, family: Family) -> list[torch.Tensor]:
    """Logits of a tiny model in float64: of random tokens, and where it takes pictures of random pixels among them."""
    # the last tokens stand for pictures and sounds
    ids = torch.randint(3, AXES["vocab"].tiny - 6, (2, 24), generator=torch.Generator().manual_seed(7))
    logits = [model(ids).logits.double()]
    if family.wrapping:
        pixels = random_pixels(model, family.wrapping.wrapper.pixels, ids[0].tolist())
        logits.append(model(**pixels).logits.double())
    return logits
