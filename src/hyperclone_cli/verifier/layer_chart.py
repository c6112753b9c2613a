"""The error of every layer against what passes, as an SVG whose colours are those of the page around it."""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING, Any

from hyperclone_cli.verifier.report import LogitFigures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _LINE, _GOOD, _BAD, _PAPER = (f"#0000{number:02x}" for number in range(1, 7))
_STYLES = {_INK: "ink", _MUTED: "muted", _LINE: "line", _GOOD: "good", _BAD: "bad", _PAPER: "paper"}
"""Colours that stand for variables of the page's style sheet, which has a light and a dark set of them."""

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "hyperclone",  # the same figures give the same bytes
    "font.size": 10,
    "text.parse_math": False,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
}

_MOST_TICKS = 20


def layer_chart(logits: LogitFigures) -> str:
    """An <svg> element: the relative error of every layer's worst copy, and that of the logits, on a log scale.

    An error of zero lies on the lower edge as a hollow mark, one that is not finite on the upper edge as a cross.
    """
    import matplotlib
    from matplotlib.figure import Figure

    errors = [*(error for _, error in logits.layers), logits.relative_error]
    low, high = _range([*errors, logits.tolerance, logits.floor])
    with matplotlib.rc_context(_SETTINGS):
        drawing = Figure(figsize=(9.2, 3.7), layout="constrained")
        drawing.patch.set_alpha(0)
        axes = drawing.subplots()
        axes.patch.set_alpha(0)
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.set_xlim(-0.6, len(errors) - 0.4)
        axes.grid(axis="y", color=_LINE, linewidth=0.5, alpha=0.6)
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda height, _: f"{height:.0e}")
        axes.axhspan(logits.tolerance, high, color=_BAD, alpha=0.07, linewidth=0)
        axes.axhline(logits.tolerance, color=_BAD, linewidth=1.2)
        _label(axes, logits.tolerance, f"above {logits.tolerance:.1e}\nfails", _BAD, above=True)
        if low < logits.floor:
            if logits.floor != logits.tolerance:
                axes.axhline(logits.floor, color=_MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
            what = f"{logits.floor:.1e}: what\n{logits.floor_dtype} does to\nthe source's logits"
            _label(axes, logits.floor, what, _MUTED, above=False)
        heights = [min(max(error, low), high) if math.isfinite(error) else high for error in errors]
        axes.plot(range(len(errors)), heights, color=_MUTED, linewidth=1, alpha=0.6, zorder=2)
        for place, (error, height) in enumerate(zip(errors, heights, strict=True)):
            colour = _GOOD if error <= logits.tolerance else _BAD
            axes.plot(
                [place],
                [height],
                marker="o" if math.isfinite(error) else "X",
                markersize=5.5 if len(errors) <= 40 or not math.isfinite(error) else 3.5,
                color=colour,
                markerfacecolor=_PAPER if error == 0 else colour,
                clip_on=False,
                gid=f"mark-{place}",
                zorder=3,
            )
        names = _short_names(logits)
        shown = _ticks(len(names))
        axes.set_xticks(shown, [names[place] for place in shown])
        axes.set_ylabel("relative error")
        axes.set_xlabel("layer")
        file = io.StringIO()
        drawing.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _for_the_page(file.getvalue())


def _range(figures: list[float]) -> tuple[float, float]:
    """Powers of ten around all that are finite and not zero, with room."""
    powers = [math.log10(figure) for figure in figures if math.isfinite(figure) and figure > 0]
    return 10.0 ** (math.floor(min(powers)) - 1), 10.0 ** (math.ceil(max(powers)) + 1)


def _label(axes: Axes, height: float, text: str, colour: str, above: bool) -> None:
    """Write to the right of the axes, where no mark can be."""
    axes.annotate(
        text,
        (1.0, height),
        xycoords=axes.get_yaxis_transform(),
        xytext=(8, 2 if above else -2),
        textcoords="offset points",
        va="bottom" if above else "top",
        color=colour,
    )


def _short_names(logits: LogitFigures) -> list[str]:
    """What the horizontal axis calls the outputs, which the report names "the embeddings", "layer 0", …"""
    layers = [name.replace("the embeddings", "embed").removeprefix("layer ") for name, _ in logits.layers]
    return [*(name.removesuffix(" or the final norm") for name in layers), "logits"]


def _ticks(count: int) -> list[int]:
    """The first place, which is that of the embeddings, the last one, and those of round layer numbers between."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, count) if count <= step * _MOST_TICKS)
    between = range(1 if step == 1 else step + 1, count - step, step)
    return sorted({0, *between, count - 1})


def _for_the_page(svg: str) -> str:
    """The <svg> element alone, as wide as its place, with the page's font and colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg[^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r"<style.*?</style>|font-family: [^;]*; ", "", svg, flags=re.DOTALL).replace("xlink:href", "href")
    for colour, name in _STYLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
