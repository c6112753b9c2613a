"""A checkpoint by the name that the user gave: a directory, or a model on the Hub, fetched into its cache.

Of a repository only what is needed is fetched: config, tokenizer and their like, and one set of weights.
huggingface_hub does the fetching, so its cache, environment variables and login are the usual ones.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hyperclone_cli.checkpoint.gguf import is_gguf
from hyperclone_cli.checkpoint.json_config import read_config
from hyperclone_cli.checkpoint.source import (
    BIN_INDEX_NAME,
    BIN_NAME,
    COMPANIONS,
    INDEX_NAME,
    SINGLE_NAME,
    Origin,
    Source,
    fits,
    open_source,
    read_index,
)
from hyperclone_cli.errors import CheckpointError, RequestError, StorageError
from hyperclone_cli.hub.errors import hub_errors
from hyperclone_cli.progress import Progress

Accept = Callable[[Mapping[str, Any]], object]
"""Called with the config before any weights are fetched: whatever it raises ends the run early."""

CONFIGS = ("config.json", "adapter_config.json")
_NAMES = "Name the directory of a checkpoint or a GGUF file; a model on the Hub is named org/name."
INDEXES = {INDEX_NAME: SINGLE_NAME, BIN_INDEX_NAME: BIN_NAME}
"""Where the shards are listed → the single file that is read instead where it exists."""


@dataclass(frozen=True)
class Access:
    """How the Hub is asked.

    revision   branch, tag or commit; None: main
    token      None: the usual login
    cache_dir  None: the usual cache

    Raises RequestError for a token that no request could carry.
    """

    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch("[!-~]+", self.token):
            raise RequestError(
                "--token, or the usual login: no token, for it is empty or holds blanks or odd letters.",
                "Log in with `hf auth login`, or pass the token as huggingface.co/settings/tokens shows it.",
            )


@dataclass(frozen=True)
class Snapshot:
    """What is known of a repository at one commit: the files that it holds, and where those fetched so far lie."""

    origin: Origin
    access: Access
    path: Path
    files: tuple[str, ...]

    def fetch(self, names: list[str]) -> None:
        """Bring these files to `path`; those that are there already cost no request. Raises StorageError."""
        absent = [name for name in names if not (self.path / name).exists()]
        if absent:
            _download(self.origin, self.access, absent)
        for name in absent:
            _check_content(self.origin, self.path / name)

    def weights(self) -> list[str]:
        """The files that hold the weights, as transformers chooses them. Needs the indexes.

        Raises CheckpointError if there are none, or the index is damaged.
        """
        for index, single in INDEXES.items():
            if single in self.files:
                return [single]
            if index in self.files:
                return sorted(set(read_index(self.path / index).values()) & set(self.files))
        found = [name for name in self.files if is_gguf(Path(name)) or name.endswith((".safetensors", ".bin"))]
        raise CheckpointError(
            f"{self.origin.repo_id}: neither {SINGLE_NAME} nor {BIN_NAME}, whole or as shards with their index.",
            f"It holds {', '.join(found[:3])}." if found else "It holds no weights.",
        )


def locate(src: str | Path, access: Access) -> Path | Origin:
    """Where `src` is: whatever exists here, else the Hub if it could be the name of a model there; a Path is local.

    Raises RequestError for a revision of a local directory, and for what is neither here nor a name.
    """
    if src == "":
        raise RequestError("--src: expected a name, found nothing.", _NAMES)
    here = isinstance(src, Path) or os.path.exists(src)
    if not here and not _could_be_model(str(src)):
        raise RequestError(f"{src}: no such directory or file.", _NAMES)
    if here:
        if access.revision is not None:
            raise RequestError(
                f"--revision {access.revision}: {src} is a place on this disk, which has no revisions.",
                "Leave it out, or name a model on the Hub.",
            )
        return Path(src)
    return Origin(str(src), access.revision or "main")


def _could_be_model(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def origin_of(source: Source) -> Origin | None:
    """Where on the Hub a source came from: fetched by us, or named by its place in the Hub's cache."""
    place = re.search(r"/models--([^/]+)/snapshots/([0-9a-f]{40})(/|$)", Path(os.path.abspath(source.path)).as_posix())
    return source.origin or (Origin(place[1].replace("--", "/"), place[2]) if place else None)


def cache_of(access: Access) -> Path:
    """The directory into which models are fetched."""
    from huggingface_hub import constants

    return access.cache_dir or Path(constants.HF_HUB_CACHE)


def open_checkpoint(
    place: Path | Origin, access: Access, progress: Progress, dtype: str | None = None, accept: Accept | None = None
) -> Source:
    """The checkpoint at `place`; from the Hub, what is not in the cache is fetched, weights and all.

    Raises RequestError, CheckpointError for what cannot be used, and StorageError if it cannot be fetched.
    """
    if isinstance(place, Path):
        progress.step(f"{'Reading and dequantising' if is_gguf(place) else 'Reading'} {place}")
        return open_source(place, dtype)
    progress.fetch(place.repo_id)
    snapshot = open_snapshot(place, access)
    config, weights = read_config(snapshot.path), snapshot.weights()
    if accept:
        accept(config)
    snapshot.fetch([name for name in snapshot.files if _is_companion(name)] + weights)
    return replace(open_source(snapshot.path), origin=snapshot.origin)


def open_snapshot(place: Origin, access: Access) -> Snapshot:
    """A repository at the commit that its revision stands for; the config and the list of shards are fetched."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    path = _download(place, access, list(CONFIGS), known=False)
    origin = Origin(place.repo_id, path.name)
    try:
        tree = get_cached_repo_tree(origin.repo_id, revision=origin.revision, cache_dir=access.cache_dir)
        files = tuple(file.path for file in tree)
    except CachedRepoTreeNotFoundError:  # fetched by an older huggingface_hub, and now offline
        files = tuple(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    if not set(CONFIGS) & set(files):
        raise CheckpointError(f"{origin.repo_id}: no config.json.", "Name a model that transformers can load.")
    snapshot = Snapshot(origin, access, path, files)
    indexes = [index for index, single in INDEXES.items() if single not in files and index in files]
    snapshot.fetch(indexes[:1])
    return snapshot


def _is_companion(name: str) -> bool:
    return fits(name, (*COMPANIONS, "README.md"))


def _download(place: Origin, access: Access, names: list[str], known: bool = True) -> Path:
    """Fetch these files, if the repository has them; returns the snapshot's directory, which its commit names."""
    from huggingface_hub import snapshot_download

    with hub_session(place.repo_id, access.token, known):
        return Path(
            snapshot_download(
                place.repo_id,
                revision=place.revision,
                token=access.token,
                cache_dir=access.cache_dir,
                allow_patterns=[glob.escape(name) for name in names],
            )
        )


def _check_content(origin: Origin, file: Path) -> None:
    """Raise StorageError if a file is not what the Hub announced. The next run fetches it again.

    The cache names a large file by its ETag, which on the Hub is its SHA-256; huggingface_hub checks sizes alone.
    """
    blob = Path(os.readlink(file)).name if file.is_symlink() else ""
    if not re.fullmatch("[0-9a-f]{64}", blob):
        return
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != blob:
        file.resolve().unlink()
        file.unlink()
        raise StorageError(
            f"{origin.repo_id}: {file.name} arrived damaged: expected SHA-256 {blob[:12]}…, found {found[:12]}….",
            "Run the same command again: it is fetched anew.",
        )


@contextmanager
def hub_session(repo_id: str, token: str | None, known: bool = True) -> Iterator[None]:
    """Talk to the Hub: errors become ours, see `hub_errors`.

    Without a terminal the library keeps its bars and advice to itself.
    """
    from huggingface_hub import get_token
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    Access(token=token or get_token())  # refused here, for the library's message would show it
    quiet = not sys.stderr.isatty()
    had_bars, verbosity = not are_progress_bars_disabled(), logging.get_verbosity()
    if quiet:
        disable_progress_bars()
        logging.set_verbosity(logging.ERROR)
    try:
        with hub_errors(repo_id, known):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if quiet and had_bars:
            enable_progress_bars()
