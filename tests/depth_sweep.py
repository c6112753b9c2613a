"""Deeper clones of every variant of the tests, judged by stock transformers.

    PYTHONPATH=tests python tests/depth_sweep.py [VARIANT]...

Each variant, of the tests' own number of layers and of four, is grown in every way below. A line says how large the
relative error of the logits is and whether greedy decoding with the cache is the same, or why the request was refused.
The last line has the number of each; the exit status is 1 if there is a clone that differs.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from hyperclone_cli import expand
from hyperclone_cli.errors import HypercloneError
from hyperclone_cli.families import FAMILIES
from support import models
from support.models import VARIANTS

WIDER: dict[str, Any] = {"embed_mult": 2, "ffn_mult": 2}
REQUESTS: dict[str, dict[str, Any]] = {
    "twice": {"depth_mult": 2},
    "twice, on top": {"depth_mult": 2, "depth_order": "top"},
    "1.5 times": {"depth_mult": 1.5},
    "1.5 times, in the middle": {"depth_mult": 1.5, "depth_order": "middle"},
    "twice, 2×2": {"depth_mult": 2, **WIDER},
    "twice, on top, 2×2": {"depth_mult": 2, "depth_order": "top", **WIDER},
    "1.5 times, 2×2": {"depth_mult": 1.5, **WIDER},
}


def judge(src: Path, out: Path, options: dict[str, Any]) -> tuple[str, str]:
    """What became of a request, "same", "refused" or "WRONG", and the figure or the reason."""
    try:
        expand(src, out, **options)
    except HypercloneError as refusal:
        return "refused", refusal.message
    try:
        error = models.relative_error(models.logits(models.load(out)), models.logits(models.load(src)))
        same = torch.equal(models.decode(models.load(out)), models.decode(models.load(src)))
    except Exception as failure:  # whatever transformers makes of a wrong clone
        return "WRONG", f"{type(failure).__name__}: {failure}"
    return "same" if same and error <= 1e-5 else "WRONG", f"{error:.1e}, decoding {'the same' if same else 'DIFFERS'}"


def sources(names: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """(variant, what is changed in its config) of each source: the variant, and one of four layers."""
    layers = {family.model_type: family.sizes["layers"] for family in FAMILIES.values()}
    found: list[tuple[str, dict[str, Any]]] = []
    for name in names:
        found += [(name, {}), (name, {layers[VARIANTS[name].model_type]: 4})]
    return found


def main(names: list[str]) -> int:
    torch.set_num_threads(1)
    kinds, worst = Counter[str](), 0.0
    for variant, config in sources(names or list(VARIANTS)):
        with tempfile.TemporaryDirectory() as directory:
            try:
                src = models.build(variant, Path(directory) / "src", **config)
            except Exception:  # its config lists what each of its own number of layers is
                continue
            for number, (request, options) in enumerate(REQUESTS.items()):
                kind, found = judge(src, Path(directory) / str(number), options)
                kinds[kind] += 1
                worst = max(worst, float(found.split(",")[0]) if kind == "same" else 0.0)
                print(f"{variant}{', 4 layers' if config else ''} | {request} | {kind} | {found}", flush=True)
    print(f"{', '.join(f'{count} {kind}' for kind, count in kinds.items())}; the largest error of a clone {worst:.1e}")
    return int(bool(kinds["WRONG"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
