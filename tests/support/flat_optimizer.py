"""The state of an optimizer in safetensors, flattened, with its groups in JSON, as LeRobot writes and reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

STATE, GROUPS = "optimizer_state.safetensors", "optimizer_param_groups.json"


def save(state_dict: dict[str, Any], out: Path) -> None:
    """Write the state dict of an optimizer into the directory `out`."""
    state = {f"state/{number}/{key}": item for number, one in state_dict["state"].items() for key, item in one.items()}
    save_file(state, out / STATE)
    (out / GROUPS).write_text(json.dumps(state_dict["param_groups"], indent=4))


def load(path: Path) -> dict[str, Any]:
    """The state dict of an optimizer in the directory `path`."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(path / STATE).items():
        _, number, key = name.split("/")
        state.setdefault(int(number), {})[key] = tensor
    return {"state": state, "param_groups": json.loads((path / GROUPS).read_text())}
