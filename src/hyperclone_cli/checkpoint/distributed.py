"""A distributed checkpoint (DCP, torch.distributed.checkpoint): `.metadata`, and parts of tensors in `.distcp` files.

FSDP with sharded state dicts and torchtitan write these. `.metadata` is a pickle that says of which parts each tensor
is made; each part is a file of torch.save inside a `.distcp` file, whose numbers lie uncompressed at a known place.
Both pickles are read with stand-ins for the few classes that they name; anything else in them is refused, and nothing
is run. Source: torch's distributed/checkpoint/metadata.py, filesystem.py and _utils.py.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from hyperclone_cli.checkpoint.boundary import read_file, regular_file
from hyperclone_cli.checkpoint.quantised.packed import Packed
from hyperclone_cli.checkpoint.safetensors_file import DTYPES, ITEM_BYTES, StoredTensor
from hyperclone_cli.checkpoint.trial import too_much
from hyperclone_cli.errors import CheckpointError, first_of

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read

METADATA = ".metadata"
_MOST_BYTES = 1 << 16
"""Of the pickle of one tensor, whose numbers lie beside it: torch writes some 400 bytes."""
_MOST_OBJECT_BYTES = 1 << 24
"""Of an object that is no tensor, such as the parameter groups of an optimizer."""
_OTHERS = ("optim", "lr_scheduler", "scheduler", "train_state", "dataloader", "rng", "loss_scaler")
"""How the names of what is no part of a model begin, where a whole training state was saved."""


def metadata_of(path: Path) -> Path | None:
    """The directory that holds the model of a training checkpoint: `path` or one in it; None if there is none."""
    places = [path, *(entry for entry in sorted(path.iterdir()) if entry.is_dir())]
    found = [place for place in places if (place / METADATA).exists() and not place.name.startswith("optim")]
    if len(found) > 1 and found[0] != path:
        raise CheckpointError(
            f"{path}: several distributed checkpoints: {first_of([place.name for place in found])}.",
            "Leave only that of the model there.",
        )
    return found[0] if found else None


def optimizer_parts_of(path: Path) -> Path | None:
    """The directory in a training checkpoint that holds an optimizer as FSDP writes it; None if there is none."""
    return next((entry for entry in sorted(path.glob("optimizer_*")) if (entry / METADATA).exists()), None)


def read_distributed(directory: Path, source: Path) -> dict[str, StoredTensor]:
    """Name → place of the model's tensors in a distributed checkpoint that lies in the directory `source`.

    Reads no weights. Raises CheckpointError for one that is damaged, or names anything but tensors.
    """
    tensors: dict[str, StoredTensor] = _tried(directory, source, lambda content: _tensors(content, directory, source))
    if not tensors:
        raise CheckpointError(f"{directory / METADATA}: names no tensors of a model.", "Name the model's checkpoint.")
    return tensors


def read_optimizer_parts(directory: Path, source: Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """(name → place of every tensor, name → every other object) of an optimizer in a distributed checkpoint.

    Names begin within the optimizer: "state.NAME.exp_avg", "param_groups". Objects are read with torch's own reader of
    plain containers. Raises CheckpointError as `read_distributed`.
    """

    def read(content: bytes) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
        metadata = _unpickle(content, _METADATA)
        paths = metadata.planner_data
        inside = {
            name: ".".join(map(str, path[1:]))
            for name in metadata.state_dict_metadata
            if isinstance(paths, dict) and str((path := paths.get(name, (name,)))[0]).startswith("optim")
        }
        stored = _stored(metadata)
        tensors = {
            own: _tensor(name, own, metadata, stored, directory, source)
            for name, own in inside.items()
            if hasattr(metadata.state_dict_metadata[name], "size")
        }
        objects = {
            own: _object(directory, source, stored[name, ()]) for name, own in inside.items() if own not in tensors
        }
        return tensors, objects

    found: tuple[dict[str, StoredTensor], dict[str, Any]] = _tried(directory, source, read)
    return found


def _tried(directory: Path, source: Path, work: Callable[[bytes], Any]) -> Any:
    """What `work` makes of `.metadata`, within limits. Raises CheckpointError for a damaged one."""
    content = read_file(directory / METADATA, source)
    try:
        if too_much(lambda: work(content)):
            raise ValueError("it takes too long to read")
        return work(content)
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # whatever a pickle of other things, or their fields, lead to
        raise CheckpointError(
            f"{directory / METADATA}: damaged, or not of a distributed checkpoint of tensors"
            f" ({type(error).__name__}: {error}).",
            "Save it again, or convert it where it was trained: python -m torch.distributed.checkpoint.format_utils"
            f" dcp_to_torch {directory} pytorch_model.bin",
        ) from None


def _object(directory: Path, source: Path, info: Any) -> Any:
    """A small object that torch.save wrote into a part: plain containers and numbers."""
    import torch

    path = directory / info.relative_path
    if PurePosixPath(info.relative_path).name != info.relative_path or info.length > _MOST_OBJECT_BYTES:
        raise ValueError(f"an object lies in {info.relative_path!r}, elsewhere, or is large")
    regular_file(path, source)
    with path.open("rb") as file:
        file.seek(info.offset)
        return torch.load(io.BytesIO(file.read(info.length)), map_location="cpu", weights_only=True)


def _tensors(content: bytes, directory: Path, source: Path) -> dict[str, StoredTensor]:
    """The model's tensors that the pickle `content` and the files that it names make."""
    metadata = _unpickle(content, _METADATA)
    sizes = {name: tuple(one.size) for name, one in metadata.state_dict_metadata.items() if hasattr(one, "size")}
    stored = _stored(metadata)
    return {
        own_name: _tensor(name, own_name, metadata, stored, directory, source)
        for name, own_name in _model_names(sizes, metadata.planner_data).items()
    }


def _stored(metadata: Any) -> dict[tuple[str, tuple[int, ...]], Any]:
    """(name, place in the tensor) → where that part lies."""
    return {(key.fqn, tuple(getattr(key, "offset", None) or ())): info for key, info in metadata.storage_data.items()}


def _tensor(
    name: str, own_name: str, metadata: Any, stored: Mapping[Any, Any], directory: Path, source: Path
) -> StoredTensor:
    """The tensor `name` of the file, as `own_name`."""
    about = metadata.state_dict_metadata[name]
    dtype = DTYPES[about.properties.state[0]]
    places = [tuple(chunk.offsets) for chunk in about.chunks]
    shapes = [tuple(chunk.sizes) for chunk in about.chunks]
    chunks = [
        _chunk(directory, source, stored[name, place], (f"{name}{list(place)}", dtype, shape))
        for place, shape in zip(places, shapes, strict=True)
    ]
    return _joined(own_name, tuple(about.size), chunks, places)


def _model_names(sizes: Mapping[str, tuple[int, ...]], paths: Any) -> dict[str, str]:
    """Name in the file → name in the model, of the model's tensors."""
    named = {name: paths.get(name, (name,)) if isinstance(paths, dict) else (name,) for name in sizes}
    if any("model" in path[:-1] for path in named.values()):
        named = {name: path[path.index("model") + 1 :] for name, path in named.items() if "model" in path[:-1]}
    return {name: ".".join(map(str, path)) for name, path in named.items() if not str(path[0]).startswith(_OTHERS)}


def _joined(
    name: str, size: tuple[int, ...], chunks: list[StoredTensor], places: list[tuple[int, ...]]
) -> StoredTensor:
    """The tensor that chunks make, each at its place. Raises ValueError if they leave a gap."""
    inside = all(
        len(place) == len(chunk.shape) == len(size)
        and all(at >= 0 and at + length <= whole for at, length, whole in zip(place, chunk.shape, size, strict=True))
        for place, chunk in zip(places, chunks, strict=True)
    )
    if not inside or sum(prod(chunk.shape) for chunk in chunks) != prod(size):
        raise ValueError(f"the parts of tensor {name!r} do not make its shape {list(size)}")
    first = chunks[0]
    if len(chunks) == 1:
        return StoredTensor(name, first.dtype, size, first.path, first.offset)
    if len(size) > 3:
        raise ValueError(f"tensor {name!r} has {len(size)} dimensions and is cut into parts")
    chunks_in_order = [chunk for _, chunk in sorted(zip(places, chunks, strict=True), key=lambda pair: pair[0])]
    return StoredTensor(
        name,
        first.dtype,
        size,
        first.path,
        0,
        packed=Chunks(tuple(chunks_in_order), False, tuple(sorted(places)), size),
    )


@dataclass(frozen=True)
class Chunks(Packed):
    """`parts` are boxes cut out of a tensor.

    places  where the first number of each lies in the tensor
    size    of the tensor
    """

    places: tuple[tuple[int, ...], ...]
    size: tuple[int, ...]

    def rows(self, read: Read, start: int, stop: int) -> torch.Tensor:
        """Rows start … stop - 1, numbered across all matrices: (rows, columns) in the tensor's dtype."""
        import torch

        from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES

        _, height, width = _three(self.size)
        found = torch.zeros((stop - start, width), dtype=TORCH_DTYPES[self.parts[0].dtype])
        for part, place in zip(self.parts, self.places, strict=True):
            (matrix, row, column), (count, tall, wide) = _three(place, fill=0), _three(part.shape)
            flat = StoredTensor(part.name, part.dtype, (count * tall, wide), part.path, part.offset)
            for number in range(max(matrix, start // height), min(matrix + count, -(-stop // height))):
                top = number * height + row
                first, last = max(start, top), min(stop, top + tall)
                if first < last:
                    skipped = (number - matrix) * tall - top
                    rows = read(flat, first + skipped, last + skipped)
                    found[first - start : last - start, column : column + wide] = rows
        return found


def _three(sizes: tuple[int, ...], fill: int = 1) -> tuple[int, int, int]:
    """(matrices, rows, columns) of a tensor; a vector is a column."""
    padded = (fill, *sizes, fill) if len(sizes) == 1 else (*(fill,) * (3 - len(sizes)), *sizes)
    return padded[0], padded[1], padded[2]


def _chunk(directory: Path, source: Path, info: Any, expected: tuple[str, str, tuple[int, ...]]) -> StoredTensor:
    """Where the numbers of a part lie: inside a file of torch.save that lies inside a `.distcp` file."""
    name, dtype, shape = expected
    if PurePosixPath(info.relative_path).name != info.relative_path or getattr(info, "transform_descriptors", None):
        raise ValueError(f"{name} lies in {info.relative_path!r}, elsewhere or compressed")
    path = directory / info.relative_path
    regular_file(path, source)
    with path.open("rb") as whole:
        part = io.BufferedReader(_Slice(whole, info.offset, info.length))
        with ZipFile(part) as archive:
            entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
            order = _small(archive, entries["byteorder"]) if "byteorder" in entries else b"little"
            found = _unpickle(_small(archive, entries["data.pkl"]), _TENSOR)
            data = entries[f"data/{found.key}"]
        part.seek(data.header_offset)
        lengths = struct.unpack("<26xHH", part.read(30))  # of the name and the extra field that follow
    strides = [prod(shape[place + 1 :]) for place in range(len(shape))]
    contiguous = all(size == 1 or ours == own for size, ours, own in zip(shape, strides, found.strides, strict=True))
    begin = data.header_offset + 30 + sum(lengths) + found.first * ITEM_BYTES[dtype]
    stored = StoredTensor(name, dtype, shape, path, info.offset + begin)
    if (found.dtype, found.shape) != (dtype, shape) or not contiguous or order != b"little":
        raise ValueError(f"{name} is not stored as a contiguous tensor of {dtype} {list(shape)}")
    if data.compress_type != ZIP_STORED or begin + stored.nbytes > info.length or found.first < 0:
        raise ValueError(f"{name} lies beyond its file")
    return stored


def _small(archive: ZipFile, entry: ZipInfo) -> bytes:
    """What a file beside the numbers holds, which torch does not compress. Raises ValueError for a large one."""
    if entry.compress_type != ZIP_STORED or entry.file_size > _MOST_BYTES:
        raise ValueError(f"{entry.filename} is compressed, or larger than the description of a tensor")
    return archive.read(entry)


class _Slice(io.RawIOBase):
    """Bytes offset … offset + length - 1 of a file, as a file."""

    def __init__(self, whole: BinaryIO, offset: int, length: int) -> None:
        if not 0 <= offset <= offset + length <= whole.seek(0, io.SEEK_END):
            raise BadZipFile("a part lies beyond its file")
        self._whole, self._offset, self._length, self._place = whole, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._length}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        self._whole.seek(self._offset + self._place)
        data = self._whole.read(min(len(buffer), max(0, self._length - self._place)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


class _Record:
    """An object of a class that a pickle names: its fields, or `state` if they are written as a tuple."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state


@dataclass(frozen=True)
class _Tensor:
    """A tensor as torch.save writes it, without its numbers."""

    key: str
    dtype: str
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuilt(storage: Any, first: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _Tensor:
    kind, storage_type, key, *_ = storage
    if kind != "storage":
        raise ValueError(f"expected a storage, found {kind!r}")
    return _Tensor(str(key), _STORAGES[storage_type], first, tuple(shape), tuple(strides))


_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip

_METADATA: dict[tuple[str, str], Any] = {
    **{
        ("torch.distributed.checkpoint.metadata", name): _Record
        for name in (
            "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
            "TensorProperties", "StorageMeta",
        )
    },
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"): lambda number: number,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _Record,
    **{("torch", name): name for name in DTYPES},
    ("torch", "Size"): tuple,
    ("torch.serialization", "_get_layout"): lambda name: name,
    ("collections", "OrderedDict"): dict,
    **{("pathlib", name): lambda *_: None for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")},
    **{("pathlib._local", name): lambda *_: None for name in ("PosixPath", "WindowsPath")},
}  # fmt: skip
"""(module, name) that `.metadata` may name → what stands for it."""

_TENSOR: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("collections", "OrderedDict"): dict,
    **{("torch", name): name for name in _STORAGES},
}
"""The same of the pickle of one tensor."""


class _Unpickler(pickle.Unpickler):
    """Reads a pickle that names nothing but what `known` has a stand-in for."""

    def __init__(self, content: bytes, known: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(io.BytesIO(content))
        self._known = known

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no distributed checkpoint of tensors needs")
        return self._known[module, name]

    def persistent_load(self, what: Any) -> Any:
        return what


def _unpickle(content: bytes, known: Mapping[tuple[str, str], Any]) -> Any:
    return _Unpickler(content, known).load()
