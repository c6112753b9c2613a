"""The plot of an inspection."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.inspection import plot
from hyperclone_cli.inspection.inspector import inspect
from hyperclone_cli.writing.pipeline import expand

Sources = Callable[[str], Path]


def test_the_plot_is_a_png_with_a_row_for_each_figure(source: Sources, tmp_path: Path) -> None:
    expand(
        source("llama-gqa-tied"),
        tmp_path / "clone",
        Request(embed_mult=2, ffn_mult=2, mixing=Mixing("symmetric", noise_snr_db=10.0)),
    )
    found = inspect(tmp_path / "clone", gradients=True)
    plot.write_plot(found, tmp_path / "copies.png")
    assert (tmp_path / "copies.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    rows = plot.grid(found)
    assert list(rows)[::5] == ["attention: outputs", "feed-forward: outputs"]
    assert [len(row) for row in rows.values()] == [2] * 10


def test_a_plot_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="absent"):
        plot.check_plot(tmp_path / "absent" / "copies.png")
    monkeypatch.setattr(plot, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    with pytest.raises(RequestError) as refused:
        plot.check_plot(tmp_path / "copies.png")
    assert "pip install 'hyperclone-cli[plot]'" in refused.value.hint
