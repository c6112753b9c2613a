"""hyperclone expand against what one would do otherwise, on a tied Llama checkpoint such as SmolLM2 at 2×2.

    python against_in_memory.py CHECKPOINT [--runs 5]

One run alternates four processes and reports medians of wall time and peak memory (RSS):
importing torch alone, `cp` of the clone's weights, `hyperclone expand --no-verify`, and loading with
transformers, tiling in memory and `save_pretrained`. A table for people, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def in_memory(src: str, out: str) -> None:
    """The usual way, all tensors of both models in memory: exact for a tied Llama at 2×2."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(src)
    for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        setattr(config, key, 2 * getattr(config, key))
    source = AutoModelForCausalLM.from_pretrained(src)
    clone = AutoModelForCausalLM.from_config(config, dtype=source.dtype)
    weights = clone.state_dict()
    with torch.no_grad():
        for name, tensor in source.state_dict().items():
            if tensor.dim() == 1:
                weights[name].copy_(torch.cat([tensor, tensor]) / (2 if name == "model.norm.weight" else 1))
            elif "embed_tokens" in name or "lm_head" in name:
                weights[name].copy_(torch.cat([tensor, tensor], 1))
            else:
                rows = torch.cat([tensor, tensor], 0)
                weights[name].copy_(torch.cat([rows, rows], 1) / 2)
    clone.save_pretrained(out)


def measure(command: list[str]) -> tuple[float, float]:
    """(wall seconds, peak resident megabytes) of one process that must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    source = str(arguments.checkpoint)
    with tempfile.TemporaryDirectory(dir=arguments.checkpoint.parent) as place:
        clone, copy, usual = (str(Path(place) / name) for name in ("clone", "copy.safetensors", "usual"))
        expand = [sys.executable, "-m", "hyperclone_cli", "expand", "--no-verify", "--src", source, "--out", clone]
        processes = {
            "import torch": [sys.executable, "-c", "import torch"],
            "hyperclone expand": [*expand, "--embed-mult", "2", "--ffn-mult", "2"],
            "cp of its output": ["cp", f"{clone}/model.safetensors", copy],
            "in memory": [sys.executable, __file__, "--in-memory", source, usual],
        }
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
        for _ in range(arguments.runs):
            for made in (clone, usual):
                shutil.rmtree(made, ignore_errors=True)
            Path(copy).unlink(missing_ok=True)
            for name, command in processes.items():
                measured[name].append(measure(command))
    report(measured)


def report(measured: dict[str, list[tuple[float, float]]]) -> None:
    """Print medians, and the ratios that matter."""
    wall = {name: statistics.median(seconds for seconds, _ in runs) for name, runs in measured.items()}
    peak = {name: statistics.median(megabytes for _, megabytes in runs) for name, runs in measured.items()}
    ours = wall["hyperclone expand"] - wall["import torch"]
    results: dict[str, Any] = {
        "wall_s": wall,
        "peak_rss_mib": peak,
        "runs": measured,
        "expand_without_torch_import_over_cp": ours / wall["cp of its output"],
        "in_memory_over_expand": wall["in memory"] / wall["hyperclone expand"],
        "in_memory_peak_over_expand": peak["in memory"] / peak["hyperclone expand"],
    }
    table = Table("process", "wall, s (median)", "all runs, s", "peak RSS, MiB")
    for name, runs in measured.items():
        table.add_row(
            name, f"{wall[name]:.2f}", " ".join(f"{seconds:.2f}" for seconds, _ in runs), f"{peak[name]:,.0f}"
        )
    console = Console()
    console.print(table)
    for name, value in results.items():
        if isinstance(value, float):
            console.print(f"{name}: {value:.2f}", highlight=False)
    print(json.dumps(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in-memory"]:
        in_memory(*sys.argv[2:])
    else:
        main()
