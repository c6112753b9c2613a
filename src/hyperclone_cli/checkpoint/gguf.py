"""A GGUF file, read by transformers: the dequantised model, its config and its tokenizer."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperclone_cli.checkpoint.json_config import read_json
from hyperclone_cli.checkpoint.transformers_model import NOTHING_RUN, quiet_transformers, weights_of
from hyperclone_cli.errors import CheckpointError, RequestError, last_line

if TYPE_CHECKING:
    import torch

DEFAULT_DTYPE = "bfloat16"
"""What a file is dequantised to unless the user says otherwise: most models are trained in it."""


def is_gguf(path: Path) -> bool:
    """Whether a file has the suffix of GGUF files."""
    return path.suffix.lower() == ".gguf"


@contextmanager
def pretrained_arguments(path: Path) -> Iterator[dict[str, Any]]:
    """The arguments with which `from_pretrained` reads `path`, a directory or a GGUF file.

    A file is read through a link in an empty directory: transformers would also read the config or tokenizer beside it.
    """
    if path.is_dir():
        yield {"pretrained_model_name_or_path": path}
        return
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / path.name).symlink_to(path.absolute())
        yield {"pretrained_model_name_or_path": directory, "gguf_file": path.name}


def _check(path: Path) -> None:
    """Raise CheckpointError for anything but one whole GGUF file, RequestError if packages are not installed."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise CheckpointError(f"{path}: not a GGUF file: it begins with {magic!r}.", "Fetch the file again.")
    if re.search(r"-\d{5}-of-\d{5}$", path.stem):
        raise CheckpointError(f"{path}: one of several files of a model.", "Merge them: llama-gguf-split --merge.")
    if find_spec("gguf") is None:
        raise RequestError(f"{path}: reading GGUF needs gguf.", "Install it: pip install 'hyperclone-cli[gguf]'")


def _load_model(path: Path, dtype: str) -> tuple[Any, dict[str, Any]]:
    """(model, transformers' loading info) of a GGUF file, dequantised to `dtype`."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    dequantise = GgufConfig(dequantize=True)
    # stderr too: the progress bar of the GGUF reader cannot be switched off
    with quiet_transformers(), redirect_stderr(StringIO()), pretrained_arguments(path) as arguments:
        model, report = AutoModelForCausalLM.from_pretrained(
            **arguments,
            quantization_config=dequantise,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            **NOTHING_RUN,
        )
    return model, report


def read_model(path: Path, dtype: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(config, name → tensor) that `save_pretrained` would write of a GGUF file dequantised to `dtype`.

    Raises CheckpointError if transformers cannot read the file, RequestError if packages are not installed.
    """
    _check(path)
    try:
        model, report = _load_model(path, dtype)
        missing = sorted(report["missing_keys"])
        if missing:
            raise ValueError(f"tensor {missing[0]} is missing")
        with quiet_transformers(), tempfile.TemporaryDirectory() as directory:
            model.config.architectures = [type(model).__name__]
            model.config.save_pretrained(directory)
            config = read_json(Path(directory) / "config.json")
    except Exception as error:  # transformers and gguf raise their own kinds
        raise _refusal(path, error) from None
    config.pop("transformers_version", None)  # the version that reads the file is not part of the model
    return config, weights_of(model)


def read_tokenizer(path: Path) -> dict[str, bytes]:
    """File name → contents of the tokenizer in a GGUF file, as `save_pretrained` writes it.

    Raises CheckpointError if transformers cannot read it.
    """
    from transformers import AutoTokenizer

    try:
        with quiet_transformers(), pretrained_arguments(path) as arguments, tempfile.TemporaryDirectory() as directory:
            AutoTokenizer.from_pretrained(**arguments, **NOTHING_RUN).save_pretrained(directory)
            files = [file for file in Path(directory).rglob("*") if file.is_file()]
            return {str(file.relative_to(directory)): file.read_bytes() for file in files}
    except Exception as error:  # tokenizers raise their own kinds
        raise _refusal(path, error) from None


def _refusal(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: transformers cannot read it: {last_line(error)}",
        "Use the model in its original format, from before it was converted.",
    )
