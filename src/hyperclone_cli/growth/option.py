"""Options are declared once, as fields of a dataclass: `name: type = option(default, "what it does", …)`.

The command line, the keywords of the Python functions and the reference in docs/options.md are made from these fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from inspect import Parameter, signature
from math import isfinite
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from hyperclone_cli.errors import RequestError

GROWTH, SYMMETRY, WRITING, CHECKING = "Growth", "Breaking the symmetry", "Writing", "Checking"
MACHINES = "Several machines"

Function = TypeVar("Function", bound=Callable[..., Any])
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False, repr=False)  # each method that is generated takes time from `--help`
class Option:
    """A field as an option.

    panel       the heading that it is listed under; that of its dataclass, its `panel`, if none is given
    min, max    the smallest and the largest number that it takes
    unset       what holds where it is None
    instead_of  the multiplier of the same width, which cannot be given beside it
    metavar     what stands for its value in `--help`; None: the name of its type
    parse       text, as on a command line, to value; None where the type says how
    format      value to text
    name, type  those of the field, which `options_of` fills in
    """

    default: Any
    help: str
    panel: str = ""
    min: int | None = None
    max: int | None = None
    unset: str = ""
    instead_of: str = ""
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    format: Callable[[Any], str] = str
    name: str = ""
    type: Any = None

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return flag(self.name)

    @cached_property
    def types(self) -> tuple[Any, ...]:
        """The members of its type, which may be a union."""
        return (self.type,) if get_origin(self.type) in (None, tuple, Literal) else get_args(self.type)

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """The values that it takes, where its type is a Literal."""
        return next((get_args(one) for one in self.types if get_origin(one) is Literal), ())


def option(default: Value, help: str, **more: Any) -> Value:
    """What a field that is an option is set to where its dataclass is written; `more` are fields of Option."""
    declared: Value = field(default=default, metadata={"option": Option(default, help, **more)})
    return declared


def flag(name: str) -> str:
    """The option of the command line that sets the field `name`."""
    return f"--{name.replace('_', '-')}"


def options_of(*declarations: type) -> list[Option]:
    """The options that dataclasses declare, in order. A field that `option` did not make is none."""
    return [one for declaration in declarations for one in _declared(declaration)]


@cache
def _declared(declaration: Any) -> list[Option]:
    types: dict[str, Any] = get_type_hints(declaration)
    declared = {one.name: one.metadata["option"] for one in fields(declaration) if one.metadata}
    return [
        replace(one, name=name, type=types[name], panel=one.panel or declaration.panel)
        for name, one in declared.items()
    ]


def check_values(declared: object) -> None:
    """Raise RequestError if a field is no number of its option's type and range, or none of its choices."""
    for option in options_of(type(declared)):
        value = getattr(declared, option.name)
        if value is None and type(None) in option.types:
            continue
        if option.choices and value not in option.choices:
            raise RequestError(f"{option.flag} {value}: expected one of {', '.join(option.choices)}.")
        if option.min is None or str in option.types:
            continue
        kinds = (int, float) if float in option.types else (int,)
        if type(value) not in kinds or not isfinite(value) or not option.min <= value <= (option.max or value):
            number, most = "number" if float in kinds else "whole number", f"{option.max:,}" if option.max else "up"
            raise RequestError(f"{option.flag} {value}: expected a {number} from {option.min} to {most}.")


def takes(*declarations: type) -> Callable[[Function], Function]:
    """A decorator for a function whose `**options` are the fields of `declarations`: its signature shows them."""

    def decorate(function: Function) -> Function:
        shown = signature(function)
        own = [one for one in shown.parameters.values() if one.kind is not one.VAR_KEYWORD]
        keywords = [
            Parameter(option.name, Parameter.KEYWORD_ONLY, default=option.default, annotation=option.type)
            for option in options_of(*declarations)
        ]
        function.__signature__ = shown.replace(parameters=[*own, *keywords])  # type: ignore[attr-defined]
        return function

    return decorate


def take(declaration: type, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of `declaration` among `options`, taken out of them."""
    return {option.name: options.pop(option.name) for option in options_of(declaration) if option.name in options}
