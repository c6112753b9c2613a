"""How far the new layers of a clone have woken in training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from hyperclone_cli import expand
from hyperclone_cli.inspection.inspector import inspect
from hyperclone_cli.inspection.plot import grid
from support import models
from support.command_line import hyperclone

Sources = Callable[[str], Path]


@pytest.mark.parametrize("variant, widths", [("llama-gqa-tied", 2), ("gemma2", 1), ("gemma4-keys-are-values", 1)])
def test_silent_layers_are_told_from_those_that_training_has_woken(
    variant: str, widths: int, source: Sources, tmp_path: Path
) -> None:
    made = expand(source(variant), tmp_path / "clone", depth_mult=2, embed_mult=widths, ffn_mult=widths)
    new = [number for number, layer in enumerate(made.order) if layer.new]
    asleep = inspect(tmp_path / "clone")
    assert [(one.layer, one.copy_of, one.woken) for one in asleep.new_layers] == [(n, n - 1, 0.0) for n in new]
    assert not asleep.notes

    model = models.load(tmp_path / "clone")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = models.tokens()
    for _ in range(2):
        loss = cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.save_pretrained(tmp_path / "trained")
    awake = inspect(tmp_path / "trained", tmp_path / "clone")
    assert all(0.001 < one.woken < 1 for one in awake.new_layers)
    assert grid(awake)["new layers: woken"][new[0]] == awake.new_layers[0].woken


def test_a_layer_that_adds_as_much_as_the_one_that_it_copies_has_woken_to_1(source: Sources, tmp_path: Path) -> None:
    expand(source("gemma2"), tmp_path / "clone", depth_mult=2)
    expand(source("gemma2"), tmp_path / "copies", depth_mult=2, depth_init="copy")
    found = inspect(tmp_path / "copies", tmp_path / "clone")
    assert [one.woken for one in found.new_layers] == [1.0, 1.0]


def test_the_command_prints_new_layers_where_no_width_grew(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-gqa-tied"), tmp_path / "clone", depth_mult=2)
    printed = hyperclone("inspect", tmp_path / "clone").stdout
    assert printed.split()[:6] == ["new", "layers", "layer", "copy", "of", "woken"]
    assert "cosine" not in printed
