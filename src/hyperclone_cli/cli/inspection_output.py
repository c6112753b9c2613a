"""What an inspection of the copies in a clone looks like."""

from __future__ import annotations

from hyperclone_cli.cli.console import OUT, print_json, print_table, show_notes
from hyperclone_cli.inspection.gradients import GradientFigures
from hyperclone_cli.inspection.inspector import Inspection
from hyperclone_cli.planning.symmetry import WHAT_TRAINING_DOES

EQUAL, NEARLY_EQUAL = 1e-3, 5e-2
"""Gradients that differ by less than this of their size count as such: float32 itself makes differences up to
the first, and weights rounded to bfloat16 up to the second."""


def show_inspection(inspection: Inspection, as_json: bool) -> None:
    """Print how similar the copies are, a line for each part of each layer, then whether training keeps them equal."""
    if as_json:
        print_json(inspection.as_json())
        return
    cosines = ("outputs", "inputs")
    gradients = tuple(f"∇ {name}" for name in cosines) if inspection.gradients else ()
    several = len({layer.growth for layer in inspection.layers}) > 1
    rows = [
        (
            *((str(layer.growth),) if several else ()),
            "–" if layer.layer is None else str(layer.layer),
            layer.part,
            _figure(layer.outputs),
            _figure(layer.inputs),
            _figure(layer.rank),
            *((_figure(layer.gradient_outputs), _figure(layer.gradient_inputs)) if gradients else ()),
        )
        for layer in inspection.layers
    ]
    if rows or not (inspection.new_layers or inspection.experts):
        columns = (*(("growth",) if several else ()), "layer", "part", *cosines, "rank", *gradients)
        print_table("cosine between copies", columns, rows)
    if inspection.new_layers:
        new = [(str(one.layer), str(one.copy_of), _figure(one.woken)) for one in inspection.new_layers]
        print_table("new layers", ("layer", "copy of", "woken"), new)
    if inspection.experts:
        of_experts = [(str(one.layer), str(one.copies), f"{one.cosine:.3f}") for one in inspection.experts]
        print_table("experts that were copies of one", ("layer", "copies", "cosine"), of_experts)
    show_notes(inspection.notes)
    if inspection.gradients:
        OUT.print(_verdict(inspection.gradients))


def _figure(number: float | None) -> str:
    return "–" if number is None else f"{number:.3f}"


def _verdict(gradients: GradientFigures) -> str:
    if gradients.largest_difference is None:
        return "Whether the copies' gradients are equal is not known: none could be compared."
    if gradients.largest_difference < EQUAL:
        what = f"equal up to rounding: {WHAT_TRAINING_DOES}"
    elif gradients.largest_difference < NEARLY_EQUAL:
        what = "nearly equal: training makes the copies diverge slowly, if at all"
    else:
        what = "not equal: training makes the copies diverge"
    return (
        f"The copies' gradients are {what} (largest relative difference {gradients.largest_difference:.1e}"
        f" on {gradients.text}, {gradients.tokens} tokens, {gradients.device})."
    )
