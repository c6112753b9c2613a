"""The commands: parse, call, show. No logic.

Annotations are evaluated as they are read, unlike in other modules: Typer would compile the text of each one twice.
"""

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from hyperclone_cli import __version__
from hyperclone_cli.cli.options import (
    CacheDir,
    Device,
    Json,
    NoVerify,
    Out,
    PushToHub,
    RecordedSrc,
    ReportFile,
    Revision,
    Src,
    Token,
    VerifyTokens,
    WorldSize,
    checking,
    takes_options,
)
from hyperclone_cli.errors import NOT_PRESERVED, OUTPUTS_ALONE, MismatchError, clone_is_kept
from hyperclone_cli.growth.option import take
from hyperclone_cli.growth.request import Dtype, Request, Writing
from hyperclone_cli.growth.strategies import Mixing

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Grow a pretrained language model into a larger one that computes the same function.",
    epilog="Exit codes: 0 done · 1 unexpected · 2 usage · 3 checkpoint unsupported or damaged"
    " · 4 the clone does not match · 5 network, disk or memory · 6 not function-preserving by request"
    " · 7 the outputs alone were compared, and agree · 130 interrupted",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"hyperclone {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
@takes_options(Request, Mixing, Writing)
def expand(
    src: Src,
    out: Out,
    no_verify: NoVerify = False,
    device: Device = None,
    report_file: ReportFile = None,
    verify_tokens: VerifyTokens = None,
    revision: Revision = None,
    token: Token = None,
    cache_dir: CacheDir = None,
    push_to_hub: PushToHub = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Write a larger checkpoint that computes the same function, and verify it.

    Example: hyperclone expand --src facebook/opt-350m --embed-mult 2 --ffn-mult 2 --out ./opt-700m
    """
    from hyperclone_cli import api
    from hyperclone_cli.checkpoint.object_store import place_of
    from hyperclone_cli.cli import output
    from hyperclone_cli.hub.download import Access

    of_verification = {
        "--verify-tokens": (verify_tokens, "they are those of the verification"),
        "--device": (device, "the verification runs there"),
        "--report": (report_file, "it shows the verification"),
        "--push-to-hub": (push_to_hub, "only a verified clone is pushed"),
    }
    for option, (given, why) in of_verification.items():
        if given is not None and no_verify:
            raise typer.BadParameter(f"{why}: leave --no-verify out.", param_hint=option)
    place, directory = place_of(out), Path(out)
    if place != directory and not no_verify:
        raise typer.BadParameter(
            "a clone in an object store is not verified there: add --no-verify, and verify a copy.", param_hint="--out"
        )
    if device is not None:
        from hyperclone_cli.verifier.forward import choose_device

        choose_device(device)  # refused before anything is written
    if report_file is not None:
        from hyperclone_cli.verifier.html_report import check_report

        check_report(report_file, directory)  # refused before anything is written
    writing, request = Writing(**take(Writing, options)), Request.of(None, options)
    access = Access(revision, token, cache_dir)
    target = None
    if push_to_hub is not None:
        from hyperclone_cli.hub.upload import Target

        if request.by_request:
            raise typer.BadParameter(
                f"only a verified clone is pushed, and this one is {request.by_request}.", param_hint="--push-to-hub"
            )
        target = Target(push_to_hub, token=token)  # refused before anything is written
    max_memory = writing.max_memory

    def announce(plan: Any) -> None:
        from hyperclone_cli.verifier.forecast import forecast

        output.show_forecast(forecast(plan, directory, device, max_memory, verify_tokens))

    with output.progress() as progress:
        from hyperclone_cli.writing import pipeline

        planned = None if no_verify else announce
        written = pipeline.expand_part(src, place, request, writing, access, progress, planned)
    if not written.published:
        output.show_share(written, place, as_json)
        return
    plan = written.plan
    report = None
    if not no_verify:
        from hyperclone_cli.verifier import verify as check

        kept = f"The clone is whole: `hyperclone verify {quote(out)}` checks it."
        with clone_is_kept(kept), output.progress() as progress:
            access = Access(token=token, cache_dir=cache_dir)
            report = check(
                directory,
                device=device,
                progress=progress,
                access=access,
                page_tokens=verify_tokens,
                max_memory=max_memory,
                opened=plan.source,
            )
    pushed = None
    try:
        if report_file is not None and report is not None:
            from hyperclone_cli.verifier.html_report import write_report

            write_report(report, report_file)
        if target is not None and report is not None and report.passed:
            pushed = api.push(directory, target)
    finally:
        output.show_clone(plan, place, report, pushed, as_json)  # what was expanded and verified, pushed or not
    if report is not None and report.failures:
        raise MismatchError(f"{out}: the clone does not match its source.", "Please report it with the lines above.")


@app.command()
@takes_options(Request, Mixing)
def plan(
    src: Src,
    revision: Revision = None,
    token: Token = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    world_size: WorldSize = None,
    **options: Any,
) -> None:
    """Show what `expand` would write: sizes, parameters, bytes, what is exact. Writes nothing.

    Example: hyperclone plan --src facebook/opt-350m --embed-mult 2 --ffn-mult 2
    """
    from hyperclone_cli import api
    from hyperclone_cli.cli import output
    from hyperclone_cli.hub.download import Access
    from hyperclone_cli.verifier.forecast import forecast

    with output.progress() as progress:
        plan = api.plan(src, access=Access(revision, token, cache_dir), progress=progress, **options)
    output.show_plan(plan, forecast(plan, Path.cwd(), device=None, max_memory=None), as_json, world_size)


@app.command()
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
) -> None:
    """Compare a clone with its source: every weight, the logits, greedy decoding.

    Example: hyperclone verify ./opt-700m
    """
    from hyperclone_cli.cli import output
    from hyperclone_cli.hub.download import Access
    from hyperclone_cli.verifier import verify as check

    if report_file is not None:
        from hyperclone_cli.verifier.html_report import check_report

        check_report(report_file, clone)  # refused before anything is computed
    with output.progress() as progress:
        access = Access(revision, token, cache_dir)
        report = check(
            clone, src, device, dtype, weights_only, new_tokens, progress, access, checksum, verify_tokens, max_memory
        )
    output.show_report(report, as_json)
    if report_file is not None:
        from hyperclone_cli.verifier.html_report import write_report

        write_report(report, report_file)
    if report.failures:
        raise MismatchError(f"{clone}: the clone does not match its source.")
    if report.by_request:
        raise typer.Exit(NOT_PRESERVED)
    if report.outputs_alone:
        raise typer.Exit(OUTPUTS_ALONE)


@app.command()
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
    from hyperclone_cli.cli import output
    from hyperclone_cli.hub.download import Access
    from hyperclone_cli.inspection.inspector import inspect as look

    if plot is not None:
        from hyperclone_cli.inspection.plot import check_plot

        check_plot(plot)  # refused before anything is computed
    with output.progress() as progress:
        inspection = look(checkpoint, clone, src, gradients, device, progress, Access(revision, token, cache_dir))
    if plot is not None:
        from hyperclone_cli.inspection.plot import write_plot

        write_plot(inspection, plot)
    output.show_inspection(inspection, as_json)


@app.command()
def push(
    clone: Annotated[Path, typer.Argument(metavar="CLONE", help="The clone's directory.", show_default=False)],
    repo_id: Annotated[
        str,
        typer.Argument(metavar="REPO_ID", help="The repository, org/name. It is made if need be.", show_default=False),
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private if it has to be made.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="The branch to push to. It is made if need be.", show_default="main")
    ] = None,
    commit_message: Annotated[str | None, typer.Option(help="The message of the commit.", show_default=False)] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    token: Token = None,
    force: Annotated[bool, typer.Option("--force", help="Push a clone that was not verified, or failed.")] = False,
    as_json: Json = False,
) -> None:
    """Upload a verified clone to the Hub, and print where it is. Run again, it continues an interrupted upload.

    Example: hyperclone push ./opt-700m someone/opt-700m --private
    """
    from hyperclone_cli import api
    from hyperclone_cli.cli import output
    from hyperclone_cli.hub.upload import Target

    target = Target(repo_id, revision, private, create_pr, commit_message, token)
    output.show_pushed(api.push(clone, target, force), as_json)


@app.command()
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

    Example: hyperclone families --check llama qwen3_moe
    """
    from hyperclone_cli.cli import output
    from hyperclone_cli.families import REFUSED, families_named
    from hyperclone_cli.families.coverage import coverage

    chosen = families_named(names or [])
    if not check:
        output.show_families(chosen, {} if names else REFUSED, None if names else coverage(), as_json)
        return
    from hyperclone_cli.verifier.self_check import check_families, known_here

    with output.progress() as progress:
        trials = check_families(chosen if names else known_here(chosen, progress), progress)
    output.show_trials(trials, as_json)
    failed = [name for name, trial in trials.items() if not trial.passed]
    if failed:
        raise MismatchError(f"{len(failed)} of {len(trials)} architectures do not hold: {', '.join(failed)}.")
