"""A verified clone onto the Hub. Uploads what is not there yet, in one commit, so that a cut upload is run again."""

from __future__ import annotations

import glob
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import join, quote
from typing import Any

from hyperclone_cli.config import read_json
from hyperclone_cli.errors import CheckpointError, MismatchError, RequestError, StorageError
from hyperclone_cli.hub import Access, hub_session
from hyperclone_cli.hub_errors import offline_error
from hyperclone_cli.provenance import PROVENANCE_NAME, read_provenance
from hyperclone_cli.source import WEIGHTS, open_source
from hyperclone_cli.verification import SCHEMA_VERSION as RECORD_VERSION
from hyperclone_cli.verification import VERIFICATION_NAME, file_digests

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


def push(clone: Path, target: Target, force: bool = False) -> Pushed:
    """Upload the finished, verified clone at `clone`, making the repository if need be.

    Weights of the same kind that the repository holds and the clone does not are removed in the same
    commit: transformers would load them instead. Hidden files stay here. `force` uploads a clone that
    was not verified, or failed.

    Raises CheckpointError if `clone` is no finished clone, RequestError or MismatchError for want of a
    verification, and StorageError if the Hub refuses or cannot be reached: run again, it goes on.
    """
    check_clone(clone)
    if not force:
        check_verified(clone)
    try:
        return _upload(clone, target)
    except StorageError as error:
        again = f"The clone itself is whole. To go on: {_command(clone, target, force)}"
        raise StorageError(error.message, f"{error.hint} {again}") from error


def _command(clone: Path, target: Target, force: bool) -> str:
    """What asks for the same push again, but for the token: no message holds one."""
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


def check_clone(clone: Path) -> None:
    """Raise CheckpointError unless `clone` is a clone of ours, whole and with the files that it recorded.

    Raises RequestError if there is no such directory.
    """
    if not clone.is_dir():
        raise RequestError(f"{clone}: no such directory.", "Name the directory that `hyperclone expand` wrote.")
    record = read_provenance(clone)
    if record is None:
        raise CheckpointError(
            f"{clone}: no {PROVENANCE_NAME}, so this is no finished clone.",
            "Name the directory that `hyperclone expand` wrote; for anything else there is `hf upload`.",
        )
    absent = [name for name in record.files if not (clone / name).is_file()]
    if absent:
        raise CheckpointError(f"{clone / absent[0]}: missing; the clone was written with it.", "Expand again.")
    open_source(clone)


def check_verified(clone: Path) -> None:
    """Raise RequestError for a clone that was not verified as it stands, MismatchError for one that failed."""
    path, again = clone / VERIFICATION_NAME, f"Next: hyperclone verify {quote(str(clone))}; or --force."
    if not path.exists():
        raise RequestError(f"{clone}: never verified.", again)
    found, record = read_json(path), read_provenance(clone)
    files = found.get("files")
    if (
        record is None
        or found.get("schema_version") != RECORD_VERSION
        or found.get("plan_digest") != record.plan_digest
        or not isinstance(files, dict)
    ):
        raise RequestError(f"{path}: is not about this clone.", again)
    if found.get("passed") is not True:
        raise MismatchError(f"{clone}: failed its verification.", again)
    present = file_digests(clone)
    changed = [name for name in sorted({*files, *present}) if files.get(name) != present.get(name)]
    if changed:
        added = " was not there" if changed[0] not in files else ""
        raise RequestError(f"{clone}: changed since it was verified: {changed[0]}{added}.", again)
