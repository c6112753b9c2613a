"""The pipeline: plan → read → grow → write → publish the directory with one rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from hyperclone_cli.config import check_config
from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.growth import Request
from hyperclone_cli.planner import Plan, make_plan
from hyperclone_cli.provenance import PROVENANCE_NAME, provenance
from hyperclone_cli.shards import StoredTensor, create, lay_out, write_all
from hyperclone_cli.source import COMPANIONS, INDEX_NAME, open_source

if TYPE_CHECKING:
    import torch

_LOCK_NAME = ".hyperclone-partial"
_SPARE_BYTES = 64 << 20
_MODEL_FILES = ("config.json", "README.md", PROVENANCE_NAME, "model*.safetensors", INDEX_NAME)

Progress = Callable[[int, int], None]
"""Called from any thread with the number of bytes just written, and of all bytes to write."""


def expand(src: Path, out: Path, request: Request, overwrite: bool = False, progress: Progress | None = None) -> Plan:
    """Write the clone of `src` under `request` to the new directory `out`, and return its plan.

    Everything is written under `<out>.partial` and renamed at the end, so `out` is either absent (or
    the model that was there before) or complete. The source is only read.

    Raises RequestError, CheckpointError, or StorageError if the disk is too small or fails.
    """
    out = Path(os.path.abspath(out))
    check_places(src, out, overwrite)
    plan = make_plan(open_source(src), request)
    check_space(plan, out)
    if plan.growths["embed"].ratio != plan.growths["kv_heads"].ratio * plan.growths["group"].ratio:
        # Architectures tie hidden_size to the number of heads in different ways, and importing
        # transformers takes a second: a config whose widths all grow alike is as valid as the source's.
        check_config(plan.source.config)
        check_config(plan.config)
    partial = out.with_name(out.name + ".partial")
    with _claim(partial):
        _restore(out)
        try:
            check_places(src, out, overwrite)  # again: another run may have come first
        except RequestError:
            shutil.rmtree(partial)
            raise
        try:
            _write_shards(plan, partial, progress)
            _write_files(plan, partial, out)
        except OSError as error:
            raise StorageError(
                f"{error.filename or partial}: {error.strerror or error}.",
                f"What was written is under {partial}; mend the cause and run the same command again.",
            ) from error
        _publish(partial, out)
    return plan


def check_places(src: Path, out: Path, overwrite: bool) -> None:
    """Refuse an `out` that could harm the source or anything else that is already there."""
    elsewhere = "Choose another directory."
    if not out.name or out.is_symlink():
        raise RequestError(f"--out {out}: a clone needs a directory of its own, not a link or a root.", elsewhere)
    source, target = src.resolve(), out.resolve()
    if target == source or source in target.parents or target in source.parents:
        raise RequestError(f"--out {out}: is, lies inside or holds --src {src}.", "Choose a directory beside it.")
    holder = next(parent for parent in out.parents if parent.exists())
    if not holder.is_dir():
        raise RequestError(f"--out {out}: {holder} is a file.", elsewhere)
    if not out.exists():
        return
    if not overwrite:
        raise RequestError(f"--out {out}: already exists.", "Choose another directory, or add --overwrite.")
    if not out.is_dir() or not any(out.glob("model*.safetensors")) or not (out / "config.json").is_file():
        raise RequestError(f"--out {out}: exists and holds no model, so --overwrite will not replace it.", elsewhere)
    known = [pattern.partition("/")[0] for pattern in (*_MODEL_FILES, *COMPANIONS)]
    strangers = sorted(path.name for path in out.iterdir() if not any(fnmatch(path.name, name) for name in known))
    if strangers:
        raise RequestError(
            f"--out {out}: holds {strangers[0]!r}, which is no part of a model, so --overwrite will not replace it.",
            elsewhere,
        )


def check_space(plan: Plan, out: Path) -> None:
    """Raise StorageError if the filesystem of `out` has too little room for the clone."""
    existing = next(parent for parent in out.parents if parent.exists())
    free = shutil.disk_usage(existing).free
    companions = sum((plan.source.path / name).stat().st_size for name in plan.source.companions())
    needed = plan.nbytes + companions + _SPARE_BYTES
    if needed > free:
        raise StorageError(
            f"{existing}: the clone needs {needed:,} bytes, {free:,} are free.",
            "Choose another disk for --out, smaller multipliers, or a narrower --dtype.",
        )


@contextmanager
def _claim(partial: Path) -> Iterator[None]:
    """Hold `partial` as ours alone, cleared of what a killed run left."""
    from filelock import FileLock, Timeout

    lock = partial / _LOCK_NAME
    if partial.is_symlink() or (partial.exists() and not partial.is_dir()):
        raise RequestError(f"{partial}: exists and is not ours.", "Move it away, or choose another --out.")
    if partial.exists() and not lock.exists() and any(partial.iterdir()):
        raise RequestError(f"{partial}: exists and is not ours.", "Move it away, or choose another --out.")
    partial.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(lock, timeout=0).acquire()
    except Timeout:
        raise StorageError(f"{partial}: another run is writing it.", "Wait for it, or choose another --out.") from None
    with held:
        for leftover in partial.iterdir():
            if leftover != lock:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield


def _write_shards(plan: Plan, partial: Path, progress: Progress | None) -> None:
    from hyperclone_cli.expander import Block, as_bytes, blocks, grow_block, read_rows, signal_power, workers

    by_name = {tensor.name: tensor for tensor in plan.tensors}
    with ExitStack() as stack, workers() as pool:
        sources = {path: os.open(path, os.O_RDONLY) for path in sorted({t.source.path for t in plan.tensors})}
        for descriptor in sources.values():
            stack.callback(os.close, descriptor)

        def read(block: Block) -> torch.Tensor:
            return read_rows(sources[block.tensor.source.path], block.tensor.source, block.start, block.stop)

        def write(block: Block, target: StoredTensor, descriptor: int, power: float) -> None:
            for place, data in grow_block(block, read, power):
                write_all(descriptor, as_bytes(data), target.offset + place * block.row_bytes)
                if progress:
                    progress(data.nbytes, plan.nbytes)

        for shard, names in plan.shards.items():
            head, targets = lay_out(
                partial / shard, [(name, by_name[name].dtype, by_name[name].shape) for name in names]
            )
            descriptor = create(partial / shard, head, len(head) + sum(target.nbytes for target in targets))
            try:
                jobs = []
                for target in targets:
                    tensor = by_name[target.name]
                    power = signal_power(tensor, read, pool)
                    jobs += [pool.submit(write, block, target, descriptor, power) for block in blocks(tensor)]
                _finish(jobs)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _finish(jobs: list[Future[None]]) -> None:
    """Wait for all jobs; after the first failure or Ctrl-C, start no more, and raise it."""
    try:
        for job in wait(jobs, return_when=FIRST_EXCEPTION).done:
            job.result()
    finally:
        for job in jobs:
            job.cancel()
        wait(jobs)


def _write_files(plan: Plan, partial: Path, out: Path) -> None:
    if len(plan.shards) > 1:
        weight_map = {name: shard for shard, names in plan.shards.items() for name in names}
        _write_json(partial / INDEX_NAME, {"metadata": {"total_size": plan.nbytes}, "weight_map": weight_map})
    plan.source.copy_companions(partial)
    _write_json(partial / PROVENANCE_NAME, provenance(plan, out))
    _write_json(partial / "config.json", dict(plan.config))
    for path in partial.rglob("*"):
        _sync(path)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(partial: Path, out: Path) -> None:
    """Turn `<out>.partial` into `out`; a model that was there stays until the new one is in its place."""
    (partial / _LOCK_NAME).unlink()
    _sync(partial)
    previous = _previous(out)
    if out.exists():
        out.rename(previous)
    partial.rename(out)
    _sync(out.parent)
    if previous.exists():
        shutil.rmtree(previous)


def _restore(out: Path) -> None:
    """Finish or undo the two renames of an overwrite that was killed between or after them."""
    previous = _previous(out)
    if previous.exists() and not out.exists():
        previous.rename(out)
    elif previous.exists():
        shutil.rmtree(previous)


def _previous(out: Path) -> Path:
    return out.with_name(f".{out.name}.replaced-by-hyperclone")
