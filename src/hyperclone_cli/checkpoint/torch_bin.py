"""A PyTorch `.bin` file: a pickled state dict, read without running any code that the pickle names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_STORED, ZipFile, is_zipfile

from hyperclone_cli.checkpoint.trial import too_much
from hyperclone_cli.errors import DEQUANTISE, CheckpointError, last_line

if TYPE_CHECKING:
    import torch


def can_be_mapped(path: Path) -> bool:
    """Whether a file can be memory-mapped: it is in the zip format of torch 1.6 and later."""
    return is_zipfile(path)


def read_bin(path: Path) -> dict[str, torch.Tensor]:
    """Name → tensor of one file, memory-mapped where its format allows that.

    Raises CheckpointError for a file that is damaged, refers to anything but tensors, or is not a state dict.
    """
    import torch

    content = load_mapped(path)
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path}: expected a state dict, tensor by name, found {type(content).__name__}.",
            "Save the model with transformers' save_pretrained.",
        )
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise CheckpointError(
                f"{path}: expected a state dict, tensor by name, found {type(tensor).__name__} under {short(name)}.",
                "Take the state dict out of the training checkpoint, or save the model with save_pretrained.",
            )
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(f"{path}: tensor {name!r} is quantised, sparse or empty.", DEQUANTISE)
    return {name: tensor.detach() for name, tensor in content.items()}


def load_mapped(path: Path) -> Any:
    """What torch.save wrote: tensors, memory-mapped where the format allows that, in plain containers.

    Raises CheckpointError for a file that is damaged, or refers to anything else.
    """
    import warnings

    import torch

    try:
        with warnings.catch_warnings():  # torch's warnings are for whoever wrote the file
            warnings.simplefilter("ignore")
            _check_uncompressed(path)
            if can_be_mapped(path) and too_much(lambda: torch.load(path, map_location="meta", weights_only=True)):
                raise CheckpointError(
                    f"{path}: refused: its pickle takes too long to read, or too much memory, without a weight in it.",
                    "Use a safetensors version of the model.",
                )
            return torch.load(path, map_location="cpu", weights_only=True, mmap=can_be_mapped(path))
    except (FileNotFoundError, PermissionError, CheckpointError):
        raise
    except Exception as error:  # the unpickler, the zip reader and the storages raise their own kinds
        raise _refusal(path, error) from None


def _check_uncompressed(path: Path) -> None:
    """Raise CheckpointError for a compressed archive, which torch never writes and which could unpack to any size."""
    if not can_be_mapped(path):
        return
    with ZipFile(path) as archive:
        compressed = [entry.filename for entry in archive.infolist() if entry.compress_type != ZIP_STORED]
    if compressed:
        raise CheckpointError(
            f"{path}: its entry {compressed[0]!r} is compressed, and could unpack to any size; torch compresses none.",
            "Load it and save it again with torch.save, or fetch the file again.",
        )


def _refusal(path: Path, error: Exception) -> CheckpointError:
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return CheckpointError(
            f"{path}: refused: its pickle asks for {named[1]!r}, which could run code; a state dict needs none.",
            "Use a safetensors version of the model, or have its author save the state dict alone.",
        )
    reason = next((line for line in str(error).splitlines() if line.startswith("Unsupported")), last_line(error))
    return CheckpointError(
        f"{path}: truncated, damaged or not a PyTorch file ({reason}).",
        "If torch.load reads it where it is trusted, save it again with torch.save; else fetch the file again.",
    )
