"""The command that uploads a clone: parse, call, show. No logic.

Annotations are evaluated as they are read, unlike in other modules: Typer would compile the text of each one twice.
"""

from pathlib import Path
from typing import Annotated

import typer

from hyperclone_cli.cli.options import Json, Token


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
    from hyperclone_cli.cli import growth_output
    from hyperclone_cli.hub.upload import Target

    target = Target(repo_id, revision, private, create_pr, commit_message, token)
    growth_output.show_pushed(api.push(clone, target, force), as_json)
