"""The commands that look at clones and at what is supported: parse, call, show. No logic.

Annotations are evaluated as they are read, unlike in other modules: Typer would compile the text of each one twice.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from hyperclone_cli.cli.options import (
    CacheDir,
    Device,
    Json,
    RecordedSrc,
    ReportFile,
    Revision,
    Token,
    VerifyTokens,
    checking,
    takes_options,
)
from hyperclone_cli.errors import NOT_PRESERVED, OUTPUTS_ALONE, CheckpointError, MismatchError
from hyperclone_cli.growth.request import Dtype
from hyperclone_cli.writing.options import Executing


@takes_options(Executing)
def verify(
    clone: Annotated[Path, typer.Argument(metavar="CLONE", help="The clone's directory.")] = Path("."),
    src: RecordedSrc = None,
    device: Device = None,
    dtype: Annotated[Dtype, checking(help="The dtype that both models run in.")] = "float32",
    weights_only: Annotated[
        bool, checking("--weights-only", help="Compare nothing but the weights: little memory, no forward pass.")
    ] = False,
    checksum: Annotated[
        bool,
        checking("--checksum", help="Also compare the SHA-256 of every file with what `expand --checksum` recorded."),
    ] = False,
    new_tokens: Annotated[
        int | None,
        checking(
            min=1,
            help="How many tokens greedy decoding adds to each prompt.",
            show_default="16, or 4 if the source runs layer by layer",
        ),
    ] = None,
    verify_tokens: VerifyTokens = None,
    max_memory: Annotated[
        str | None,
        checking(
            help="Memory that a model may take when it is run, such as 8GB. A larger model runs layer by layer: its "
            "weights are read from their files as they are used.",
            show_default="what is free",
        ),
    ] = None,
    report_file: ReportFile = None,
    revision: Revision = None,
    token: Token = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Compare a clone with its source: every weight, the logits, greedy decoding.

    Example: hyperclone verify ./opt-700m
    """
    from hyperclone_cli.cli import console, report_output
    from hyperclone_cli.hub.download import Access
    from hyperclone_cli.verifier import verify as check

    if report_file is not None:
        from hyperclone_cli.verifier.html_report import check_report

        check_report(report_file, clone)  # refused before anything is computed
    with console.progress() as progress:
        access = Access(revision, token, cache_dir)
        report = check(
            clone,
            src,
            device,
            dtype,
            weights_only,
            new_tokens,
            progress,
            access,
            checksum,
            verify_tokens,
            max_memory,
            executing=Executing(**options),
        )
    report_output.show_report(report, as_json)
    if report_file is not None:
        from hyperclone_cli.verifier.html_report import write_report

        write_report(report, report_file)
    if report.failures:
        raise MismatchError(f"{clone}: the clone does not match its source.")
    if report.by_request:
        raise typer.Exit(NOT_PRESERVED)
    if report.outputs_alone:
        raise typer.Exit(OUTPUTS_ALONE)


def inspect(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="The directory of the clone, or of a checkpoint trained from it."),
    ] = Path("."),
    clone: Annotated[
        Path | None,
        typer.Option("--clone", help="The clone that it was trained from.", show_default="the checkpoint itself"),
    ] = None,
    src: RecordedSrc = None,
    gradients: Annotated[
        bool,
        checking("--gradients", help="Run the model on one page in float32, and compare the copies' gradients too."),
    ] = False,
    device: Device = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw the table as a heat map, into a PNG file.", metavar="FILE", show_default=False),
    ] = None,
    revision: Revision = None,
    token: Token = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Show whether the copies in a clone differ, and with --gradients whether they will diverge in training.

    Example: hyperclone inspect ./opt-700m --gradients
    """
    from hyperclone_cli.cli import console, inspection_output
    from hyperclone_cli.hub.download import Access
    from hyperclone_cli.inspection.inspector import inspect as look

    if plot is not None:
        from hyperclone_cli.inspection.plot import check_plot

        check_plot(plot)  # refused before anything is computed
    with console.progress() as progress:
        inspection = look(checkpoint, clone, src, gradients, device, progress, Access(revision, token, cache_dir))
    if plot is not None:
        from hyperclone_cli.inspection.plot import write_plot

        write_plot(inspection, plot)
    inspection_output.show_inspection(inspection, as_json)


def families(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="The architectures.", show_default="all")
    ] = None,
    check: Annotated[
        bool, checking("--check", help="Expand a tiny random model of each with the installed transformers.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the architectures that can be expanded and those that are refused, or check them.

    A check of all passes over what the installed transformers does not know or cannot run.

    Example: hyperclone families --check llama qwen3_moe
    """
    from hyperclone_cli.cli import console, families_output
    from hyperclone_cli.families import REFUSED, families_named
    from hyperclone_cli.families.coverage import coverage

    chosen = families_named(names or [])
    if not check:
        families_output.show_families(chosen, {} if names else REFUSED, None if names else coverage(), as_json)
        return
    from hyperclone_cli.verifier.self_check import check_families, known_here

    with console.progress() as progress:
        trials = check_families(chosen if names else known_here(chosen, progress), progress)
    families_output.show_trials(trials, as_json)
    untried = [name for name, trial in trials.items() if trial.not_run]
    failed = [name for name, trial in trials.items() if not trial.passed and name not in untried]
    if failed:
        raise MismatchError(f"{len(failed)} of {len(trials)} architectures do not hold: {', '.join(failed)}.")
    if names and untried:
        raise CheckpointError(
            f"{len(untried)} of {len(trials)} architectures could not be tried: {', '.join(untried)}.",
            "The lines above say why; another version of transformers may run them.",
        )
