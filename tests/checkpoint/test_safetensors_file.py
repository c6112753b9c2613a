"""The safetensors files: ours are read by the library, and damaged ones are refused before a byte is trusted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hyperclone_cli.checkpoint.safetensors_file import create, lay_out, read_header, write_all
from hyperclone_cli.errors import CheckpointError

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}


def write_raw(path: Path, header: Any, data_bytes: int = 0) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data_bytes))
    return path


def entry(begin: int, end: int, shape: Any = (1,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_the_library_reads_what_we_lay_out(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    head, placed = lay_out(path, [("a", "F32", (2, 3)), ("b", "BF16", (3,))])
    descriptor = create(path, head, len(head) + sum(tensor.nbytes for tensor in placed))
    for tensor in placed:
        data = TENSORS[tensor.name].view(-1).view(torch.uint8).numpy().tobytes()
        write_all(descriptor, memoryview(data), tensor.offset)
    os.close(descriptor)
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors")
    assert {(t.name, t.dtype, t.shape) for t in header.values()} == {("a", "F32", (2, 3)), ("b", "BF16", (3,))}


@pytest.mark.parametrize(
    "header, data_bytes, words",
    [
        ({"a": entry(0, 4)}, 3, "truncated"),
        ({"a": entry(0, 4)}, 5, "expected"),
        ({"a": entry(0, 4), "b": entry(2, 6)}, 6, "'b' starts at"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, 12, "'b' starts at"),
        ({"a": entry(0, 8)}, 8, "should take 4 bytes"),
        ({"a": entry(0, 4, shape=(-1,))}, 4, "shape"),
        ({"a": entry(0, 4, shape=(True,))}, 4, "shape"),
        ({"a": entry(0, 4, shape="1")}, 4, "shape is a str"),
        ({"a": entry(0, 4, shape={})}, 4, "shape is a dict"),
        ({"a": entry(0, 4, shape=[1] * 9)}, 4, "9 dimensions"),
        ({"a": entry(0, 4, shape=[2**62] * 10_000)}, 4, "10000 dimensions"),
        ({"a": entry(0, 4), "b": entry(0, 4)}, 4, "'b' starts at"),
        ({"a": entry(4, 0)}, 4, "should take 4 bytes"),
        ({"a": entry(0, 4, shape=[2**63, 2])}, 4, "should take"),
        ({"a": {"dtype": "F32"}}, 4, "data_offsets"),
        ({"a": 3}, 4, "damaged"),
        ({"a": entry(0, 1, dtype="F6_E3M2")}, 1, "F6_E3M2"),
        (b'{"a": 1, "a": 2}', 0, "occurs twice"),
        (b"[]", 0, "damaged"),
        (b"{", 0, "damaged"),
        (b"\xff", 0, "damaged"),
        (b"[" * 100_000, 0, "damaged"),
    ],
)
def test_a_damaged_header_is_refused(header: Any, data_bytes: int, words: str, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.safetensors", header, data_bytes)
    with pytest.raises(CheckpointError, match=words) as refusal:
        read_header(path)
    assert str(path) in refusal.value.message


@given(st.binary(max_size=64))
def test_no_bytes_bring_anything_but_a_refusal(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        read_header(path)


@pytest.mark.parametrize("length, words", [(2**64 - 1, "more than the 100,000,000"), (1000, "truncated")])
def test_an_absurd_length_is_refused_before_anything_is_read(length: int, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match=words):
        read_header(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="expected a file"):
        read_header(tmp_path / "x.safetensors")
