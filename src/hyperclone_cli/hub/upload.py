"""Upload a clone to the Hub in one commit. An interrupted upload is run again, and goes on."""

from __future__ import annotations

import glob
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import join
from typing import Any

from hyperclone_cli.checkpoint.source import WEIGHTS
from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.hub.download import Access, hub_session
from hyperclone_cli.hub.errors import offline_error

SCHEMA_VERSION = 1

_HIDDEN = [".*", "*/.*"]
_PULL_REQUEST = "refs/pr/"


@dataclass(frozen=True)
class Target:
    """Where a clone goes, and how.

    revision        branch, made if it is not there, or refs/pr/N to add to a pull request; None: main
    private         make the repository private if it has to be made
    create_pr       open a pull request against main instead of committing to it
    commit_message  its first line; None: one that names hyperclone
    token           None: the usual login

    Raises RequestError for what no upload can do, StorageError if the environment says that there is no Hub.
    """

    repo_id: str
    revision: str | None = None
    private: bool = False
    create_pr: bool = False
    commit_message: str | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        from huggingface_hub import get_token, is_offline_mode
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise RequestError(f"{self.repo_id}: {error}", "Name the repository as org/name.") from None
        if self.create_pr and self.revision not in (None, "main"):
            raise RequestError(
                f"--create-pr with --revision {self.revision}: a pull request is opened against main.",
                "Leave one of them out; --revision refs/pr/N adds to the pull request number N.",
            )
        Access(token=self.token)
        if is_offline_mode():
            raise offline_error(self.repo_id)
        if not (self.token or get_token()):
            raise RequestError(
                f"{self.repo_id}: to upload, the Hub needs to know who you are.",
                "Log in with `hf auth login`, set HF_TOKEN, or pass --token.",
            )


@dataclass(frozen=True)
class Pushed:
    """Where a clone can be seen: `url` is the page of its repository, branch or pull request."""

    clone: str
    repo_id: str
    url: str
    commit: str
    schema_version: int = SCHEMA_VERSION

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def upload(clone: Path, target: Target, force: bool = False) -> Pushed:
    """Upload the directory `clone` in one commit, making the repository if need be.

    The same commit removes weights of the same kind that the repository holds and the clone does not: transformers
    would load them instead. Hidden files are not uploaded. `force` only tells the command that the hint names.

    Raises RequestError for a repository that is public and was to be private, and StorageError if the Hub refuses or
    cannot be reached. A second run uploads only what is missing.
    """
    try:
        return _upload(clone, target)
    except StorageError as error:
        again = f"The clone itself is whole. To go on: {_command(clone, target, force)}"
        raise StorageError(error.message, f"{error.hint} {again}") from error


def _command(clone: Path, target: Target, force: bool) -> str:
    """The command that asks for the same push again. It never holds the token."""
    words = ["hyperclone", "push", str(clone), target.repo_id]
    words += ["--private"] if target.private else []
    words += ["--revision", target.revision] if target.revision else []
    words += ["--create-pr"] if target.create_pr else []
    words += ["--commit-message", target.commit_message] if target.commit_message else []
    words += ["--force"] if force else []
    return join(words)


def _upload(clone: Path, target: Target) -> Pushed:
    from huggingface_hub import CommitInfo, HfApi

    api = HfApi(token=target.token, library_name="hyperclone")
    with hub_session(target.repo_id, target.token):
        repo = api.create_repo(target.repo_id, private=target.private or None, exist_ok=True)
        repo_id = repo.repo_id
        if target.private and not api.model_info(repo_id).private:
            raise RequestError(f"{repo_id}: is there already, and public.", "Make it private on its page first.")
        if target.revision and not target.revision.startswith(_PULL_REQUEST):
            api.create_branch(repo_id, branch=target.revision, exist_ok=True)
        present = api.list_repo_files(repo_id, revision=target.revision)
        stale = [name for name in present if WEIGHTS.fullmatch(name) and not (clone / name).exists()]
        done: CommitInfo = api.upload_folder(
            repo_id=repo_id,
            folder_path=clone,
            revision=target.revision,
            create_pr=target.create_pr,
            commit_message=target.commit_message or "Grow with hyperclone",
            ignore_patterns=list(_HIDDEN),
            delete_patterns=[glob.escape(name) for name in stale] or None,
        )
    branch = f"/tree/{target.revision}" if target.revision else ""
    return Pushed(str(clone), repo_id, done.pr_url or f"{repo}{branch}", done.oid)
