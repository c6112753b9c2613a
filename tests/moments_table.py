"""Grown moments against the truth: the clone's own gradients and their squares. It prints docs/training.md's table.

A tiny trained Llama and its clones see the same batches. Their gradients and the squares of these, averaged over the
batches, are what an optimizer's moments are averages of. Those of the source, grown, are compared with those of the
clone: relative L2 error over all parameters. Padding, which has no moments to grow, is left out.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from hyperclone_cli import expand, plan
from hyperclone_cli.checkpoint.row_io import rows_in_memory
from hyperclone_cli.checkpoint.source import stored_tensors
from hyperclone_cli.checkpoint.transformers_model import gradients_of
from hyperclone_cli.growth.strategies import STRATEGIES
from hyperclone_cli.planning.moments import grow_moment
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.writing.in_memory import grow_whole
from support import models

BATCHES = 50
Moments = dict[str, torch.Tensor]
GROWTHS: Mapping[str, dict[str, Any]] = {
    "2 × 2": {"embed_mult": 2, "ffn_mult": 2},
    "3 × 3": {"embed_mult": 3, "ffn_mult": 3},
    "1.5 × 1.5": {"embed_mult": 1.5, "ffn_mult": 1.5, "heads_mult": 1},
    "feed-forward 2 ×": {"ffn_mult": 2},
    "heads 2 ×": {"heads_mult": 2},
    "head size 2 ×": {"head_dim_mult": 2},
    "depth 2 ×": {"depth_mult": 2},
}


def batches(count: int, vocabulary: int) -> list[torch.Tensor]:
    """Random walks over the tokens, which a model can learn something of."""
    generator = torch.Generator().manual_seed(1)
    steps = torch.randint(-3, 4, (count, 4, 24), generator=generator)
    return list(steps.cumsum(2) % vocabulary)


def train(path: Path, ids: list[torch.Tensor]) -> Path:
    """The model at `path`, trained for a while in its place, so that its gradients are not those of random weights."""
    model = models.load(path).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for batch in ids:
        loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)
    return path


def loss(model: Any, batch: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model(batch).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())


def moments(path: Path, ids: list[torch.Tensor]) -> tuple[Moments, Moments]:
    """The means over the batches of the gradient of every stored tensor, and of its square."""
    model = models.load(path)
    first: Moments = {}
    second: Moments = {}
    for batch in ids:
        model.zero_grad()
        loss(model, batch).backward()  # type: ignore[no-untyped-call]
        for name, gradient in gradients_of(model).items():
            first[name] = first.get(name, 0) + gradient / len(ids)
            second[name] = second.get(name, 0) + gradient.square() / len(ids)
    return first, second


def grown(of: Plan, held: Moments, power: int) -> Moments:
    """The moments of the source, by the names of its tensors, as those of the clone."""
    stored = stored_tensors(Path(), held)
    tensors = [grow_moment(of, one, stored[one.source.name], power, one.name) for one in of.tensors]
    return grow_whole(tensors, rows_in_memory(held))


def copied(of: Plan) -> Moments:
    """1 for every weight of the clone that copies one of the source, 0 for padding."""
    ones = {one.source.name: torch.ones(one.source.shape) for one in of.tensors}
    stored = stored_tensors(Path(), ones)
    tensors = [grow_moment(of, one, stored[one.source.name], 1, one.name) for one in of.tensors]
    plain = [
        one.changed(gain=1.0, silent=False, growths=tuple(growth.unscaled() for growth in one.growths))
        for one in tensors
    ]
    return grow_whole(plain, rows_in_memory(ones))


def error(found: Moments, true: Moments, where: Moments) -> float:
    """Relative L2 error over all parameters where there is one; those that have no gradient count as zero."""
    pairs = [(found[name], true.get(name, torch.zeros_like(found[name])), where[name]) for name in found]
    off = sum(float(((a - b) * mask).double().square().sum()) for a, b, mask in pairs)
    size = sum(float((b * mask).double().square().sum()) for _, b, mask in pairs)
    return (off / size) ** 0.5 if size else float("inf") if off else 0.0


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        for variant in ("llama-gqa-tied", "llama-mha"):
            src = models.build(variant, Path(directory) / variant)
            ids = batches(2 * BATCHES, models.load(src).config.vocab_size)
            train(src, ids[BATCHES:])
            held = moments(src, ids[:BATCHES])
            print(f"\n{variant}\n| growth | strategy | gradient | its square |")
            for what, options in GROWTHS.items():
                for strategy in STRATEGIES:
                    out = Path(directory) / f"{variant}-{what}-{strategy}".replace(" ", "")
                    of = plan(src, strategy=strategy, **options)
                    expand(src, out, strategy=strategy, **options)
                    true = moments(out, ids[:BATCHES])
                    where = copied(of)
                    found = grown(of, held[0], 1), grown(of, held[1], 2)
                    errors = [f"{error(a, b, where):.1e}" for a, b in zip(found, true, strict=True)]
                    print(f"| {what} | `{strategy}` | {' | '.join(errors)} |", flush=True)
                    if len(sys.argv) > 1:
                        for name in found[0]:
                            e = [error({name: a[name]}, b, where) for a, b in zip(found, true, strict=True)]
                            print(f"      {name} {e[0]:.1e} {e[1]:.1e}")


if __name__ == "__main__":
    main()
