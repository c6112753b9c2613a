"""The options of the commands.

Those that are declared once for the command line and for Python, in growth/request.py and growth/strategies.py, are
turned into Typer's parameters here. The others are aliases, used wherever the option appears.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from hyperclone_cli.growth.option import (
    CHECKING,
    GROWTH,
    MACHINES,
    SYMMETRY,
    WRITING,
    Function,
    Option,
    options_of,
)

HUB = "Hub"
PANELS = (None, GROWTH, SYMMETRY, WRITING, MACHINES, CHECKING, HUB)
"""The headings of `--help`, in order; None is that of the options without one."""

_SOURCES = "a directory, a GGUF file, a model on the Hub (org/name), or a prefix in an object store (s3://…)"


def takes_options(*declarations: type) -> Callable[[Function], Function]:
    """A decorator for a command whose `**options` are the fields of `declarations`: Typer finds them all."""

    def decorate(function: Function) -> Function:
        own = [one for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD]
        parameters = [*own, *map(_parameter, options_of(*declarations))]
        parameters.sort(key=lambda one: PANELS.index(one.annotation.__metadata__[0].rich_help_panel))
        keywords = [one.replace(kind=one.KEYWORD_ONLY) for one in parameters]
        function.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
        return function

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    """An option as Typer takes it, which knows no unions: where a text will do, it is one, and is read later."""
    is_text = option.parse is not None or str in option.types
    kind = (str if option.default is not None else str | None) if is_text else option.type
    declared = typer.Option(
        option.flag,
        help=option.help,
        min=option.min,
        metavar=option.metavar,
        parser=option.parse,
        show_default=option.unset or option.default is not None,
        rich_help_panel=option.panel,
    )
    default = option.format(option.default) if option.parse else option.default
    annotation = Annotated[kind, declared]  # type: ignore[valid-type]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


checking = partial(typer.Option, rich_help_panel=CHECKING)
hub = partial(typer.Option, rich_help_panel=HUB)

Src = Annotated[str, typer.Option("--src", help=f"The source: {_SOURCES}.", show_default=False)]
RecordedSrc = Annotated[
    str | None,
    typer.Option("--src", help=f"The clone's source: {_SOURCES}.", show_default="the one that the clone recorded"),
]
Out = Annotated[
    str, typer.Option("--out", help="The directory to write, or a prefix in an object store.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
NoVerify = Annotated[bool, checking("--no-verify", help="Do not verify the clone.")]
Device = Annotated[
    str | None,
    checking(help="Where the models run, as torch names it.", show_default="a GPU if there is one, else cpu"),
]
Revision = Annotated[str | None, hub(help="Branch, tag or commit of a source on the Hub.", show_default="main")]
Token = Annotated[str | None, hub(help="Token for the Hub.", show_default="the usual login")]
CacheDir = Annotated[Path | None, hub(help="Where models from the Hub are kept.", show_default="the usual cache")]
PushToHub = Annotated[
    str | None,
    hub(metavar="REPO_ID", help="Push the clone to this repository once it is verified.", show_default=False),
]
VerifyTokens = Annotated[
    int | None,
    checking(
        min=2,
        help="How many tokens of the page of English both models are run on.",
        show_default="all, about 400; fewer if memory is short",
    ),
]
WorldSize = Annotated[
    int | None,
    typer.Option(
        "--world-size",
        min=1,
        help="Also show what each of so many processes would write.",
        show_default=False,
        rich_help_panel=MACHINES,
    ),
]
Tokens = Annotated[
    str | None,
    typer.Option(
        "--tokens",
        metavar="NUMBER",
        help="Also say what is known of growth where a clone is trained on so many tokens, such as 10B.",
        show_default=False,
        rich_help_panel=GROWTH,
    ),
]
ReportFile = Annotated[
    Path | None,
    checking("--report", metavar="FILE", help="Also write the verification as one HTML page.", show_default=False),
]
