"""The options of the commands: one alias each, with its help, used wherever the option appears."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Strategy(StrEnum):
    halving = "halving"
    symmetric = "symmetric"
    diagonal = "diagonal"
    uneven = "uneven"


class Tie(StrEnum):
    auto = "auto"
    keep = "keep"
    untie = "untie"


GROWTH, MIXING, WRITING, CHECKING, HUB = "Growth", "Breaking the symmetry", "Writing", "Checking", "Hub"

Src = Annotated[
    str,
    typer.Option(
        "--src", help="The source: a directory, a GGUF file, or a model on the Hub: org/name.", show_default=False
    ),
]
RecordedSrc = Annotated[
    str | None,
    typer.Option("--src", help="The clone's source; the one that it recorded unless given.", show_default=False),
]
Revision = Annotated[
    str | None,
    typer.Option(
        help="Branch, tag or commit of a source on the Hub; main unless given.",
        show_default=False,
        rich_help_panel=HUB,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(help="Token for the Hub; the usual login unless given.", show_default=False, rich_help_panel=HUB),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        help="Where models from the Hub are kept; the usual cache unless given.",
        show_default=False,
        rich_help_panel=HUB,
    ),
]
PushToHub = Annotated[
    str | None,
    typer.Option(
        metavar="REPO_ID", help="Push the clone once it is verified.", show_default=False, rich_help_panel=HUB
    ),
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
FamilyOption = Annotated[
    str | None,
    typer.Option(
        "--family",
        help="The table to use for an architecture that has none of its own, such as llama.",
        show_default=False,
        rich_help_panel=GROWTH,
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
        help="How copies read the copies that they are fed: in halves, all alike, one each, or unevenly.",
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
Restart = Annotated[
    bool,
    typer.Option(
        "--restart", help="Discard what an interrupted run has written, and start over.", rich_help_panel=WRITING
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Threads to work with; one for each core unless given.", show_default=False, rich_help_panel=WRITING
    ),
]
MaxMemory = Annotated[
    str,
    typer.Option(help="Memory for the blocks that are worked on; fewer threads if need be.", rich_help_panel=WRITING),
]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Do not verify at the end.", rich_help_panel=CHECKING)]
Checksum = Annotated[
    bool,
    typer.Option(
        "--checksum", help="SHA-256 of every file: expand records them, verify compares.", rich_help_panel=CHECKING
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="Where to run the models; a GPU if there is one.", show_default=False, rich_help_panel=CHECKING),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
