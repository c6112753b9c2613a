"""The options of the commands.

Those that are declared once for the command line and for Python, in growth/request.py and growth/strategies.py, are
turned into Typer's parameters here. The others are aliases, used wherever the option appears.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from hyperclone_cli.growth.option import (
    CHECKING,
    GROWTH,
    SYMMETRY,
    WRITING,
    Function,
    Option,
    options_of,
)

HUB = "Hub"
PANELS = (None, GROWTH, SYMMETRY, WRITING, CHECKING, HUB)
"""The headings of `--help`, in order; None is that of the options without one."""


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


Src = Annotated[
    str,
    typer.Option(
        "--src", help="The source: a directory, a GGUF file, or a model on the Hub: org/name.", show_default=False
    ),
]
RecordedSrc = Annotated[
    str | None,
    typer.Option(
        "--src",
        help="The clone's source: a directory, a GGUF file, or a model on the Hub.",
        show_default="the one that the clone recorded",
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(help="Branch, tag or commit of a source on the Hub.", show_default="main", rich_help_panel=HUB),
]
Token = Annotated[
    str | None, typer.Option(help="Token for the Hub.", show_default="the usual login", rich_help_panel=HUB)
]
CacheDir = Annotated[
    Path | None,
    typer.Option(help="Where models from the Hub are kept.", show_default="the usual cache", rich_help_panel=HUB),
]
VerifyTokens = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="How many tokens of the page of English both models are run on.",
        show_default="all, about 400",
        rich_help_panel=CHECKING,
    ),
]
PushToHub = Annotated[
    str | None,
    typer.Option(
        metavar="REPO_ID",
        help="Push the clone to this repository once it is verified.",
        show_default=False,
        rich_help_panel=HUB,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="The directory to write.", show_default=False)]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Do not verify the clone.", rich_help_panel=CHECKING)]
Device = Annotated[
    str | None,
    typer.Option(
        help="Where the models run, as torch names it.",
        show_default="a GPU if there is one, else cpu",
        rich_help_panel=CHECKING,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
