"""A distributed checkpoint (DCP, torch.distributed.checkpoint): which tensors and objects of a training run it holds.

FSDP with sharded state dicts and torchtitan write these: a file `.metadata`, and parts of tensors in `.distcp` files.
`.metadata` is a pickle that says of which parts each tensor is made, and by which keys of nested state dicts it was
reached. Nothing in a pickle is run.
"""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from hyperclone_cli.checkpoint.boundary import read_file, regular_file
from hyperclone_cli.checkpoint.distributed_parts import joined, part_of
from hyperclone_cli.checkpoint.leftovers import prefix_of
from hyperclone_cli.checkpoint.restricted_pickle import METADATA, unpickle
from hyperclone_cli.checkpoint.safetensors_file import DTYPES, StoredTensor
from hyperclone_cli.checkpoint.trial import too_much
from hyperclone_cli.errors import CheckpointError, first_of

METADATA_NAME = ".metadata"
_MOST_OBJECT_BYTES = 1 << 24
"""Of an object that is no tensor, such as the parameter groups of an optimizer."""
_OTHERS = ("optim", "lr_scheduler", "scheduler", "train_state", "dataloader", "rng", "loss_scaler")
"""How the keys of what is no part of a model begin, where a whole training state was saved."""

Keys = tuple[str | int, ...]
"""The keys that lead through nested state dicts, and the places in lists, to a tensor or an object."""
Found = TypeVar("Found")


@dataclass(frozen=True)
class Layout:
    """How the state dicts of a training run are put together in a distributed checkpoint.

    model      the keys that lead to the names of the model's tensors; None if it holds no model
    optimizer  the same of the state dict of the optimizer
    prefix     what wrappers put in front of all names of the model; None if they put more, inside of names
    by_name    whether the settings of a group are stored once for each of its parameters, as torchtitan does
    """

    model: Keys | None
    optimizer: Keys | None
    prefix: str | None
    by_name: bool


@dataclass(frozen=True)
class Beside:
    """What a distributed checkpoint holds beside model and optimizer: schedule, step, place in the data.

    tensors   numbers and vectors
    objects   where the bytes of each other object lie, as torch.save has written them
    left_out  first keys of what does not resume a clone: it has matrices, which would have to grow, or its pickle
              names more than plain containers and numbers
    """

    tensors: Mapping[Keys, StoredTensor]
    objects: Mapping[Keys, StoredTensor]
    left_out: tuple[str, ...]


def joined_keys(keys: Keys) -> str:
    """The name of what lies at these keys, in `.metadata` and inside a state dict."""
    return ".".join(map(str, keys))


def metadata_of(path: Path) -> Path | None:
    """The directory that holds the model of a training checkpoint: `path` or one in it; None if there is none."""
    places = [path, *(entry for entry in sorted(path.iterdir()) if entry.is_dir())]
    found = [place for place in places if (place / METADATA_NAME).exists() and not place.name.startswith("optim")]
    if len(found) > 1 and found[0] != path:
        raise CheckpointError(
            f"{path}: several distributed checkpoints: {first_of([place.name for place in found])}.",
            "Leave only that of the model there.",
        )
    return found[0] if found else None


def optimizer_parts_of(path: Path) -> Path | None:
    """The directory in a training checkpoint that holds an optimizer; None if there is none.

    FSDP writes one of its own, torchtitan the model and the optimizer in one.
    """
    own = (entry for entry in sorted(path.glob("optimizer_*")) if (entry / METADATA_NAME).exists())
    found = next(own, None) or metadata_of(path)
    return found if found and layout_of(found, path).optimizer is not None else None


def read_distributed(directory: Path, source: Path) -> dict[str, StoredTensor]:
    """Name → place of the model's tensors in a distributed checkpoint that lies in the directory `source`.

    Reads no weights. Raises CheckpointError for one that is damaged, or names anything but tensors.
    """
    tensors = _tried(directory, source, lambda contents: contents.tensors(contents.model))
    if not tensors:
        raise CheckpointError(
            f"{directory / METADATA_NAME}: names no tensors of a model.", "Name the model's checkpoint."
        )
    return tensors


def read_optimizer_parts(directory: Path, source: Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """(name → place of every tensor, name → every other object) of an optimizer in a distributed checkpoint.

    Names begin within the optimizer: "state.NAME.exp_avg", "param_groups.0.lr", "param_groups.NAME.lr". Objects are
    read with torch's own reader of plain containers. Raises CheckpointError as `read_distributed`.
    """

    def read(contents: _Contents) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
        objects = {own: key for key, own in contents.optimizer.items() if key not in contents.sizes}
        return contents.tensors(contents.optimizer), {own: contents.object(key) for own, key in objects.items()}

    return _tried(directory, source, read)


def layout_of(directory: Path, source: Path) -> Layout:
    """How a distributed checkpoint is put together. Reads no tensors. Raises CheckpointError as `read_distributed`."""
    return _tried(directory, source, lambda contents: contents.layout())


def keys_beside(directory: Path, source: Path) -> list[str]:
    """The first keys of all that is no part of the model. Raises CheckpointError as `read_distributed`."""
    return _tried(
        directory,
        source,
        lambda contents: sorted({str(keys[0]) for name, keys in contents.keys.items() if name not in contents.model}),
    )


def read_beside(directory: Path, source: Path) -> Beside:
    """What else resumes a run. Raises CheckpointError as `read_distributed`."""
    return _tried(directory, source, lambda contents: contents.beside())


def places_in(directory: Path) -> dict[str, StoredTensor]:
    """Joined keys → place of every tensor in a distributed checkpoint. Raises CheckpointError as `read_distributed`."""
    return _tried(directory, directory, lambda contents: contents.tensors({name: name for name in contents.sizes}))


def _tried(directory: Path, source: Path, work: Callable[[_Contents], Found]) -> Found:
    """What `work` makes of `.metadata`, within limits. Raises CheckpointError for a damaged one."""
    content = read_file(directory / METADATA_NAME, source)
    try:
        if too_much(lambda: work(_Contents(content, directory, source))):
            raise ValueError("it takes too long to read")
        return work(_Contents(content, directory, source))
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # whatever a pickle of other things, or their fields, lead to
        raise CheckpointError(
            f"{directory / METADATA_NAME}: damaged, or not of a distributed checkpoint of tensors"
            f" ({type(error).__name__}: {error}).",
            "Save it again, or convert it where it was trained: python -m torch.distributed.checkpoint.format_utils"
            f" dcp_to_torch {directory} pytorch_model.bin",
        ) from None


class _Contents:
    """What the pickle in `.metadata` says.

    keys       joined keys → the keys
    sizes      joined keys → shape, of tensors
    model      joined keys → name in the model
    optimizer  joined keys → name within the state dict of the optimizer
    """

    def __init__(self, pickled: bytes, directory: Path, source: Path) -> None:
        metadata = unpickle(pickled, METADATA)
        self._directory, self._source = directory, source
        self._about = metadata.state_dict_metadata
        self._stored = {
            (key.fqn, tuple(getattr(key, "offset", None) or ())): info for key, info in metadata.storage_data.items()
        }
        paths = metadata.planner_data if isinstance(metadata.planner_data, dict) else {}
        self.keys: dict[str, Keys] = {name: tuple(paths.get(name, (name,))) for name in self._about}
        self.sizes = {name: tuple(about.size) for name, about in self._about.items() if hasattr(about, "size")}
        ends = {name: _optimizer_end(keys) for name, keys in self.keys.items()}
        self.optimizer = {name: joined_keys(self.keys[name][end:]) for name, end in ends.items() if end}
        named = {name: self.keys[name] for name in self.sizes if name not in self.optimizer}
        nested = any("model" in keys[:-1] for keys in named.values())
        starts = {name: _model_end(keys) if nested else 0 for name, keys in named.items()}
        self.model = {
            name: joined_keys(keys[starts[name] :])
            for name, keys in named.items()
            if (starts[name] if nested else not str(keys[0]).startswith(_OTHERS))
        }

    def layout(self) -> Layout:
        model = next((self.keys[name][: _model_end(self.keys[name])] for name in self.model), None)
        optimizer = next((self.keys[name][: _optimizer_end(self.keys[name])] for name in self.optimizer), None)
        state = {own.rpartition(".")[0] for own in self.optimizer.values()}
        groups = [own.removeprefix("param_groups.") for own in state if own.startswith("param_groups.")]
        named = [own.removeprefix("state.") for own in state if own.startswith("state.")]
        prefix = prefix_of(self.model.values() or named)
        return Layout(model, optimizer, prefix, by_name=not all(map(str.isdecimal, groups)))

    def beside(self) -> Beside:
        others = {name: keys for name, keys in self.keys.items() if name not in self.model | self.optimizer}
        by_head: dict[str, list[str]] = defaultdict(list)
        for name, keys in others.items():
            by_head[str(keys[0])].append(name)
        left_out = tuple(sorted(head for head, names in by_head.items() if not all(map(self._resumes, names))))
        kept = {name: keys for name, keys in others.items() if str(keys[0]) not in left_out}
        tensors = self.tensors({name: name for name in kept if name in self.sizes})
        objects = {name: self._bytes(name) for name in kept if name not in self.sizes}
        return Beside(
            tensors={kept[name]: tensor for name, tensor in tensors.items()},
            objects={kept[name]: place for name, place in objects.items()},
            left_out=left_out,
        )

    def tensors(self, names: Mapping[str, str]) -> dict[str, StoredTensor]:
        """The tensors among `names`, joined keys → the name that it is given."""
        return {own: self._tensor(name, own) for name, own in names.items() if name in self.sizes}

    def object(self, name: str) -> Any:
        """A small object that torch.save wrote into a part: plain containers and numbers."""
        import torch

        place = self._bytes(name)
        with place.path.open("rb") as file:
            file.seek(place.offset)
            return torch.load(io.BytesIO(file.read(place.nbytes)), map_location="cpu", weights_only=True)

    def _resumes(self, name: str) -> bool:
        """Whether it does not depend on the sizes of the model, and can be read without running anything."""
        if name in self.sizes:
            return len(self.sizes[name]) < 2
        try:
            self.object(name)
        except pickle.UnpicklingError:
            return False
        return True

    def _tensor(self, name: str, own_name: str) -> StoredTensor:
        about = self._about[name]
        dtype = DTYPES[about.properties.state[0]]
        places = [tuple(chunk.offsets) for chunk in about.chunks]
        shapes = [tuple(chunk.sizes) for chunk in about.chunks]
        parts = [
            part_of(self._directory, self._source, self._stored[name, place], (f"{name}{list(place)}", dtype, shape))
            for place, shape in zip(places, shapes, strict=True)
        ]
        return joined(own_name, self.sizes[name], parts, places)

    def _bytes(self, name: str) -> StoredTensor:
        info = self._stored[name, ()]
        path = self._directory / info.relative_path
        if PurePosixPath(info.relative_path).name != info.relative_path or info.length > _MOST_OBJECT_BYTES:
            raise ValueError(f"an object lies in {info.relative_path!r}, elsewhere, or is large")
        regular_file(path, self._source)
        return StoredTensor(name, "U8", (info.length,), path, info.offset)


def _model_end(keys: Keys) -> int:
    """How many keys lead to the names of a model's tensors; 0 if none does."""
    return keys.index("model") + 1 if "model" in keys[:-1] else 0


def _optimizer_end(keys: Keys) -> int:
    """How many keys lead to the state dict of an optimizer; 0 if none does."""
    return next((place for place, key in enumerate(keys[:-1], 1) if str(key).startswith("optim")), 0)
