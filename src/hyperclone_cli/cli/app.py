"""The command line: its commands, in the order of `--help`."""

from typing import Annotated

import typer

from hyperclone_cli import __version__
from hyperclone_cli.cli.checking import families, inspect, verify
from hyperclone_cli.cli.growing import expand, plan
from hyperclone_cli.cli.publishing import push

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


for command in (expand, plan, verify, inspect, push, families):
    app.command()(command)
