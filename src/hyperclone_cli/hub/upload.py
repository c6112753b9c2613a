"""Upload a clone to the Hub in one commit. An interrupted upload resumes when it is run again."""

from __future__ import annotations

import glob
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import join
from typing import Any

from hyperclone_cli.checkpoint.source import WEIGHTS
from hyperclone_cli.checkpoint.training_state import state_files
from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.hub.download import Access, hub_session
from hyperclone_cli.hub.errors import offline_error

SCHEMA_VERSION = 1

_HIDDEN = [".*", "*/.*"]
_PULL_REQUEST = "refs/pr/"


@dataclass(frozen=True)
class Target:
    """The repository that a clone is uploaded to, and how.

    revision        branch, created if it does not exist, or refs/pr/N to add to a pull request; None: main
    private         create the repository as private
    create_pr       open a pull request against main instead of committing to it
    commit_message  None: one that names hyperclone
    token           None: that of the usual login

    Raises RequestError for a bad name or token or contradictory options, StorageError if HF_HUB_OFFLINE is set.
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
        Access(token=self.token)  # refuses a token that cannot be sent
        if is_offline_mode():
            raise offline_error(self.repo_id)
        if not (self.token or get_token()):
            raise RequestError(
                f"{self.repo_id}: uploading to the Hub needs a token, and none was found.",
                "Log in with `hf auth login`, set HF_TOKEN, or pass --token.",
            )


@dataclass(frozen=True)
class Pushed:
    """An upload that succeeded.

    url             the page of the repository, branch or pull request
    left_out        files that resume a training run, which were not uploaded
    left_out_bytes  of these
    """

    clone: str
    repo_id: str
    url: str
    commit: str
    left_out: tuple[str, ...] = ()
    left_out_bytes: int = 0
    schema_version: int = SCHEMA_VERSION

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def upload(clone: Path, target: Target, force: bool = False) -> Pushed:
    """Upload the directory `clone` in one commit, creating the repository if it does not exist.

    The commit also deletes safetensors of the repository that the clone does not have, which transformers would load
    instead. Hidden files are not uploaded, nor those that resume a training run: moments take two to four times the
    room of the weights, and who downloads a model has no use for them. A second run uploads only what is missing.
    `force` is used for nothing but the command that an error suggests.

    Raises RequestError if the repository is public and should be private, StorageError if the Hub refuses or cannot
    be reached.
    """
    try:
        return _upload(clone, target)
    except StorageError as error:
        error.hint += f" The clone itself is complete. To go on: {_command(clone, target, force)}"
        raise


def _command(clone: Path, target: Target, force: bool) -> str:
    """The command that repeats a push, without the token."""
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
            raise RequestError(f"{repo_id}: the repository exists and is public.", "Make it private on its page first.")
        if target.revision and not target.revision.startswith(_PULL_REQUEST):
            api.create_branch(repo_id, branch=target.revision, exist_ok=True)
        existing = api.list_repo_files(repo_id, revision=target.revision)
        stale = [name for name in existing if WEIGHTS.fullmatch(name) and not (clone / name).exists()]
        left_out = sorted(state_files(clone))
        done: CommitInfo = api.upload_folder(
            repo_id=repo_id,
            folder_path=clone,
            revision=target.revision,
            create_pr=target.create_pr,
            commit_message=target.commit_message or "Grow with hyperclone",
            ignore_patterns=[*_HIDDEN, *map(glob.escape, left_out)],
            delete_patterns=[glob.escape(name) for name in stale] or None,
        )
    branch = f"/tree/{target.revision}" if target.revision else ""
    nbytes = sum((clone / name).stat().st_size for name in left_out)
    return Pushed(str(clone), repo_id, done.pr_url or f"{repo}{branch}", done.oid, tuple(left_out), nbytes)
