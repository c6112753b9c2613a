"""The commands that plan a clone and write it: parse, call, show. No logic.

Annotations are evaluated as they are read, unlike in other modules: Typer would compile the text of each one twice.
"""

from pathlib import Path
from shlex import quote
from typing import Any

import typer

from hyperclone_cli.cli.options import (
    CacheDir,
    Device,
    Json,
    NoVerify,
    Out,
    PushToHub,
    ReportFile,
    Revision,
    Src,
    Token,
    Tokens,
    VerifyTokens,
    WorldSize,
    takes_options,
)
from hyperclone_cli.errors import MismatchError, clone_is_kept
from hyperclone_cli.growth.option import take
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.writing.options import Writing


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
    from hyperclone_cli.cli import console, growth_output
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

        growth_output.show_forecast(forecast(plan, directory, device, max_memory, verify_tokens))

    with console.progress() as progress:
        from hyperclone_cli.writing import pipeline

        planned = None if no_verify else announce
        written = pipeline.expand_part(src, place, request, writing, access, progress, planned)
    if not written.published:
        growth_output.show_share(written, place, as_json)
        return
    plan = written.plan
    report = None
    if not no_verify:
        from hyperclone_cli.verifier import verify as check

        kept = f"The clone is whole: `hyperclone verify {quote(out)}` checks it."
        with clone_is_kept(kept), console.progress() as progress:
            access = Access(token=token, cache_dir=cache_dir)
            report = check(
                directory,
                device=device,
                progress=progress,
                access=access,
                page_tokens=verify_tokens,
                max_memory=max_memory,
                opened=plan.source,
                executing=writing,
            )
    pushed = None
    try:
        if report_file is not None and report is not None:
            from hyperclone_cli.verifier.html_report import write_report

            write_report(report, report_file)
        if target is not None and report is not None and report.passed:
            pushed = api.push(directory, target)
    finally:
        growth_output.show_clone(plan, place, report, pushed, as_json)  # what was expanded and verified, pushed or not
    if report is not None and report.failures:
        raise MismatchError(f"{out}: the clone does not match its source.", "Please report it with the lines above.")


@takes_options(Request, Mixing)
def plan(
    src: Src,
    revision: Revision = None,
    token: Token = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    world_size: WorldSize = None,
    tokens: Tokens = None,
    **options: Any,
) -> None:
    """Show what `expand` would write: sizes, parameters, bytes, what is exact. Writes nothing.

    Example: hyperclone plan --src facebook/opt-350m --embed-mult 2 --ffn-mult 2
    """
    from hyperclone_cli import api
    from hyperclone_cli.cli import console, growth_output
    from hyperclone_cli.growth.numbers import number_of
    from hyperclone_cli.hub.download import Access
    from hyperclone_cli.planning.tokens import token_budget
    from hyperclone_cli.verifier.forecast import forecast

    number = None if tokens is None else number_of("--tokens", tokens, "tokens")
    with console.progress() as progress:
        plan = api.plan(src, access=Access(revision, token, cache_dir), progress=progress, **options)
    budget = None if number is None else token_budget(plan, number)
    growth_output.show_plan(plan, forecast(plan, Path.cwd(), device=None, max_memory=None), as_json, world_size, budget)
