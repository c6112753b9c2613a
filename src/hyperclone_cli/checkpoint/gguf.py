"""A GGUF file, by transformers' own reader: the model dequantised, its config, its tokenizer."""

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
from hyperclone_cli.checkpoint.transformers_model import quiet, weights_of
from hyperclone_cli.errors import CheckpointError, RequestError, last_line

if TYPE_CHECKING:
    import torch

DEFAULT_DTYPE = "bfloat16"
"""What a file is dequantised to unless the user says otherwise: what most models were trained in."""


def is_gguf(path: Path) -> bool:
    """Whether a file is called as GGUF files are."""
    return path.suffix.lower() == ".gguf"


@contextmanager
def alone(path: Path) -> Iterator[dict[str, Any]]:
    """What `from_pretrained` takes to read `path`, a directory or a GGUF file.

    A file is read from a directory in which it is alone: transformers would mix it with what lies beside it.
    """
    if path.is_dir():
        yield {"pretrained_model_name_or_path": path}
        return
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / path.name).symlink_to(path.absolute())
        yield {"pretrained_model_name_or_path": directory, "gguf_file": path.name}


def _check(path: Path) -> None:
    """Raise CheckpointError for a file that is no whole GGUF, RequestError if what reads them is not installed."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise CheckpointError(f"{path}: no GGUF file: it begins with {magic!r}.", "Fetch the file again.")
    if re.search(r"-\d{5}-of-\d{5}$", path.stem):
        raise CheckpointError(
            f"{path}: one of several files that make up a model.", "Join them first: llama-gguf-split --merge."
        )
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        raise RequestError(
            f"{path}: reading GGUF needs {' and '.join(missing)}.", "Install it: pip install 'hyperclone-cli[gguf]'"
        )


def load_model(path: Path, dtype: str) -> tuple[Any, dict[str, Any]]:
    """The model in a GGUF file, dequantised to `dtype`, and what transformers reports about the loading."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    dequantise = GgufConfig(dequantize=True)
    with quiet(), redirect_stderr(StringIO()), alone(path) as place:  # the reader's own bar has no switch
        model, report = AutoModelForCausalLM.from_pretrained(
            **place,
            quantization_config=dequantise,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            local_files_only=True,
        )
    return model, report


def read_model(path: Path, dtype: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(config, tensors) that `save_pretrained` would make of a GGUF file dequantised to `dtype`.

    Raises CheckpointError if transformers cannot read the file, RequestError if packages are missing.
    """
    _check(path)
    try:
        model, report = load_model(path, dtype)
        absent = sorted(report["missing_keys"])
        if absent:
            raise ValueError(f"tensor {absent[0]} is missing")
        with quiet(), tempfile.TemporaryDirectory() as directory:
            model.config.architectures = [type(model).__name__]
            model.config.save_pretrained(directory)
            config = read_json(Path(directory) / "config.json")
    except Exception as error:  # transformers and gguf raise what they like
        raise _refusal(path, error) from None
    config.pop("transformers_version", None)  # who wrote it is not part of the model
    return config, weights_of(model)


def read_tokenizer(path: Path) -> dict[str, bytes]:
    """Name → contents of the tokenizer's files that `save_pretrained` would make of a GGUF file.

    Raises CheckpointError if transformers cannot read them.
    """
    from transformers import AutoTokenizer

    try:
        with quiet(), alone(path) as place, tempfile.TemporaryDirectory() as directory:
            AutoTokenizer.from_pretrained(**place).save_pretrained(directory)
            files = [file for file in Path(directory).rglob("*") if file.is_file()]
            return {str(file.relative_to(directory)): file.read_bytes() for file in files}
    except Exception as error:  # tokenizers raise what they like
        raise _refusal(path, error) from None


def _refusal(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: transformers cannot read it: {last_line(error)}",
        "Use the model in its original format, from before it was converted.",
    )
