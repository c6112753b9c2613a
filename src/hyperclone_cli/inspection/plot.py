"""An inspection as a heat map: layers from left to right, one row for each figure."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from hyperclone_cli.errors import RequestError
from hyperclone_cli.inspection.inspector import Inspection

FIGURES = {
    "outputs": "outputs",
    "inputs": "inputs",
    "rank": "rank",
    "gradient_outputs": "∇ outputs",
    "gradient_inputs": "∇ inputs",
}
"""Field of LayerFigures → name of its row, from the top."""


def check_plot(path: Path) -> None:
    """Raise RequestError if `path` is not a file in an existing directory, or matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise RequestError("--plot needs matplotlib.", "Install it: pip install 'hyperclone-cli[plot]'")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise RequestError(f"--plot {path}: expected a file name in an existing directory.")


def write_plot(inspection: Inspection, path: Path) -> None:
    """Write the figures of every layer to `path` as a PNG. Cosines below 0 are drawn as 0."""
    from matplotlib.figure import Figure

    rows = grid(inspection)
    width = max((len(values) for values in rows.values()), default=0)
    drawing = Figure(figsize=(4 + 0.3 * width, 2 + 0.3 * len(rows)), layout="constrained")
    axes = drawing.subplots()
    values = [[float("nan") if value is None else value for value in row] for row in rows.values()]
    # a fixed colour scale, so that plots of different checkpoints can be compared
    image = axes.imshow(values or [[float("nan")]], vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xticks(range(0, width, max(1, width // 16)))
    axes.set_xlabel("layer")
    axes.set_title("Cosine between copies, rank fraction, how far new layers have woken", loc="left")
    drawing.colorbar(image, ax=axes)
    drawing.savefig(path, format="png", dpi=150)


def grid(inspection: Inspection) -> dict[str, list[float | None]]:
    """Row name → one figure per layer of the last growth, without the embedding, the head and rows that have no figure.

    The last row is how far new layers have woken, drawn as 1 from there up.
    """
    last = max((figures.growth for figures in inspection.layers), default=1)
    shown = [figures for figures in inspection.layers if figures.growth == last]
    layers = [(figures.layer, figures) for figures in shown if figures.layer is not None]
    woken = {one.layer: one.woken for one in inspection.new_layers}
    count = 1 + max((*(layer for layer, _ in layers), *woken), default=-1)
    found: dict[str, list[float | None]] = {}
    for part in dict.fromkeys(figures.part for _, figures in layers):
        for field, name in FIGURES.items():
            row: list[float | None] = [None] * count
            for layer, figures in layers:
                if figures.part == part:
                    row[layer] = getattr(figures, field)
            if any(value is not None for value in row):
                found[f"{part}: {name}"] = row
    if woken:
        found["new layers: woken"] = [woken.get(layer) for layer in range(count)]
    return found
