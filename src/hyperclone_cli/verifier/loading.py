"""A checkpoint loaded by stock transformers: into memory where it fits, else with weights read as layers run."""

from __future__ import annotations

import ctypes
import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch

from hyperclone_cli.checkpoint.source import GgufSource, Source, TensorSource
from hyperclone_cli.checkpoint.spool import write_checkpoint
from hyperclone_cli.checkpoint.transformers_model import (
    NOTHING_RUN,
    loading_problems,
    model_class_of,
    quiet_transformers,
    stock_config,
)
from hyperclone_cli.errors import CheckpointError, HypercloneError, is_memory_error, last_line
from hyperclone_cli.verifier.forward import experts_note
from hyperclone_cli.verifier.memory import Fit, Mode

Result = TypeVar("Result")

_MMAP_THRESHOLD = -3
"""The number of that parameter in glibc's malloc.h."""


@dataclass
class LoadedModel:
    """A model that is ready to run.

    device      where its input goes
    problems    what transformers reports about loading it
    pass_bytes  read from files in each pass over the weights; 0 if all are in memory
    passes      forward passes so far
    """

    model: Any
    device: torch.device
    problems: list[str]
    mode: Mode = "in memory"
    pass_bytes: int = 0
    passes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.model.register_forward_pre_hook(self._count)

    def _count(self, *_: object) -> None:
        self.passes += 1

    def run(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, which runs the model.

        Some layers use a weight of a part without calling that part, so that nothing reads it. Then torch raises an
        error, for a weight that was not read has no data, and every layer is read as a whole from there on.
        """
        try:
            return work()
        except (RuntimeError, NotImplementedError) as error:
            if self.mode == "in memory" or "meta" not in str(error):
                raise
        for layer in self.model.modules():
            if type(layer).__name__ in (self.model._no_split_modules or ()):
                _read_as_a_whole(layer)
        return work()


def _read_as_a_whole(layer: torch.nn.Module) -> None:
    """Let accelerate's hooks of all parts of a layer read as the layer begins, and drop as it ends."""
    parts: list[Any] = [part for part in layer.modules() if hasattr(part, "_hf_hook")]
    hooks = [(part, part._hf_hook) for part in parts]
    for part, _ in hooks:
        if part is not layer:
            part.forward = part._old_forward

    def read(*_: object) -> None:
        for part, hook in hooks:
            hook.pre_forward(part)

    def drop(*_: object) -> None:
        for part, hook in hooks:
            hook.post_forward(part, None)

    layer.register_forward_pre_hook(read)
    layer.register_forward_hook(drop)


def scratch_directory(clone: Path) -> Path:
    """Where temporary files go: beside the clone, for its disk is made for weights, or where the system has them."""
    parent = clone.absolute().parent
    return parent if os.access(parent, os.W_OK) else Path(tempfile.gettempdir())


@contextmanager
def loaded(
    checkpoint: Source, dtype: torch.dtype, device: torch.device, how: Fit, scratch: Path
) -> Iterator[LoadedModel]:
    """A model in eval mode, in memory or layer by layer, as `how` says; afterwards its memory is free again.

    scratch  an existing directory, for weights that transformers computes with in another layout than it stores, and
             for those of `.bin` and GGUF files and quantised ones; what is put there is removed again

    Raises CheckpointError if the checkpoint cannot be loaded, MemoryError or torch's errors if memory is short.
    """
    by_layer = how.mode != "in memory"
    if by_layer:
        _return_freed_memory()
    needed = by_layer or len(how.free.gpus) > 1 or isinstance(checkpoint, GgufSource) or checkpoint.needs_copy
    with tempfile.TemporaryDirectory(prefix=".hyperclone-", dir=scratch) if needed else nullcontext() as directory:
        try:
            model, problems = _load(checkpoint, dtype, device, how, Path(directory) if directory else None)
        except HypercloneError:
            raise
        except Exception as error:  # whatever transformers, safetensors or the config raise
            if is_memory_error(error):
                raise
            raise CheckpointError(f"{checkpoint.path}: transformers cannot load it: {last_line(error)}") from error
        pass_bytes = _offloaded_bytes(model, checkpoint, Path(directory)) if directory and by_layer else 0
        where = torch.device(device.type, min(how.free.gpus)) if by_layer and how.free.gpus else device
        run = LoadedModel(model.eval(), where, problems, how.mode, pass_bytes)
        del model
        try:
            yield run
        finally:
            run.model = None
            gc.collect()  # hooks refer to the modules that they are attached to
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _return_freed_memory() -> None:
    """Let glibc give every freed tensor of 1 MB or more back to the system.

    By itself it raises that bound to 32 MB while a program runs, and keeps what is freed below it in pieces: layers
    that were read and dropped took 1 GB more than there was in them. See mallopt(3), M_MMAP_THRESHOLD.
    """
    with suppress(OSError, AttributeError):  # other C libraries have no such function
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 20)


def _load(
    checkpoint: Source, dtype: torch.dtype, device: torch.device, how: Fit, directory: Path | None
) -> tuple[Any, list[str]]:
    free, needs = how.free, how.needs
    placement: dict[str, Any] = {}
    if how.mode != "in memory" or len(free.gpus) > 1:
        assert directory is not None
        most: dict[int | str, int] = {
            number: max(0, nbytes - needs.activations) for number, nbytes in free.gpus.items()
        }
        most["cpu"] = max(0, free.memory - needs.activations - 2 * needs.largest)
        placement = {"device_map": "auto", "max_memory": most, "offload_folder": directory / "converted"}
    config = stock_config(checkpoint.config, checkpoint.path)
    with quiet_transformers():
        model_class = model_class_of(config, checkpoint.path)
        model, report = model_class.from_pretrained(
            _readable(checkpoint, directory),
            config=config if isinstance(config, model_class.config_class) else config.get_text_config(),
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the report names them
            **placement,
            **NOTHING_RUN,
        )
    if experts_note(model):
        model.set_experts_implementation("eager")
    if hasattr(model.config, "rescale_every"):
        # RWKV divides its weights as it starts to run, which does nothing to weights that are not read yet. They are
        # divided by powers of two, against overflow alone.
        model.config.rescale_every = 0
    return model if placement else model.to(device), loading_problems(report)


def _readable(checkpoint: Source, directory: Path | None) -> Path:
    """A directory that transformers reads the checkpoint from; its weights are in safetensors if one is given."""
    if directory is None or not (isinstance(checkpoint, TensorSource) or checkpoint.needs_copy):
        return checkpoint.path
    with checkpoint.rows() as read:
        write_checkpoint(directory, checkpoint.config, checkpoint.tensors.values(), read)
    decoding = checkpoint.path / "generation_config.json"
    if decoding.is_file():  # it tells which tokens end a text
        (directory / decoding.name).symlink_to(decoding.absolute())
    return directory


def _offloaded_bytes(model: Any, checkpoint: Source, directory: Path) -> int:
    """Bytes of the weights that are read in each pass: those that were converted as they are, others as stored."""
    converted = {path.stem: path.stat().st_size for path in (directory / "converted").glob("*.safetensors")}
    elements: int = sum(one.numel() for name, one in model.named_parameters() if one.is_meta and name not in converted)
    stored = checkpoint.tensors.values()
    item_bytes = sum(tensor.nbytes for tensor in stored) / max(1, sum(prod(tensor.shape) for tensor in stored))
    return sum(converted.values()) + round(elements * item_bytes)
