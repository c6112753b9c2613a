"""Open a checkpoint by the name that the user gave: a local path, or a model on the Hub, downloaded into its cache.

Only the config, the side files and one set of weights are downloaded. huggingface_hub does that, so that its cache,
environment variables and login are the usual ones.
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
from hyperclone_cli.checkpoint.leftovers import adapter_alone
from hyperclone_cli.checkpoint.object_store import StoreUrl, is_url
from hyperclone_cli.checkpoint.open_source import open_source, read_index
from hyperclone_cli.checkpoint.source import (
    BIN_INDEX_NAME,
    BIN_NAME,
    INDEX_NAME,
    SIDE_FILES,
    SINGLE_NAME,
    Origin,
    Place,
    Source,
    matches_any,
)
from hyperclone_cli.errors import CheckpointError, RequestError, StorageError
from hyperclone_cli.hub.errors import hub_errors
from hyperclone_cli.progress import Progress

ConfigCheck = Callable[[Mapping[str, Any]], object]
"""Called with the config before any weights are downloaded, so that what it raises ends the run early."""

CONFIGS = ("config.json", "adapter_config.json")
INDEXES = {INDEX_NAME: SINGLE_NAME, BIN_INDEX_NAME: BIN_NAME}
"""Index of the shards → the single file that is read instead if it exists. In order of preference."""

_SRC_HINT = "Name the directory of a checkpoint or a GGUF file; a model on the Hub is named org/name."


@dataclass(frozen=True)
class Access:
    """How models on the Hub are accessed.

    revision   branch, tag or commit; None: main
    token      None: that of the usual login
    cache_dir  None: the usual cache

    Raises RequestError for a token that cannot be sent in an HTTP header.
    """

    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch("[!-~]+", self.token):
            raise RequestError(
                "--token, or the usual login: expected a token of printable ASCII characters, found something else.",
                "Log in with `hf auth login`, or pass the token as huggingface.co/settings/tokens shows it.",
            )


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit: `files` are all that it holds, `path` the cache directory of those downloaded."""

    origin: Origin
    access: Access
    path: Path
    files: tuple[str, ...]

    def fetch(self, names: list[str]) -> None:
        """Download those of these files that are not in the cache. Raises StorageError."""
        missing = [name for name in names if not (self.path / name).exists()]
        if missing:
            _download(self.origin, self.access, missing)
        for name in missing:
            _check_content(self.origin, self.path / name)

    def weights(self) -> list[str]:
        """The files of weights that transformers would load. The index, if there is one, must have been fetched.

        Raises CheckpointError if there are none, or the index is damaged.
        """
        for index, single in INDEXES.items():
            if single in self.files:
                return [single]
            if index in self.files:
                return sorted(set(read_index(self.path / index).values()) & set(self.files))
        if "adapter_config.json" in self.files:
            raise adapter_alone(self.path)
        found = [name for name in self.files if is_gguf(Path(name)) or name.endswith((".safetensors", ".bin"))]
        raise CheckpointError(
            f"{self.origin.repo_id}: neither {SINGLE_NAME} nor {BIN_NAME} was found, nor an index of shards of either.",
            f"It holds {', '.join(found[:3])}." if found else "It holds no weights.",
        )


def locate(src: str | Path, access: Access) -> Place:
    """The local path of `src` if it is a Path or exists on this disk, a URL, or the model on the Hub of that name.

    Raises RequestError for a name that can be none of these, and for a revision of what has none.
    """
    if src == "":
        raise RequestError("--src: expected a name, found nothing.", _SRC_HINT)
    url = StoreUrl(str(src)) if is_url(src) else None
    if url or isinstance(src, Path) or os.path.exists(src):
        if access.revision is not None:
            raise RequestError(
                f"--revision {access.revision}: {src} is no model on the Hub, and has no revisions.",
                "Leave it out, or name a model on the Hub.",
            )
        return url or Path(src)
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(src)
    except HFValidationError:
        raise RequestError(f"{src}: no such directory or file.", _SRC_HINT) from None
    return Origin(src, access.revision or "main")


def origin_of(source: Source) -> Origin | None:
    """The model on the Hub that a source was downloaded from: by us, or, by its path, into the Hub's cache."""
    place = re.search(r"/models--([^/]+)/snapshots/([0-9a-f]{40})(/|$)", Path(os.path.abspath(source.path)).as_posix())
    return source.origin or (Origin(place[1].replace("--", "/"), place[2]) if place else None)


def cache_of(access: Access) -> Path:
    """The directory into which models are downloaded."""
    from huggingface_hub import constants

    return access.cache_dir or Path(constants.HF_HUB_CACHE)


def open_checkpoint(
    place: Place,
    access: Access,
    progress: Progress,
    dtype: str | None = None,
    config_check: ConfigCheck | None = None,
) -> Source:
    """Open the checkpoint at `place`. From the Hub, whatever is not in the cache is downloaded, weights included.

    Raises RequestError, CheckpointError if it is unsupported or damaged, StorageError if it cannot be downloaded.
    """
    if isinstance(place, Path):
        progress.step(f"{'Reading and dequantising' if is_gguf(place) else 'Reading'} {place}")
        return open_source(place, dtype)
    if isinstance(place, StoreUrl):
        from hyperclone_cli.checkpoint.stored_source import open_stored

        progress.step(f"Reading {place}")
        return open_stored(place, dtype)
    progress.fetch(place.repo_id)
    snapshot = open_snapshot(place, access)
    config, weights = read_config(snapshot.path), snapshot.weights()
    if config_check:
        config_check(config)
    side_files = [name for name in snapshot.files if matches_any(name, (*SIDE_FILES, "README.md"))]
    snapshot.fetch(side_files + weights)
    return replace(open_source(snapshot.path, dtype), origin=snapshot.origin)


def open_snapshot(place: Origin, access: Access) -> Snapshot:
    """Resolve a revision to its commit, and download the config and the index of the shards.

    Raises CheckpointError for a repository without a config, StorageError if it cannot be downloaded.
    """
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    path = _download(place, access, list(CONFIGS), may_be_path=True)
    origin = Origin(place.repo_id, path.name)
    try:
        tree = get_cached_repo_tree(origin.repo_id, revision=origin.revision, cache_dir=access.cache_dir)
        files = tuple(file.path for file in tree)
    except CachedRepoTreeNotFoundError:  # offline, and downloaded by an older huggingface_hub
        files = tuple(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    if not set(CONFIGS) & set(files):
        raise CheckpointError(f"{origin.repo_id}: no config.json.", "Name a model that transformers can load.")
    snapshot = Snapshot(origin, access, path, files)
    indexes = [index for index, single in INDEXES.items() if single not in files and index in files]
    snapshot.fetch(indexes[:1])
    return snapshot


def _download(place: Origin, access: Access, names: list[str], may_be_path: bool = False) -> Path:
    """Download those of these files that the repository has; returns their directory, whose name is the commit."""
    from huggingface_hub import snapshot_download

    with hub_session(place.repo_id, access.token, may_be_path):
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
    """Raise StorageError, and delete it, if a file does not have the SHA-256 that the Hub announced.

    The cache names a large file by its ETag, which on the Hub is its SHA-256; huggingface_hub only checks the size.
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
            "Run the same command again: it downloads the file anew.",
        )


@contextmanager
def hub_session(repo_id: str, token: str | None, may_be_path: bool = False) -> Iterator[None]:
    """A block of calls to the Hub: errors are turned into ours by `hub_errors`.

    Without a terminal, huggingface_hub's progress bars and warnings are switched off meanwhile.
    """
    from huggingface_hub import get_token
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    Access(token=token or get_token())  # refuses what cannot be sent; the library's own message would show the token
    quiet = not sys.stderr.isatty()
    had_bars, verbosity = not are_progress_bars_disabled(), logging.get_verbosity()
    if quiet:
        disable_progress_bars()
        logging.set_verbosity(logging.ERROR)
    try:
        with hub_errors(repo_id, may_be_path):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if quiet and had_bars:
            enable_progress_bars()
