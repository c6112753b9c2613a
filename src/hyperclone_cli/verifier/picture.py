"""A text with a picture in it, for models that take one: by the checkpoint's own processor, or with random pixels."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hyperclone_cli.checkpoint.transformers_model import NOTHING_RUN, quiet_transformers
from hyperclone_cli.checkpoint.trial import too_much
from hyperclone_cli.errors import is_memory_error, last_line
from hyperclone_cli.verifier.forward import relative_error
from hyperclone_cli.verifier.loading import LoadedModel
from hyperclone_cli.verifier.report import PartialReport, PictureFigures
from hyperclone_cli.verifier.text import file_outside

QUESTION = "What does this picture show?"

_SIDE = 224
"""Pixels on each side of the picture that a processor is given."""
_MOST_TOKENS = 64
"""Tokens of text after the picture, where there is no processor."""

Inputs = dict[str, torch.Tensor]


@dataclass
class Seen:
    """A text with a picture, and what models make of it. The first that runs, the source, has it prepared.

    path  of the source, which may have a processor
    form  that of the pixels that the model takes, see `Wrapper.pixels`; "" if it takes none
    text  tokens for where there is no processor
    note  what the user should know about it
    """

    path: Path
    form: str
    text: Sequence[int]
    inputs: Inputs | None = None
    input: str = "a picture, by the processor"
    note: str = ""
    of_source: list[torch.Tensor] = field(default_factory=list)
    of_clone: torch.Tensor | None = None
    failure: str = ""

    @torch.inference_mode()
    def run(self, loaded: LoadedModel, is_clone: bool) -> None:
        """Keep the model's logits (tokens, vocab), in float32 on the CPU: the source's of each dtype, the clone's."""
        first = not self.of_source and not is_clone
        if not first and self.inputs is None:
            return
        try:
            logits = self._prepare_and_run(loaded) if first else self._run(loaded)
        except Exception as error:  # each architecture raises its own kinds
            if is_memory_error(error):
                raise
            if first:
                self.inputs = None
                self.note = f"No picture was compared: the source does not run on one ({last_line(error)})."
            elif is_clone:
                self.failure = f"picture: transformers cannot run it: {last_line(error)}"
            return
        if is_clone:
            self.of_clone = logits
        elif first and not bool(logits.isfinite().all()):
            self.inputs, self.note = None, "No picture was compared: the source computes NaN or Inf after it."
        else:
            self.of_source.append(logits)

    def _prepare_and_run(self, loaded: LoadedModel) -> torch.Tensor:
        self.inputs, self.note = processed(self.path)
        if self.inputs is not None:
            try:
                return self._run(loaded)
            except Exception as error:
                if is_memory_error(error):
                    raise
                why = f"The source does not run on what its processor prepares ({last_line(error)})"
                self.note = f"{why}; random pixels are used."
        self.inputs = loaded.run(lambda: random_pixels(loaded.model, self.form, self.text, loaded.device))
        self.input = "random pixels"
        return self._run(loaded)

    def _run(self, loaded: LoadedModel) -> torch.Tensor:
        assert self.inputs is not None
        inputs = _on_device(self.inputs, loaded.device, loaded.model.dtype)
        logits: torch.Tensor = loaded.run(lambda: loaded.model(**inputs, use_cache=False)).logits
        return logits[0].float().cpu()

    def compare(self, in_float32: bool, tolerance: float, partial: PartialReport) -> None:
        """Add to `partial` the figures, and what fails the clone.

        in_float32  whether the models ran in float32
        tolerance   what float32 arithmetic explains. What a coarser dtype does to the source is allowed the clone too,
                    as with the text's logits
        """
        partial.notes += [self.note] if self.note else []
        partial.failures += [self.failure] if self.failure else []
        if self.of_clone is None:
            return
        reference, *others = self.of_source
        floor = relative_error(others[0], reference) if others else 0.0
        floor = floor if math.isfinite(floor) else 0.0
        found = PictureFigures(
            tokens=len(reference),
            input=self.input,
            relative_error=relative_error(self.of_clone, reference),
            tolerance=max(tolerance, floor if in_float32 else 2 * floor),
            floor=floor,
        )
        partial.picture = found
        if not found.relative_error <= found.tolerance:
            partial.failures.append(f"picture: relative error {found.relative_error:.1e} exceeds {found.tolerance:.1e}")


def placeholder(config: Any) -> int | None:
    """The token that stands for a part of a picture; None for a model that takes none."""
    names = ("image_token_id", "image_token_index")
    return next((value for name in names if type(value := getattr(config, name, None)) is int), None)


def placeholders(config: Mapping[str, Any]) -> set[int]:
    """The tokens that stand for parts of pictures, films and sounds, of a raw config.json."""
    kinds = ("image_token", "video_token", "audio_token")
    return {value for key, value in config.items() if key.startswith(kinds) and type(value) is int}


def processed(path: Path) -> tuple[Inputs | None, str]:
    """(question and picture as the checkpoint's processor prepares them, ""), or (None, why there are none).

    The reason is empty for a checkpoint without a processor.
    """
    from transformers import AutoProcessor

    if not any((path / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        return None, ""

    def prepare() -> Inputs:
        with quiet_transformers():
            processor = AutoProcessor.from_pretrained(path, **NOTHING_RUN)
        content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        if getattr(processor, "chat_template", None):
            turn = [{"role": "user", "content": content}]
            text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        else:
            text = f"{processor.image_token}{QUESTION}"
        return dict(processor(text=[text], images=[[_picture()]], return_tensors="pt"))

    try:
        if outside := file_outside(path):
            return None, f"The processor names a file outside the checkpoint, {outside}; random pixels are used."
        if too_much(prepare):
            return None, "The processor takes too long, or too much memory, for a picture; random pixels are used."
        return prepare(), ""
    except Exception as error:  # processors and chat templates raise their own kinds
        return None, f"The processor does not prepare a picture ({last_line(error)}); random pixels are used."


def _picture() -> torch.Tensor:
    """Bytes (3, height, width): two ramps of brightness, and rings."""
    ramp = torch.linspace(0, 1, _SIDE)
    across, down = ramp.expand(_SIDE, -1), ramp[:, None].expand(-1, _SIDE)
    rings = (40 * ((across - 0.5) ** 2 + (down - 0.5) ** 2)).sin().abs()
    return (255 * torch.stack([across, down, rings])).to(torch.uint8)


@torch.inference_mode()
def random_pixels(model: Any, form: str, text: Sequence[int], device: torch.device | None = None) -> Inputs:
    """Random pixels of the form that a model takes, see `Wrapper.pixels`, and `text` after tokens for their features.

    device  where the model runs; None: where its weights are

    Raises whatever the model's own `get_image_features` raises.
    """
    config = model.config
    pixels = _FORMS[form](config, config.vision_config, torch.Generator().manual_seed(0))
    here = _on_device(pixels, device or model.device, model.dtype)
    parameters = inspect.signature(model.get_image_features).parameters
    features = model.get_image_features(**{name: here[name] for name in here if name in parameters}, return_dict=True)
    found = getattr(features, "pooler_output", None)
    found = features.last_hidden_state if found is None else found
    rows = sum(one.numel() // one.shape[-1] for one in _flat(found))
    image = placeholder(config)
    assert image is not None
    ids = torch.tensor([[*text[:4], *[image] * rows, *text[4:_MOST_TOKENS]]])
    kinds = (ids == image).long()
    accepted = inspect.signature(model.forward).parameters
    marks = {name: kinds for name in ("token_type_ids", "mm_token_type_ids") if name in accepted}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **marks, **pixels}


def _flat(features: Any) -> Iterable[torch.Tensor]:
    if isinstance(features, torch.Tensor):
        yield features
        return
    for one in features:
        yield from _flat(one)


def _on_device(inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Inputs:
    """The inputs on a device, pixels in the dtype of the model."""
    return {name: one.to(device, dtype) if one.is_floating_point() else one.to(device) for name, one in inputs.items()}


def _first(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)


def _whole(_: Any, vision: Any, random: torch.Generator) -> Inputs:
    side, channels = _first(getattr(vision, "image_size", _SIDE)), getattr(vision, "num_channels", 3)
    return {"pixel_values": torch.randn(1, channels, side, side, generator=random)}


def _sized(config: Any, vision: Any, random: torch.Generator) -> Inputs:
    patch = _first(vision.patch_size) * getattr(config, "spatial_merge_size", 1)
    side = 2 * patch
    return {
        "pixel_values": torch.randn(1, vision.num_channels, side, side, generator=random),
        "image_sizes": torch.tensor([[side, side]]),
    }


def _tiles(config: Any, vision: Any, random: torch.Generator) -> Inputs:
    tile = _first(vision.image_size)
    height, width = config.image_grid_pinpoints[0]
    tiles = (height // tile) * (width // tile) + 1  # and the whole picture, made smaller
    return {
        "pixel_values": torch.randn(1, tiles, vision.num_channels, tile, tile, generator=random),
        "image_sizes": torch.tensor([[height, width]]),
    }


def _frames(config: Any, vision: Any, random: torch.Generator) -> Inputs:
    return {"pixel_values": _whole(config, vision, random)["pixel_values"][None]}


def _grid(_: Any, vision: Any, random: torch.Generator) -> Inputs:
    side = 2 * vision.spatial_merge_size
    patch = _first(vision.patch_size) ** 2 * _first(vision.temporal_patch_size)
    return {
        "pixel_values": torch.randn(side * side, patch * vision.in_channels, generator=random),
        "image_grid_thw": torch.tensor([[1, side, side]]),
    }


def _placed(_: Any, vision: Any, random: torch.Generator) -> Inputs:
    merged = hasattr(vision, "model_patch_size")  # patches that the processor merges
    side = 2 if merged else 2 * vision.pooling_kernel_size
    patch = vision.model_patch_size if merged else vision.patch_size
    places = [[column, row] for row in range(side) for column in range(side)]
    return {
        "pixel_values": torch.randn(1, side * side, 3 * patch * patch, generator=random),
        "image_position_ids": torch.tensor([places]),
    }


_FORMS: dict[str, Callable[[Any, Any, torch.Generator], Inputs]] = {
    "whole": _whole,
    "sized": _sized,
    "tiles": _tiles,
    "frames": _frames,
    "grid": _grid,
    "placed": _placed,
}
