"""Random moments of AdamW beside a checkpoint, mapped from a file: also more of them than memory holds."""

from __future__ import annotations

import json
import tempfile
from math import prod
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file

from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.checkpoint.transformers_model import load_without_weights
from support import distributed

_BLOCK = 1 << 20


def add_optimizer(src: Path, in_parts: bool = False) -> Path:
    """Write optimizer.pt into the checkpoint `src`, all parameters in one group, and what the Trainer leaves beside it.

    in_parts  write weights and optimizer as accelerate does for FSDP instead, and remove the safetensors
    """
    source = open_source(src)
    model, _ = load_without_weights(source.config, source.tensors.values(), src)
    shapes = {name: tuple(one.shape) for name, one in model.named_parameters()}
    with tempfile.NamedTemporaryFile(dir=src.parent) as numbers:
        block = abs(numpy.random.default_rng(0).standard_normal(_BLOCK, dtype="float32")) / 1000
        for _ in range(-(-max(map(prod, shapes.values())) // _BLOCK)):
            block.tofile(numbers)
        numbers.flush()

        def moment(shape: tuple[int, ...]) -> torch.Tensor:
            return torch.from_file(numbers.name, shared=False, size=prod(shape), dtype=torch.float32).view(shape)

        state = {
            number: {"step": torch.tensor(500.0), "exp_avg": moment(shape), "exp_avg_sq": moment(shape)}
            for number, shape in enumerate(shapes.values())
        }
        group = {
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.1,
            "params": list(range(len(shapes))),
        }
        optimizer = {"state": state, "param_groups": [group]}
        if in_parts:
            distributed.save_run(load_file(src / "model.safetensors"), optimizer, dict(enumerate(shapes)), src)
            (src / "model.safetensors").unlink()
        else:
            torch.save(optimizer, src / "optimizer.pt")
    (src / "trainer_state.json").write_text(json.dumps({"global_step": 500}))
    return src
