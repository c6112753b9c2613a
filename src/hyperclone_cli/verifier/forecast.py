"""How a clone will be verified on this machine, told from its plan before it is written. Imports no torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from rich.filesize import decimal

from hyperclone_cli.checkpoint.sizes import context_length
from hyperclone_cli.growth.numbers import bytes_of
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.verifier.memory import Fit, Mode, activations, fit_of, longest_page, needs, needs_of
from hyperclone_cli.verifier.run_options import FEW_NEW_TOKENS, NEW_TOKENS, follow_passes

_PAGE_TOKENS = 500
"""About as many as the page has in any vocabulary of words."""


@dataclass(frozen=True)
class Forecast:
    """How the clone will be run.

    passes        forward passes over its weights
    pass_bytes    of its weights as they are stored: read in each pass, if it runs layer by layer
    needed_bytes  of memory, to run it in memory
    least_bytes   of memory, to run it layer by layer
    free_bytes    where it would run
    by_request    why it is not function-preserving, if by request: then only its weights are compared
    """

    mode: Mode
    passes: int
    pass_bytes: int
    needed_bytes: int
    least_bytes: int
    free_bytes: int
    by_request: str = ""

    def __str__(self) -> str:
        needed, least, free = map(decimal, (self.needed_bytes, self.least_bytes, self.free_bytes))
        if self.by_request:
            return f"by its weights only: it is {self.by_request}"
        if self.mode == "in memory":
            return "in memory"
        if self.mode == "layer by layer":
            passes = f"about {self.passes} passes over {decimal(self.pass_bytes)}"
            return f"layer by layer, {passes} (in memory it needs {needed}, and {free} are free)"
        return f"by its weights only: it cannot be run here (layer by layer it needs {least}, and {free} are free)"


def forecast(
    plan: Plan, out: Path, device: str | None, max_memory: int | str | None, page_tokens: int | None = None
) -> Forecast:
    """How a clone that will be at `out` will be verified; see `verify` for the options."""
    in_layers = Counter((tensor.kind, tensor.layer) for tensor in plan.tensors)
    counted = (
        (kind.pattern.replace("*", str(layer), 1), kind.elements, number) for (kind, layer), number in in_layers.items()
    )
    disk = next(one for one in out.absolute().parents if one.is_dir())
    limit = None if max_memory is None else bytes_of("--max-memory", max_memory)

    most = min(page_tokens or _PAGE_TOKENS, context_length(plan.proposal.config, plan.family))
    grown = needs_of(counted, plan.config, plan.family, 4, most)
    stored = needs(plan.source, plan.source_family, 4, most)

    def fits(tokens: int) -> tuple[Fit, Fit]:
        here = replace(grown, activations=activations(plan.config, plan.family, tokens))
        there = replace(stored, activations=activations(plan.source.config, plan.source_family, tokens))
        return fit_of(here, limit, device, disk), fit_of(there, limit, device, disk)

    how, of_source = fits(most if page_tokens else longest_page(most, fits))
    needed, few = how.needs, of_source.mode != "in memory"
    passes = 1 + follow_passes(FEW_NEW_TOKENS if few else NEW_TOKENS)
    by_request = plan.request.by_request
    mode: Mode = "weights only" if by_request else how.mode
    return Forecast(mode, passes, plan.nbytes, needed.in_memory, needed.layer_by_layer, how.free.total, by_request)
