"""What a person or a script sees: tables and JSON on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from hyperclone_cli.checkpoint.object_store import StoreUrl
from hyperclone_cli.errors import first_of
from hyperclone_cli.families import Family
from hyperclone_cli.families.coverage import Coverage
from hyperclone_cli.growth.capabilities import capabilities, grown_keys
from hyperclone_cli.hub.upload import Pushed
from hyperclone_cli.inspection.gradients import GradientFigures
from hyperclone_cli.inspection.inspector import Inspection
from hyperclone_cli.planning.planner import Plan
from hyperclone_cli.planning.symmetry import WHAT_TRAINING_DOES, advice
from hyperclone_cli.progress import Progress
from hyperclone_cli.verifier.forecast import Forecast
from hyperclone_cli.verifier.report import Report, finite
from hyperclone_cli.writing.ranks import Rank, Standing, share_of

if TYPE_CHECKING:
    from hyperclone_cli.verifier.self_check import FamilyCheck
    from hyperclone_cli.writing.pipeline import Written

SCHEMA_VERSION = 1

_plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
_out = Console(**_plain)
_err = Console(stderr=True, **_plain)


class _Lines(Progress):
    """A line for every step, for logs and pipes."""

    def step(self, text: str, unit: str = "") -> None:  # noqa: ARG002
        _err.print(f"{text} …")


@contextmanager
def progress() -> Iterator[Progress]:
    """What shows a run's steps on stderr. Nothing of it is left on a terminal."""
    console = Console(file=sys.stderr, **_plain)  # stderr as it is now: reading a GGUF file replaces it for a while
    if not console.is_interactive:
        yield _Lines()
        return
    from hyperclone_cli.cli.bars import Bars

    bars = Bars(console)
    try:
        yield bars
    finally:
        bars.close()


def _show_notes(notes: Iterable[str]) -> None:
    for note in notes:
        _err.print(f"Note: {note}")


def show_forecast(forecast: Forecast) -> None:
    """Say how a clone will be verified, before it is written."""
    _err.print(f"The clone will be verified {forecast}.")


def show_plan(plan: Plan, forecast: Forecast, as_json: bool, world_size: int | None = None) -> None:
    """Print what `plan` would write, and how it would be verified."""
    shares = [share_of(plan, Rank(number, world_size)) for number in range(world_size)] if world_size else []
    if as_json:
        ranks = [{"shards": list(share.shards), "bytes": share.nbytes} for share in shares]
        more = {"ranks": ranks} if world_size else {}
        _print_json({**plan.as_json(), "verification": asdict(forecast), **more})
        return
    _show_notes(plan.notes)
    _print_table("config.json", ("key", "before", "after"), _config_rows(plan))
    before, after = plan.parameters()
    rows = [(part, f"{before[part]:,}", f"{after[part]:,}") for part in after]
    total = (sum(before.values()), sum(after.values()))
    rows.append(("total", f"{total[0]:,}", f"{total[1]:,}"))
    active = plan.active_parameters()
    if active != total:
        rows.append(("active for each token", f"{active[0]:,}", f"{active[1]:,}"))
    _print_table("parameters", ("part", "before", "after"), rows)
    cache = plan.kv_cache_bytes()
    rounded = dict.fromkeys(kind.pattern for kind in plan.kinds if not kind.exact)
    left_out: dict[str, list[str]] = defaultdict(list)
    for name, why in plan.dropped.items():
        left_out[why].append(name)
    facts = [
        ("on disk", f"{decimal(plan.nbytes)} in {len(plan.shards)} file(s)"),
        ("KV cache per token", f"{decimal(cache[0])} → {decimal(cache[1])}"),
        ("head", plan.head.why),
        ("verification here", str(forecast)),
        ("exact", f"{len(plan.tensors) - len(plan.rounded())} of {len(plan.tensors)} tensors"),
        ("rounded once", ", ".join(rounded) or "none"),
        ("not written", "; ".join(f"{first_of(names)} ({why})" for why, names in left_out.items()) or "nothing"),
    ]
    if shares:
        files, nbytes = [len(share.shards) for share in shares], [share.nbytes for share in shares]
        each = f"{min(files)} to {max(files)} file(s), {decimal(min(nbytes))} to {decimal(max(nbytes))}"
        facts.insert(1, (f"each of {world_size} ranks", each))
    _print_table("", ("", ""), facts)


def show_clone(plan: Plan, out: Path | StoreUrl, report: Report | None, pushed: Pushed | None, as_json: bool) -> None:
    """Print what `expand` wrote, its verification if there was one, and where it was pushed."""
    if as_json:
        verification = report.as_json() if report else None
        url = pushed.url if pushed else None
        notes = [*plan.notes, *filter(None, [advice(plan)])]
        _print_json({**plan.as_json(), "notes": notes, "out": str(out), "verification": verification, "url": url})
        return
    _show_notes(plan.notes)
    before, after = plan.parameters()
    _out.print(
        f"{out}: {sum(before.values()):,} → {sum(after.values()):,} parameters, {decimal(plan.nbytes)}, {plan.head.why}"
    )
    if report:
        show_report(report, as_json=False)
    else:
        where = quote(str(out)) if isinstance(out, Path) else "a copy of it"
        _err.print(f"Not verified. Next: hyperclone verify {where}")
    if pushed:
        show_pushed(pushed, as_json=False)
    _show_notes(filter(None, [advice(plan)]))


def show_share(written: Written, out: Path | StoreUrl, as_json: bool) -> None:
    """Print what one of several ranks wrote of a clone that it did not publish, and what is still to come."""
    rank, share, standing = written.rank, written.share, written.standing or Standing()
    if as_json:
        which = {"rank": rank.number, "world_size": rank.world_size} if rank else {}
        shards = {"shards": list(share.shards), "bytes": share.nbytes} if share else {"shards": [], "bytes": 0}
        others = {"unfinished_ranks": list(standing.unfinished), "publisher": standing.publisher}
        _print_json({"schema_version": SCHEMA_VERSION, **which, **shards, "out": str(out), **others})
        return
    _show_notes(written.plan.notes)
    wrote = f"{len(share.shards)} of {len(written.plan.shards)} shards, {decimal(share.nbytes)}" if share else "nothing"
    if standing.unfinished:
        rest = f"not finished: {', '.join(f'rank {number}' for number in standing.unfinished)}"
    elif standing.publisher is not None:
        rest = f"rank {standing.publisher} publishes the clone"
    else:
        rest = "the clone is published"
    _out.print(f"{out}: {rank} wrote {wrote}; {rest}")


def show_pushed(pushed: Pushed, as_json: bool) -> None:
    """Print where a clone was pushed to."""
    if as_json:
        _print_json(pushed.as_json())
    else:
        _out.print(f"pushed: {pushed.url}")


def show_report(report: Report, as_json: bool) -> None:
    """Print a verification: the figures, then what failed."""
    if as_json:
        _print_json(report.as_json())
        return
    if report.outputs_alone:
        _out.print(report.outputs_alone)
    rows: list[tuple[str, str]] = []
    if report.growths is not None and report.growths > 1:
        rows.append(("growths from the source", str(report.growths)))
    if report.hashed is not None:
        rows.append(("SHA-256 compared", f"{report.hashed} files"))
    if weights := report.weights:
        rows += [
            ("tensors compared", f"{weights.tensors:,} ({weights.elements:,} weights)"),
            ("largest relative weight error", f"{weights.worst:.1e}"),
        ]
    if logits := report.logits:
        worst = max((error for _, error in logits.layers), default=0.0)
        rows += [
            ("compared on", f"{logits.text}, {logits.tokens} tokens, {logits.dtype}, {logits.device}"),
            ("relative logit error", f"{logits.relative_error:.1e} (passes up to {logits.tolerance:.1e})"),
            (f"error of {logits.floor_dtype} itself", f"{logits.floor:.1e}"),
            ("largest logit difference", f"{logits.max_abs_difference:.1e}"),
            ("mean KL divergence", f"{logits.kl_divergence:.1e} nats"),
            ("same most likely token", f"{logits.top1_agreement:.2%}"),
            ("perplexity", f"source {logits.perplexity_source:.4f}, clone {logits.perplexity_clone:.4f}"),
            ("largest error of a layer's copies", f"{worst:.1e}"),
        ]
    if report.routing:
        parts = [count / max(1, sum(counts)) for _, counts in report.routing for count in counts]
        even = 1 / len(report.routing[0][1])
        rows.append(("tokens of an expert", f"{min(parts):.1%} to {max(parts):.1%} of a layer's, {even:.1%} if even"))
    if picture := report.picture:
        figure = f"{picture.relative_error:.1e} (passes up to {picture.tolerance:.1e})"
        rows.append(("logit error after a picture", f"{figure}, {picture.input}, {picture.tokens} tokens"))
    if made := report.generation:
        ties = f", {made.ties} but for a tie of two tokens" if made.ties else ""
        rows.append(
            (
                "greedy decoding",
                f"{made.identical} of {made.prompts} prompts identical{ties}, {made.new_tokens} tokens each",
            )
        )
    if exact := report.before_rounding:
        figure = f"{exact.relative_error:.1e} (passes up to {exact.tolerance:.1e})"
        same = f"{exact.generation.identical + exact.generation.ties} of {exact.generation.prompts} prompts identical"
        rows.append(("logit error before rounding", f"{figure}, {same} up to ties"))
    rows += [
        (
            f"{run.model} in {run.dtype}",
            run.mode + (f", {run.passes} passes, {decimal(run.bytes_read)} read" if run.bytes_read else ""),
        )
        for run in report.runs
    ]
    _print_table("", ("", ""), rows)
    if report.logits and report.failures:
        _print_table("copies", ("layer", "error"), [(name, f"{error:.1e}") for name, error in report.logits.layers])
    _show_notes(report.notes)
    for failure in report.failures[:20]:
        _out.print(f"✗ {failure}")
    if len(report.failures) > 20:
        _out.print(f"✗ … and {len(report.failures) - 20} more; --json lists them all")
    agree = "passed, by their outputs alone" if report.outputs_alone else "passed"
    verdict = "FAILED" if report.failures else report.by_request or agree
    _out.print(f"{verdict}: {report.clone} against {report.source}")


EQUAL, NEARLY_EQUAL = 1e-3, 5e-2
"""Gradients that differ by less than this of their size count as such: float32 itself makes differences up to
the first, and weights rounded to bfloat16 up to the second."""


def show_inspection(inspection: Inspection, as_json: bool) -> None:
    """Print how similar the copies are, a line for each part of each layer, then whether training keeps them equal."""
    if as_json:
        _print_json(inspection.as_json())
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
        _print_table("cosine between copies", columns, rows)
    if inspection.new_layers:
        new = [(str(one.layer), str(one.copy_of), _figure(one.woken)) for one in inspection.new_layers]
        _print_table("new layers", ("layer", "copy of", "woken"), new)
    if inspection.experts:
        of_experts = [(str(one.layer), str(one.copies), f"{one.cosine:.3f}") for one in inspection.experts]
        _print_table("experts that were copies of one", ("layer", "copies", "cosine"), of_experts)
    _show_notes(inspection.notes)
    if inspection.gradients:
        _out.print(_verdict(inspection.gradients))


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


def show_families(
    families: Sequence[Family], refused: Mapping[str, str], known: Coverage | None, as_json: bool
) -> None:
    """Print the architectures, from the tables, and those that are `refused`, model_type → reason.

    known  how many of the types that the installed transformers knows these are; None: not asked
    """
    described = [capabilities(family) for family in families]
    if as_json:
        found = {family.name: asdict(capabilities(family)) | {"grows": grown_keys(family)} for family in families}
        printed = {"schema_version": SCHEMA_VERSION, "families": found, "refused": dict(refused)}
        _print_json({**printed, "coverage": asdict(known)} if known else printed)
        return
    rows = [
        (found.architecture, found.hidden_size, found.heads, found.feed_forward, found.tied_head, found.layers)
        for found in described
    ]
    _print_table("", ("architecture", "hidden size", "heads", "feed-forward", "tied head", "layers"), rows)
    limited = [(found.architecture, found.limits) for found in described if found.limits]
    if limited:
        _print_table("limits", ("", ""), limited)
    if refused:
        reasons = dict.fromkeys(refused.values())
        listed = [(", ".join(name for name in refused if refused[name] == why), why) for why in reasons]
        _print_table("not supported", ("", ""), listed)
    if known:
        counts = ", ".join(
            f"{len(types)} {answer}" for answer, types in asdict(known).items() if answer != "transformers"
        )
        _out.print(f"Of the {len(known.all)} causal model types of transformers {known.transformers}: {counts}.")
        if known.unknown:
            _out.print(f"Unknown: {', '.join(known.unknown)}.")


def show_trials(trials: Mapping[str, FamilyCheck], as_json: bool) -> None:
    """Print how far tiny clones of each architecture are from their sources."""
    from importlib.metadata import version

    if as_json:
        found = {name: trial.as_json() for name, trial in trials.items()}
        _print_json({"schema_version": SCHEMA_VERSION, "transformers": version("transformers"), "families": found})
        return
    growths = sorted({growth for trial in trials.values() for growth in trial.errors})
    rows = [
        (
            name,
            *(f"{trial.errors[growth]:.1e}" if growth in trial.errors else "–" for growth in growths),
            "exact" if trial.passed else "FAILED" if trial.failure else "NOT EXACT",
        )
        for name, trial in trials.items()
    ]
    title = f"relative logit error with transformers {version('transformers')}"
    columns = (f"{growth}×" if growth.isdecimal() else growth for growth in growths)
    _print_table(title, ("architecture", *columns, ""), rows)
    for name, trial in trials.items():
        if trial.failure:
            _out.print(f"✗ {name}: {trial.failure}")


def _config_rows(plan: Plan) -> list[tuple[str, str, str]]:
    rows = [(key, "–" if old is None else str(old), str(new)) for key, old, new in plan.config_changes()]
    return rows or [("nothing changes", "", "")]


_NUMBERS = ("woken", "copies", "cosine", "before", "after", "outputs", "inputs", "rank", "∇ outputs", "∇ inputs")


def _print_table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Columns of numbers, known by their names, stand flush right."""
    from rich import box

    table = Table(
        title=title or None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
        show_edge=False,
        pad_edge=False,
    )
    for column in columns:
        is_number, is_name = column in _NUMBERS or column.endswith("×"), column == "architecture"
        table.add_column(column, overflow="fold", no_wrap=is_name, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*row)
    _out.print(table)
    _out.print()


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(finite(content), indent=2, allow_nan=False))
