"""The commands: parse, call, show. No logic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from hyperclone_cli import __version__
from hyperclone_cli.cli.options import (
    CHECKING,
    CacheDir,
    Checksum,
    Device,
    Dtype,
    EmbedMult,
    FamilyOption,
    FfnMult,
    HeadDimMult,
    HeadsMult,
    HiddenSize,
    IntermediateSize,
    Json,
    KvHeadsMult,
    MaxMemory,
    MaxShardSize,
    MoeFfnMult,
    MultipleOf,
    NoiseSnrDb,
    NoVerify,
    NumHeads,
    NumKvHeads,
    Out,
    Overwrite,
    PushToHub,
    RecordedSrc,
    Restart,
    Revision,
    Seed,
    Src,
    StorageDtype,
    Strategy,
    StrategyOption,
    TargetParams,
    Threads,
    Tie,
    TieEmbeddings,
    Token,
    UnevenRatio,
)
from hyperclone_cli.errors import MismatchError, standing

if TYPE_CHECKING:
    from hyperclone_cli.growth.options import GrowthOptions

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Grow a pretrained language model into a larger one that computes the same function.",
    epilog="Exit codes: 0 done · 1 unexpected · 2 usage · 3 checkpoint unsupported or damaged"
    " · 4 the clone does not match · 5 network or disk · 130 interrupted",
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


def _ratio(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)+", text):
        raise typer.BadParameter(f"{text!r} is not a ratio such as 1:2.", param_hint="--uneven-ratio")
    return tuple(int(part) for part in text.split(":"))


def _growth_options(given: Mapping[str, Any]) -> GrowthOptions:
    """The options of GrowthOptions among those that a command was given; their names are the same."""
    from hyperclone_cli.growth.options import GrowthOptions

    chosen = {name: given[name] for name in GrowthOptions.__annotations__}
    return cast("GrowthOptions", chosen | {"uneven_ratio": _ratio(given["uneven_ratio"])})


@app.command()
def expand(
    src: Src,
    out: Out,
    embed_mult: EmbedMult = 1,
    ffn_mult: FfnMult = 1,
    moe_ffn_mult: MoeFfnMult = None,
    heads_mult: HeadsMult = None,
    kv_heads_mult: KvHeadsMult = None,
    head_dim_mult: HeadDimMult = 1,
    hidden_size: HiddenSize = None,
    intermediate_size: IntermediateSize = None,
    num_heads: NumHeads = None,
    num_kv_heads: NumKvHeads = None,
    target_params: TargetParams = None,
    family: FamilyOption = None,
    multiple_of: MultipleOf = 64,
    tie_embeddings: TieEmbeddings = Tie.auto,
    strategy: StrategyOption = Strategy.halving,
    uneven_ratio: UnevenRatio = "1:2",
    noise_snr_db: NoiseSnrDb = None,
    seed: Seed = 0,
    dtype: StorageDtype = None,
    max_shard_size: MaxShardSize = "50GB",
    overwrite: Overwrite = False,
    checksum: Checksum = False,
    restart: Restart = False,
    threads: Threads = None,
    max_memory: MaxMemory = "512MB",
    no_verify: NoVerify = False,
    device: Device = None,
    revision: Revision = None,
    token: Token = None,
    cache_dir: CacheDir = None,
    push_to_hub: PushToHub = None,
    as_json: Json = False,
) -> None:
    """Write a larger checkpoint that computes the same function, and verify it.

    Example: hyperclone expand --src facebook/opt-350m --embed-mult 2 --ffn-mult 2 --out ./opt-700m
    """
    from hyperclone_cli import api
    from hyperclone_cli.cli import output
    from hyperclone_cli.hub.download import Access

    options = _growth_options(locals())
    if device is not None:
        if no_verify:
            raise typer.BadParameter("the verification runs there: leave --no-verify out.", param_hint="--device")
        from hyperclone_cli.verifier.forward import choose_device

        choose_device(device)  # refused before anything is written
    access = Access(revision, token, cache_dir)
    target = None
    if push_to_hub is not None:
        from hyperclone_cli.hub.upload import Target

        if no_verify:
            raise typer.BadParameter(
                "only a verified clone is pushed: leave --no-verify out.", param_hint="--push-to-hub"
            )
        target = Target(push_to_hub, token=token)  # refused before anything is written
    with output.progress("Expanding") as written:
        plan = api.expand(
            src,
            out,
            overwrite=overwrite,
            progress=written,
            access=access,
            checksum=checksum,
            restart=restart,
            threads=threads,
            max_memory=max_memory,
            **options,
        )
    report = None
    if not no_verify:
        from hyperclone_cli.verifier import verify as check

        with standing(f"The clone is whole: `hyperclone verify {quote(str(out))}` checks it."), output.steps() as log:
            report = check(out, device=device, log=log, access=Access(token=token, cache_dir=cache_dir))
    pushed = None
    try:
        if target is not None and report is not None and report.passed:
            pushed = api.push(out, target)
    finally:
        output.show_clone(plan, out, report, pushed, as_json)  # what was expanded and verified, pushed or not
    if report is not None and not report.passed:
        raise MismatchError(f"{out}: the clone does not match its source.", "Please report it with the lines above.")


@app.command()
def plan(
    src: Src,
    embed_mult: EmbedMult = 1,
    ffn_mult: FfnMult = 1,
    moe_ffn_mult: MoeFfnMult = None,
    heads_mult: HeadsMult = None,
    kv_heads_mult: KvHeadsMult = None,
    head_dim_mult: HeadDimMult = 1,
    hidden_size: HiddenSize = None,
    intermediate_size: IntermediateSize = None,
    num_heads: NumHeads = None,
    num_kv_heads: NumKvHeads = None,
    target_params: TargetParams = None,
    family: FamilyOption = None,
    multiple_of: MultipleOf = 64,
    tie_embeddings: TieEmbeddings = Tie.auto,
    strategy: StrategyOption = Strategy.halving,
    uneven_ratio: UnevenRatio = "1:2",
    noise_snr_db: NoiseSnrDb = None,
    seed: Seed = 0,
    dtype: StorageDtype = None,
    max_shard_size: MaxShardSize = "50GB",
    revision: Revision = None,
    token: Token = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Show what `expand` would write: sizes, parameters, bytes, what is exact. Writes nothing.

    Example: hyperclone plan --src facebook/opt-350m --embed-mult 2 --ffn-mult 2
    """
    from hyperclone_cli import api
    from hyperclone_cli.cli import output
    from hyperclone_cli.hub.download import Access

    options = _growth_options(locals())
    output.show_plan(api.plan(src, access=Access(revision, token, cache_dir), **options), as_json)


@app.command()
def verify(
    clone: Annotated[Path, typer.Argument(metavar="CLONE", help="The clone's directory.")] = Path("."),
    src: RecordedSrc = None,
    device: Device = None,
    dtype: Annotated[Dtype, typer.Option(help="What both models run in.", rich_help_panel=CHECKING)] = Dtype.float32,
    weights_only: Annotated[
        bool,
        typer.Option(
            "--weights-only",
            help="Compare the weights alone: little memory, no forward pass.",
            rich_help_panel=CHECKING,
        ),
    ] = False,
    checksum: Checksum = False,
    new_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that greedy decoding adds to each prompt.", rich_help_panel=CHECKING)
    ] = 16,
    revision: Revision = None,
    token: Token = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Hold a clone against its source: every weight, the logits, greedy decoding.

    Example: hyperclone verify ./opt-700m
    """
    from hyperclone_cli.cli import output
    from hyperclone_cli.hub.download import Access
    from hyperclone_cli.verifier import verify as check

    with output.steps() as log:
        access = Access(revision, token, cache_dir)
        report = check(clone, src, device, dtype.value, weights_only, new_tokens, log, access, checksum)
    output.show_report(report, as_json)
    if not report.passed:
        raise MismatchError(f"{clone}: the clone does not match its source.")


@app.command()
def inspect(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="The directory of the clone, or of a checkpoint trained from it."),
    ] = Path("."),
    clone: Annotated[
        Path | None,
        typer.Option(
            "--clone",
            help="The clone that this checkpoint was trained from; the checkpoint itself unless given.",
            show_default=False,
        ),
    ] = None,
    src: RecordedSrc = None,
    gradients: Annotated[
        bool,
        typer.Option(
            "--gradients",
            help="Also compare the copies' gradients on one page: runs the model in float32.",
            rich_help_panel=CHECKING,
        ),
    ] = False,
    device: Device = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw the table as a heat map, a PNG file.", metavar="FILE", show_default=False),
    ] = None,
    revision: Revision = None,
    token: Token = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Show whether the copies in a clone differ, and with --gradients whether training will part them.

    Example: hyperclone inspect ./opt-700m --gradients
    """
    from hyperclone_cli.cli import output
    from hyperclone_cli.hub.download import Access
    from hyperclone_cli.inspection.inspector import inspect as look

    if plot is not None:
        from hyperclone_cli.inspection.plot import check_plot

        check_plot(plot)  # refused before anything is computed
    with output.steps() as log:
        inspection = look(checkpoint, clone, src, gradients, device, log, Access(revision, token, cache_dir))
    if plot is not None:
        from hyperclone_cli.inspection.plot import write_plot

        write_plot(inspection, plot)
    output.show_inspection(inspection, as_json)


@app.command()
def push(
    clone: Annotated[Path, typer.Argument(metavar="CLONE", help="The clone's directory.", show_default=False)],
    repo_id: Annotated[
        str,
        typer.Argument(metavar="REPO_ID", help="The repository: org/name. Made if need be.", show_default=False),
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private if it has to be made.")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option(help="The branch to push to, made if need be; main unless given.", show_default=False),
    ] = None,
    commit_message: Annotated[str | None, typer.Option(help="What the commit says.", show_default=False)] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    token: Token = None,
    force: Annotated[bool, typer.Option("--force", help="Even if it was not verified, or failed.")] = False,
    as_json: Json = False,
) -> None:
    """Upload a verified clone to the Hub, and print where it is. A cut upload goes on when run again.

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
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these.", show_default=False)
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Expand a tiny random model of each with the installed transformers, and show the error.",
            rich_help_panel=CHECKING,
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the architectures that can be expanded and those that cannot; try them with the installed transformers.

    Example: hyperclone families --check llama qwen3_moe
    """
    from hyperclone_cli.cli import output
    from hyperclone_cli.families import REFUSED, families_named

    chosen = families_named(names or [])
    if not check:
        output.show_families(chosen, {} if names else REFUSED, as_json)
        return
    from hyperclone_cli.verifier.self_check import check_families

    with output.steps() as log:
        trials = check_families(chosen, log)
    output.show_trials(trials, as_json)
    failed = [name for name, trial in trials.items() if not trial.passed]
    if failed:
        raise MismatchError(f"{len(failed)} of {len(trials)} architectures do not hold: {', '.join(failed)}.")
