"""The commands: parse, call, show. No logic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from hyperclone_cli import __version__
from hyperclone_cli.api import GrowthOptions
from hyperclone_cli.errors import MismatchError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Grow a pretrained language model into a larger one that computes the same function.",
    epilog="Exit codes: 0 done · 1 unexpected · 2 usage · 3 checkpoint unsupported or damaged"
    " · 4 the clone does not match · 5 network or disk · 130 interrupted",
)


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Strategy(StrEnum):
    symmetric = "symmetric"
    diagonal = "diagonal"
    uneven = "uneven"


class Tie(StrEnum):
    auto = "auto"
    keep = "keep"
    untie = "untie"


GROWTH, MIXING, WRITING, CHECKING = "Growth", "Breaking the symmetry", "Writing", "Checking"

Src = Annotated[
    Path, typer.Option("--src", help="The source checkpoint: a directory, or a GGUF file.", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", help="The directory to write.", show_default=False)]
EmbedMult = Annotated[float, typer.Option(min=1, help="Times hidden_size.", rich_help_panel=GROWTH)]
FfnMult = Annotated[float, typer.Option(min=1, help="Times the feed-forward width.", rich_help_panel=GROWTH)]
MoeFfnMult = Annotated[
    float | None,
    typer.Option(
        min=1,
        help="Times the width of each expert, where that is one of its own; as --ffn-mult unless given.",
        show_default=False,
        rich_help_panel=GROWTH,
    ),
]
HeadsMult = Annotated[
    float | None,
    typer.Option(
        min=1, help="Times the query heads; as --embed-mult unless given.", show_default=False, rich_help_panel=GROWTH
    ),
]
KvHeadsMult = Annotated[
    float | None,
    typer.Option(
        min=1,
        help="Times the key/value heads; as --heads-mult unless given, but a single one stays single.",
        show_default=False,
        rich_help_panel=GROWTH,
    ),
]
HeadDimMult = Annotated[
    int, typer.Option(min=1, help="Times the size of a head, a whole number.", rich_help_panel=GROWTH)
]
HiddenSize = Annotated[
    int | None,
    typer.Option(min=1, help="hidden_size, instead of --embed-mult.", show_default=False, rich_help_panel=GROWTH),
]
IntermediateSize = Annotated[
    int | None,
    typer.Option(
        min=1, help="The feed-forward width, instead of --ffn-mult.", show_default=False, rich_help_panel=GROWTH
    ),
]
NumHeads = Annotated[
    int | None,
    typer.Option(min=1, help="Query heads, instead of --heads-mult.", show_default=False, rich_help_panel=GROWTH),
]
NumKvHeads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Key/value heads, instead of --kv-heads-mult.", show_default=False, rich_help_panel=GROWTH
    ),
]
TargetParams = Annotated[
    str | None,
    typer.Option(
        help="Parameters of the clone, such as 1.3B: chooses the hidden and feed-forward sizes that come closest.",
        show_default=False,
        rich_help_panel=GROWTH,
    ),
]
MultipleOf = Annotated[
    int,
    typer.Option(
        min=1, help="What --target-params makes the feed-forward width a multiple of.", rich_help_panel=GROWTH
    ),
]
TieEmbeddings = Annotated[
    Tie,
    typer.Option(
        help="A tied head: keep it tied where that can be exact, insist on it, or write a head of its own.",
        rich_help_panel=GROWTH,
    ),
]
StrategyOption = Annotated[
    Strategy,
    typer.Option(
        "--strategy",
        help="How copies read the copies that they are fed: all alike, one, or all unevenly.",
        rich_help_panel=MIXING,
    ),
]
UnevenRatio = Annotated[
    str,
    typer.Option(help="Proportions of --strategy uneven; 1:2:…:n for other numbers of copies.", rich_help_panel=MIXING),
]
NoiseSnrDb = Annotated[
    float | None,
    typer.Option(
        help="Add noise that cancels over the copies, this far below the weights.",
        show_default=False,
        rich_help_panel=MIXING,
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the noise.", rich_help_panel=MIXING)]
StorageDtype = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype", help="Storage dtype; each tensor's own unless given.", show_default=False, rich_help_panel=WRITING
    ),
]
MaxShardSize = Annotated[str, typer.Option(help="Largest file.", rich_help_panel=WRITING)]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace the model at --out once the new one is complete.", rich_help_panel=WRITING
    ),
]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Do not verify at the end.", rich_help_panel=CHECKING)]
Device = Annotated[
    str | None,
    typer.Option(help="Where to run the models; a GPU if there is one.", show_default=False, rich_help_panel=CHECKING),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]


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
    chosen = {name: given[name] for name in GrowthOptions.__annotations__}
    return cast(GrowthOptions, chosen | {"uneven_ratio": _ratio(given["uneven_ratio"])})


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
    multiple_of: MultipleOf = 64,
    tie_embeddings: TieEmbeddings = Tie.auto,
    strategy: StrategyOption = Strategy.symmetric,
    uneven_ratio: UnevenRatio = "1:2",
    noise_snr_db: NoiseSnrDb = None,
    seed: Seed = 0,
    dtype: StorageDtype = None,
    max_shard_size: MaxShardSize = "50GB",
    overwrite: Overwrite = False,
    no_verify: NoVerify = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Write a larger checkpoint that computes the same function, and verify it.

    Example: hyperclone expand --src ./opt-350m --embed-mult 2 --ffn-mult 2 --out ./opt-700m
    """
    from hyperclone_cli import api, console

    options = _growth_options(locals())
    if device is not None:
        from hyperclone_cli.verifier.forward import choose_device

        choose_device(device)  # refused before anything is written
    with console.progress("Expanding") as written:
        plan = api.expand(src, out, overwrite=overwrite, progress=written, **options)
    report = None
    if not no_verify:
        from hyperclone_cli.verifier import verify as check

        with console.steps() as log:
            report = check(out, device=device, log=log)
    console.show_clone(plan, out, report, as_json)
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
    multiple_of: MultipleOf = 64,
    tie_embeddings: TieEmbeddings = Tie.auto,
    strategy: StrategyOption = Strategy.symmetric,
    uneven_ratio: UnevenRatio = "1:2",
    noise_snr_db: NoiseSnrDb = None,
    seed: Seed = 0,
    dtype: StorageDtype = None,
    max_shard_size: MaxShardSize = "50GB",
    as_json: Json = False,
) -> None:
    """Show what `expand` would write: sizes, parameters, bytes, what is exact. Writes nothing.

    Example: hyperclone plan --src ./opt-350m --embed-mult 2 --ffn-mult 2
    """
    from hyperclone_cli import api, console

    options = _growth_options(locals())
    console.show_plan(api.plan(src, **options), as_json)


@app.command()
def verify(
    clone: Annotated[Path, typer.Argument(help="The clone's directory.")] = Path("."),
    src: Annotated[
        Path | None,
        typer.Option("--src", help="Its source; the one that it recorded unless given.", show_default=False),
    ] = None,
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
    new_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that greedy decoding adds to each prompt.", rich_help_panel=CHECKING)
    ] = 16,
    as_json: Json = False,
) -> None:
    """Hold a clone against its source: every weight, the logits, greedy decoding.

    Example: hyperclone verify ./opt-700m
    """
    from hyperclone_cli import console
    from hyperclone_cli.verifier import verify as check

    with console.steps() as log:
        report = check(clone, src, device, dtype.value, weights_only, new_tokens, log)
    console.show_report(report, as_json)
    if not report.passed:
        raise MismatchError(f"{clone}: the clone does not match its source.")


@app.command()
def inspect(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CLONE", help="The directory of the clone, or of a checkpoint trained from it.")
    ] = Path("."),
    clone: Annotated[
        Path | None,
        typer.Option(
            "--clone",
            help="The clone that this checkpoint was trained from; the checkpoint itself unless given.",
            show_default=False,
        ),
    ] = None,
    src: Annotated[
        Path | None,
        typer.Option("--src", help="The clone's source; the one that it recorded unless given.", show_default=False),
    ] = None,
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
    as_json: Json = False,
) -> None:
    """Show whether the copies in a clone differ, and with --gradients whether training will part them.

    Example: hyperclone inspect ./opt-700m --gradients
    """
    from hyperclone_cli import console
    from hyperclone_cli.inspector import inspect as look

    if plot is not None:
        from hyperclone_cli.plot import check_plot

        check_plot(plot)  # refused before anything is computed
    with console.steps() as log:
        inspection = look(checkpoint, clone, src, gradients, device, log)
    if plot is not None:
        from hyperclone_cli.plot import write_plot

        write_plot(inspection, plot)
    console.show_inspection(inspection, as_json)


@app.command()
def families(as_json: Json = False) -> None:
    """List the architectures that can be expanded."""
    from hyperclone_cli import console
    from hyperclone_cli.families import FAMILIES

    console.show_families(FAMILIES.values(), as_json)
