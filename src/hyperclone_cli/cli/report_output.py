"""What a verification looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.filesize import decimal

from hyperclone_cli.cli.console import OUT, print_json, print_table, show_notes

if TYPE_CHECKING:
    from hyperclone_cli.verifier.report import Report


def show_report(report: Report, as_json: bool) -> None:
    """Print a verification: the figures, then what failed."""
    if as_json:
        print_json(report.as_json())
        return
    if report.outputs_alone:
        OUT.print(report.outputs_alone)
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
    print_table("", ("", ""), rows)
    if report.logits and report.failures:
        print_table("copies", ("layer", "error"), [(name, f"{error:.1e}") for name, error in report.logits.layers])
    show_notes(report.notes)
    for failure in report.failures[:20]:
        OUT.print(f"✗ {failure}")
    if len(report.failures) > 20:
        OUT.print(f"✗ … and {len(report.failures) - 20} more; --json lists them all")
    agree = "passed, by their outputs alone" if report.outputs_alone else "passed"
    verdict = "FAILED" if report.failures else report.by_request or agree
    OUT.print(f"{verdict}: {report.clone} against {report.source}")
