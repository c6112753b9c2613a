"""Stock transformers: how it loads a checkpoint here, and a loaded model in the names and layout of its checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol

from hyperclone_cli.errors import CheckpointError, last_line
from hyperclone_cli.families.transformers_faults import fault_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

NOTHING_RUN: Mapping[str, Any] = {"trust_remote_code": False, "local_files_only": True}
"""Arguments of every `from_pretrained`: code of a checkpoint is not run, nor is anybody asked; nothing is fetched."""

_HOW_TO_RUN = ("attn_implementation", "experts_implementation")
"""Keys of config.json, with or without "_", that name kernels of the machine on which it was saved."""


class Described(Protocol):
    """A tensor that need not be in memory. `dtype` is that of safetensors."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def stock_config(config: Mapping[str, Any], path: Path | str) -> PreTrainedConfig:
    """A raw config.json as transformers reads it, except that transformers chooses the kernels that run the model.

    path  of the checkpoint, for messages

    Raises CheckpointError, with the reason, for a config that transformers refuses, and for an architecture in which
    the installed release has a fault that nothing else shows.
    """
    from transformers import CONFIG_MAPPING, __version__

    model_type = config["model_type"]
    if fault := fault_of(model_type, __version__):
        raise CheckpointError(
            f"{path}: transformers {__version__} {fault.what}.",
            f"Install transformers {fault.mended} or later.",
        )
    if model_type not in CONFIG_MAPPING:
        own_code = " The checkpoint's own code (auto_map) is never run." if "auto_map" in config else ""
        raise CheckpointError(
            f"{path}: transformers {__version__} does not know model_type {model_type!r}.{own_code}",
            "Install a version that does. Or if it is another architecture under a name of its own, change model_type"
            " in config.json to the name of that architecture.",
        )
    with quiet_transformers():
        try:
            text = json.dumps(_without_kernels(config))
            fields = json.loads(text, object_hook=_special_float)  # a copy, as if from a file
            return CONFIG_MAPPING[model_type].from_dict(fields)  # as AutoConfig.from_pretrained does
        except Exception as error:  # each architecture raises its own kinds
            raise CheckpointError(f"{path}: transformers refuses the config: {last_line(error)}") from None


def _special_float(item: dict[str, Any]) -> Any:
    """NaN or Inf, which transformers writes as {"__float__": "NaN"}; any other object unchanged."""
    return float(item["__float__"]) if item.keys() == {"__float__"} else item


def _without_kernels(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _without_kernels(item) for key, item in value.items() if str(key).lstrip("_") not in _HOW_TO_RUN}


def load_without_weights(
    config: Mapping[str, Any], tensors: Iterable[Described], path: Path | str
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """(model on the meta device, transformers' loading info) of a checkpoint of which only the headers are known.

    path  of the checkpoint, for messages

    Raises CheckpointError, with the reason, where transformers refuses the checkpoint.
    """
    import torch

    from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES

    whole = stock_config(config, path)
    model_class = model_class_of(whole, path)
    known = whole if isinstance(whole, model_class.config_class) else whole.get_text_config()
    with quiet_transformers(), _nothing_on_the_cpu():
        try:
            model, report = model_class.from_pretrained(
                None,
                config=known,
                state_dict={
                    tensor.name: torch.empty(
                        tensor.shape, dtype=TORCH_DTYPES.get(tensor.dtype, torch.float32), device="meta"
                    )
                    for tensor in tensors
                },
                device_map="meta",
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the report names them
                **NOTHING_RUN,
            )
        except Exception as error:  # each architecture raises its own kinds
            raise CheckpointError(f"{path}: transformers refuses the model: {last_line(error)}") from error
    return model, report


@contextmanager
def _nothing_on_the_cpu() -> Iterator[None]:
    """Transformers joins some large tensors on the CPU, whatever the device: those without data cannot go there.

    It has no argument for that. Only inside `quiet_transformers`, which lets in one thread at a time.
    """
    from transformers.core_model_loading import WeightConverter

    stored: Any = getattr(WeightConverter, "force_cpu", None)
    if stored is None:  # releases that join all tensors where they are
        yield
        return
    WeightConverter.force_cpu = property(lambda _: False, stored.__set__)
    try:
        yield
    finally:
        WeightConverter.force_cpu = stored


def model_class_of(config: PreTrainedConfig, path: Path | str) -> Any:
    """The stock class of a model that makes logits from text, and from pictures where it takes any.

    path  of the checkpoint, for messages

    Raises CheckpointError where transformers has none.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    for mapping in (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
        if type(config) in mapping:
            return mapping[type(config)]
    raise CheckpointError(f"{path}: transformers has no causal language model of model_type {config.model_type!r}.")


def starts_as_zeros(model: PreTrainedModel, name: str) -> bool:
    """Whether transformers fills the parameter `name` of a model on the meta device with zeros if it is not stored."""
    import torch

    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    value = torch.nn.Parameter(torch.full(module.get_parameter(leaf).shape, torch.nan))
    setattr(module, leaf, value)
    module._is_hf_initialized = False
    model._initialize_weights(module)
    return not bool(module.get_parameter(leaf).any())


_LOADING = RLock()
"""Loading replaces methods of transformers' classes for a moment: two threads at once may leave them replaced."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Switch off the bars and warnings of transformers and accelerate meanwhile.

    One thread at a time: it must not wait for another that loads, as `expand` does.
    """
    with _LOADING:
        yield from _quietly()


def _quietly() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    accelerate = logging.getLogger("accelerate")
    accelerate_level = accelerate.level
    accelerate.setLevel(logging.CRITICAL)
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        accelerate.setLevel(accelerate_level)
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def loading_problems(report: Mapping[str, Any]) -> list[str]:
    """The faults in transformers' loading info: "missing tensor NAME", "unexpected tensor NAME", "mismatched …"."""
    return [
        f"{kind.removesuffix('_keys')} tensor {key[0] if isinstance(key, tuple) else key}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        for key in sorted(report[kind])
    ]


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Name → tensor as `save_pretrained` would write them, without copying."""
    named = model.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(named.items())}  # a tied head is the embedding's tensor
    weights = {name: tensor.detach() for name, tensor in named.items() if first[id(tensor)] == name}
    return as_saved(model, weights)


def gradients_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Name → gradient of every parameter that has one, in the names and layout of `weights_of`."""
    return as_saved(model, {name: one.grad for name, one in model.named_parameters() if one.grad is not None})


def as_saved(model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors by the names of a model's parameters, in the names and layout that save_pretrained gives them."""
    # as save_pretrained does: some architectures rename or fuse tensors on loading
    from transformers.core_model_loading import revert_weight_conversion

    reverted: dict[str, torch.Tensor] = revert_weight_conversion(model, tensors)
    return reverted
