"""Errors of huggingface_hub, each turned into one message that says what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hyperclone_cli.errors import HypercloneError, RequestError, StorageError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_LOG_IN = "log in with `hf auth login`, or pass --token"
_AGAIN = "Run the same command again: what was transferred is kept."
_SRC_HINT = "A model on the Hub is named org/name, a directory by its path."


@contextmanager
def hub_errors(repo_id: str, may_be_path: bool = False) -> Iterator[None]:
    """Turn what huggingface_hub raises inside the block into a StorageError, or a RequestError for a bad name.

    may_be_path  whether `repo_id` may be a mistyped path; the message says so if the Hub cannot tell

    No message includes a request's headers, and so none includes the token.
    """
    from huggingface_hub import errors

    # huggingface_hub lets errors of its HTTP library through, and that library changes between versions
    transport: type[Exception] = errors.HTTPError
    try:
        yield
    except errors.HFValidationError as error:
        raise RequestError(f"{repo_id}: {error}", "Name the model as on the Hub: org/name.") from error
    except (transport, errors.XetDownloadError, OSError, RuntimeError, ValueError) as error:
        raise _explain(repo_id, _cause(error), may_be_path) from error


def offline_error(repo_id: str) -> StorageError:
    """The error to raise if the Hub is needed while HF_HUB_OFFLINE is set."""
    return StorageError(f"{repo_id}: the Hub is needed, but HF_HUB_OFFLINE is set.", "Unset it.")


def _cause(error: BaseException) -> BaseException:
    """The error that huggingface_hub wrapped in a less specific one."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    cause = error.__cause__
    vague = isinstance(error, LocalEntryNotFoundError | RuntimeError)
    return _cause(cause) if vague and cause and not isinstance(cause, OfflineModeIsEnabled) else error


def _explain(repo_id: str, error: BaseException, may_be_path: bool) -> HypercloneError:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return offline_error(repo_id)
    if isinstance(error, errors.LocalEntryNotFoundError):
        return StorageError(
            f"{repo_id}: no such directory, and not complete in the Hub's cache, which is all there is offline.",
            "Unset HF_HUB_OFFLINE, choose another --cache-dir, or name a directory.",
        )
    if isinstance(error, errors.GatedRepoError):
        ask = f"Ask for access at {constants.ENDPOINT}/{repo_id}, then {_LOG_IN}."
        return StorageError(f"{repo_id}: the model is gated, and access to it is not granted.", ask)
    if isinstance(error, errors.RepositoryNotFoundError):
        return StorageError(
            f"{repo_id}: not found on the Hub, or private.",
            f"Check the name (no local directory has it either); for a private model {_LOG_IN}.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return StorageError(f"{repo_id}: no such revision.", "Name a branch, a tag or a commit with --revision.")
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(repo_id, error, constants.ENDPOINT)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, errors.HTTPError | ConnectionError):
        no_path, names = ("no such directory here, and ", f"{_SRC_HINT} ") if may_be_path else ("", "")
        return StorageError(
            f"{repo_id}: {no_path}the Hub cannot be reached: {lines[0].rstrip('.')}.",
            f"{names}Check the network, the proxy and HF_ENDPOINT. {_AGAIN}",
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename:
        return StorageError(f"{error.filename}: {error.strerror}.", _AGAIN)
    return StorageError(f"{repo_id}: {lines[0].rstrip('.')}.", _AGAIN)


def _explain_status(repo_id: str, error: HfHubHTTPError, endpoint: str) -> HypercloneError:
    status = error.response.status_code
    said = f" ({error.server_message.splitlines()[0].rstrip('.')})" if error.server_message else ""
    if status in (401, 403):
        refusal = "the Hub does not accept the token" if status == 401 else "the token does not allow this"
        return StorageError(f"{repo_id}: {refusal}{said}.", f"To use a different one, {_LOG_IN}.")
    if status == 429:
        seconds = error.response.headers.get("Retry-After", "")
        wait = f"in {seconds} seconds" if seconds.isdecimal() else "in a few minutes"
        return StorageError(f"{repo_id}: the Hub answered too many requests.", f"Run the same command again {wait}.")
    return StorageError(f"{repo_id}: {endpoint} answered HTTP {status}{said}.", _AGAIN)
