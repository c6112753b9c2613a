"""docs/options.md: every command with its arguments and options, as Typer reads them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer.models import ArgumentInfo

from hyperclone_cli.cli.app import app
from hyperclone_cli.cli.options import PANELS

PAGE = """\
# Commands and options

{commands}

`hyperclone COMMAND --help` prints the options of a command. The keywords of the Python functions `plan`, `expand`
and `clone_model` have the same names with `_` for `-`, and the same defaults. They have the same types, but
`uneven_ratio` is a tuple such as `(1, 2)`, and `target_params`, `max_shard_size` and `max_memory` may be numbers. A
growth can also be given as one object: `Request(embed_mult=2, mixing=Mixing("symmetric"))`.

A multiplier of type *number* need not be whole: the width that it leads to is rounded to whole units. Multipliers of 1
everywhere make a faithful copy. `--help` is an option of every command; `hyperclone` itself has these:

| option | what it does |
|---|---|
{own}

{sections}
## Exit codes

| code | meaning |
|---|---|
{codes}
"""

SECTION = """\
## hyperclone {name}

{text}

```
{example}
```

{tables}"""

TYPES: dict[Any, str] = {
    float: "number",
    int: "whole number",
    str: "text",
    Path: "path",
    bool: "flag",
    list[str]: "text",
}


def options_reference() -> str:
    """The page."""
    commands = [command.callback for command in app.registered_commands]
    assert app.registered_callback
    own = [row[::3] for row in _rows(app.registered_callback.callback)]
    own += [(f"`--{verb}-completion`", f"{verb.capitalize()} the shell's completion.") for verb in ("install", "show")]
    codes = re.findall(r"(\d+) ([^·]+)", str(app.info.epilog))
    return PAGE.format(
        commands="\n".join(
            f"- [`hyperclone {name}`](#hyperclone-{name}): {_text(of)[0]}" for name, of in _named(commands)
        ),
        own=_table(own),
        sections="\n".join(_section(name, of) for name, of in _named(commands)),
        codes=_table((code, meaning.strip()) for code, meaning in codes),
    )


def _named(commands: Iterable[Any]) -> list[tuple[str, Callable[..., Any]]]:
    return [(command.__name__, command) for command in commands]


def _section(name: str, command: Callable[..., Any]) -> str:
    text, example = _text(command)
    tables = []
    for panel in PANELS:
        rows = list(_rows(command, panel))
        if rows:
            title = f"### {panel}\n\n" if panel else ""
            tables.append(f"{title}| option | type | default | what it does |\n|---|---|---|---|\n{_table(rows)}\n")
    return SECTION.format(name=name, text=text, example=example, tables="\n".join(tables))


def _text(command: Callable[..., Any]) -> tuple[str, str]:
    """What the docstring of a command says of it, and its example."""
    text, example = (command.__doc__ or "").split("Example: ")
    return " ".join(text.split()), example.strip()


def _rows(command: Any, panel: str | None = None) -> Iterable[tuple[str, str, str, str]]:
    """(option, type, default, help) of a command's parameters in a panel."""
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind, said = get_args(parameter.annotation)[:2]
        if said.rich_help_panel != panel:
            continue
        names = [name for name in (said.default, *(said.param_decls or ())) if isinstance(name, str)]
        flag = (
            said.metavar if isinstance(said, ArgumentInfo) else (names or [f"--{parameter.name.replace('_', '-')}"])[0]
        )
        yield f"`{flag}`", _type(kind, said), _default(parameter, said), _code(said.help)


def _type(kind: Any, said: Any) -> str:
    members = [one for one in get_args(kind) if one is not type(None)] if type(None) in get_args(kind) else [kind]
    if get_origin(members[0]) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(members[0]))
    if said.metavar and not isinstance(said, ArgumentInfo):
        return f"`{said.metavar}`"
    return TYPES[members[0]] + (f" from {said.min} up" if said.min is not None else "")


def _default(parameter: inspect.Parameter, said: Any) -> str:
    if parameter.default is parameter.empty:
        return "required"
    if isinstance(said.show_default, str):
        return _code(said.show_default)
    return "" if parameter.default is None or parameter.default is False else f"`{parameter.default}`"


def _code(text: str) -> str:
    """Text with the options in it marked as code."""
    return re.sub(r"`[^`]*`|--[a-z-]+", lambda found: f"`{found[0].strip('`')}`", text)


def _table(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
