"""Every wrapper at several growths: prints a table, and exits with 1 if a figure is too large.

    PYTHONPATH=tests python tests/wrappers_table.py [NAME …]

A tiny random model of each, its clones at 2×2, 3× and 1.5×, and the relative error of their logits, in float32, against
stock transformers: after text, after text with a picture, and those of the text model alone, after text. Towers are
compared byte for byte. A wrapper that stock transformers does not run is named, and is no failure.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers.utils import logging

from hyperclone_cli.errors import HypercloneError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.writing.pipeline import expand
from support import models, wrapped

GROWTHS = {"2×2": (2, 2), "3×": (3, 3), "1.5×": (1.5, 1.5)}
BOUND = 1e-5


def figures(name: str, directory: Path) -> list[str]:
    """A row: for each growth the errors after text, after a picture, and alone; then whether towers are the same."""
    src = wrapped.build(name, directory / "src")
    try:
        expected = wrapped.outputs(src)
    except Exception as error:  # a fault of the installed transformers: Llama 4's in 5.24
        return [f"refused: stock transformers does not run the source ({error})"] * 9 + ["not compared"]
    before = load_file(src / "model.safetensors")
    row, same = [], True
    for label, (embed, ffn) in GROWTHS.items():
        for alone in (False, True):
            clone = directory / f"{label} {alone}"
            try:
                made = expand(src, clone, Request(embed_mult=embed, ffn_mult=ffn, text_only=alone))
            except HypercloneError as error:
                row += [f"refused: {error.message}"] * (2 - alone)
                continue
            with torch.no_grad():
                found = {"text": models.load(clone)(wrapped.TEXT).logits.double()} if alone else wrapped.outputs(clone)
            row += [f"{error:.1e}" for error in wrapped.errors(found, expected).values()]
            after = load_file(clone / "model.safetensors")
            kept = [tensor.name for tensor in made.tensors if tensor.kept]
            same &= all(before[one].numpy().tobytes() == after[one].numpy().tobytes() for one in kept)
    return [*row, "identical" if same else "DIFFERENT"]


def main(names: list[str]) -> int:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    heads = [f"{label} {kind}" for label in GROWTHS for kind in ("text", "picture", "alone")]
    print("| wrapper |", " | ".join([*heads, "towers"]), "|")
    print("|---" * (len(heads) + 2) + "|")
    passed = True
    for name in names or wrapped.RUNNABLE:
        with tempfile.TemporaryDirectory() as directory:
            row = figures(name, Path(directory))
        print(f"| {name} |", " | ".join(row), "|", flush=True)
        errors = [float(figure) for figure in row[:-1] if not figure.startswith("refused: ")]
        passed &= row[-1] != "DIFFERENT" and all(error <= BOUND for error in errors)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
