"""Pickles of a distributed checkpoint (DCP), read with stand-ins for the few classes that they name; nothing is run.

Source: torch's distributed/checkpoint/metadata.py, filesystem.py and _utils.py.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperclone_cli.checkpoint.safetensors_file import DTYPES


class Record:
    """An object of a class that a pickle names: its fields, or `state` if they are written as a tuple."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state


@dataclass(frozen=True)
class SavedTensor:
    """A tensor as torch.save writes it, without its numbers."""

    key: str
    dtype: str
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuilt(storage: Any, first: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> SavedTensor:
    kind, storage_type, key, *_ = storage
    if kind != "storage":
        raise ValueError(f"expected a storage, found {kind!r}")
    return SavedTensor(str(key), _STORAGES[storage_type], first, tuple(shape), tuple(strides))


_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip

METADATA: dict[tuple[str, str], Any] = {
    **{
        ("torch.distributed.checkpoint.metadata", name): Record
        for name in (
            "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
            "TensorProperties", "StorageMeta",
        )
    },
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"): lambda number: number,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): Record,
    **{("torch", name): name for name in DTYPES},
    ("torch", "Size"): tuple,
    ("torch.serialization", "_get_layout"): lambda name: name,
    ("collections", "OrderedDict"): dict,
    **{("pathlib", name): lambda *_: None for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")},
    **{("pathlib._local", name): lambda *_: None for name in ("PosixPath", "WindowsPath")},
}  # fmt: skip
"""(module, name) that `.metadata` may name → what stands for it."""

TENSOR: dict[tuple[str, str], Any] = {
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


def unpickle(content: bytes, known: Mapping[tuple[str, str], Any]) -> Any:
    """What a pickle holds that names nothing but what is `known`. Raises whatever a damaged or hostile one leads to."""
    return _Unpickler(content, known).load()
