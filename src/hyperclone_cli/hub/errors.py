"""What goes wrong on the way to the Hub, as one message that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hyperclone_cli.errors import HypercloneError, RequestError, StorageError

_LOG_IN = "log in with `hf auth login`, or pass --token"
_AGAIN = "Run the same command again: what was transferred is kept."
_NAMES = "A model on the Hub is named org/name, a directory by its path."


@contextmanager
def hub_errors(repo_id: str, known: bool = True) -> Iterator[None]:
    """Turn what huggingface_hub raises inside the block into a StorageError, or a RequestError for a bad name.

    What is not `known` to be a repository may be a mistyped directory: the message says so where nobody can tell.
    No message holds a request's headers, so none holds a token.
    """
    from huggingface_hub import errors

    # huggingface_hub raises some errors of its HTTP library as they are, and which library that is has changed
    transport: type[Exception] = errors.HTTPError
    try:
        yield
    except errors.HFValidationError as error:
        raise RequestError(f"{repo_id}: {error}", "Name the model as on the Hub: org/name.") from error
    except (transport, errors.XetDownloadError, OSError, RuntimeError, ValueError) as error:
        raise _explain(repo_id, _cause(error), known) from error


def offline_error(repo_id: str) -> StorageError:
    """What to raise where the environment says that there is no Hub, and it is needed."""
    return StorageError(f"{repo_id}: this needs the Hub, and HF_HUB_OFFLINE is set.", "Unset it.")


def _cause(error: BaseException) -> BaseException:
    """The error that the library wraps in one that says less."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    cause = error.__cause__
    if (
        isinstance(error, LocalEntryNotFoundError | RuntimeError)
        and cause
        and not isinstance(cause, OfflineModeIsEnabled)
    ):
        return _cause(cause)
    return error


def _explain(repo_id: str, error: BaseException, known: bool) -> HypercloneError:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return offline_error(repo_id)
    if isinstance(error, errors.LocalEntryNotFoundError):
        return StorageError(
            f"{repo_id}: no such directory, and not whole in the Hub's cache, which is all there is offline.",
            "Unset HF_HUB_OFFLINE, choose another --cache-dir, or name a directory.",
        )
    if isinstance(error, errors.GatedRepoError):
        place = f"{constants.ENDPOINT}/{repo_id}"
        return StorageError(f"{repo_id}: a gated model.", f"Ask for access at {place}, then {_LOG_IN}.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return StorageError(
            f"{repo_id}: not found on the Hub, or private.",
            f"Check the name (there is no such directory here either); for a private model {_LOG_IN}.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return StorageError(f"{repo_id}: no such revision.", "Name a branch, a tag or a commit with --revision.")
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(repo_id, error)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, errors.HTTPError | ConnectionError):
        absent = "" if known else "no such directory here, and "
        network = f"Check the network, the proxy and HF_ENDPOINT. {_AGAIN}"
        return StorageError(
            f"{repo_id}: {absent}the Hub cannot be reached: {lines[0].rstrip('.')}.",
            network if known else f"{_NAMES} {network}",
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename:
        return StorageError(f"{error.filename}: {error.strerror}.", _AGAIN)
    return StorageError(f"{repo_id}: {lines[0].rstrip('.')}.", _AGAIN)


def _explain_status(repo_id: str, error: BaseException) -> HypercloneError:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    assert isinstance(error, HfHubHTTPError)
    status = error.response.status_code
    said = f" ({error.server_message.splitlines()[0].rstrip('.')})" if error.server_message else ""
    if status == 401:
        return StorageError(f"{repo_id}: the Hub does not accept the token{said}.", f"To use another one, {_LOG_IN}.")
    if status == 403:
        return StorageError(f"{repo_id}: the token does not allow this{said}.", f"To use another one, {_LOG_IN}.")
    if status == 429:
        seconds = error.response.headers.get("Retry-After", "")
        wait = f"in {seconds} seconds" if seconds.isdecimal() else "in a few minutes"
        return StorageError(f"{repo_id}: too many requests, says the Hub.", f"Run the same command again {wait}.")
    return StorageError(f"{repo_id}: {constants.ENDPOINT} answered HTTP {status}{said}.", _AGAIN)
