"""Whatever the bytes of a source are: a plan or one clear refusal, soon, in little memory, and nothing beside `--out`.

`make test` tries a few hundred damaged checkpoints, always the same; `make stress` thousands.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from hyperclone_cli import expand, plan
from hyperclone_cli.errors import HypercloneError
from support import models

SECONDS = 5
MEMORY_BYTES = 1 << 30
REFUSED = {2, 3, 5}
"""Exit codes of a request that cannot be met, of a bad checkpoint, and of a full disk."""

INDEX, BIN = "model.safetensors.index.json", "pytorch_model.bin"
FEW = ("llama-gqa-tied", "gemma3-gqa", "opt-350m", "gpt2", "granitemoe", "deepseek_v3", "mamba2")
MORE = (*FEW, "pythia", "olmo2", "qwen3", "phi3-longrope", "falcon-40b", "gptj", "dbrx", "qwen2_moe", "lfm2", "cohere")
REQUESTS: list[dict[str, Any]] = [
    {"embed_mult": 2, "ffn_mult": 2},
    {"embed_mult": 1.5, "ffn_mult": 1.25},
    {"embed_mult": 3, "dtype": "float16"},
    {"embed_mult": 2, "head_dim_mult": 2, "max_shard_size": "100KB"},
    {"ffn_mult": 2, "noise_snr_db": 10.0, "tie_embeddings": "untie"},
    {"target_params": 400_000},
]


class TooSlowError(BaseException):
    """What no part of the program catches by mistake."""


@contextmanager
def bounded() -> Iterator[None]:
    """A block that may take SECONDS of the processor, and MEMORY_BYTES more than there are.

    A busy machine is no reason to fail; to wait for what never comes is, in the end.
    """

    def stop(*_: object) -> None:
        raise TooSlowError

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    clocks = {signal.ITIMER_PROF: (signal.SIGPROF, SECONDS), signal.ITIMER_REAL: (signal.SIGALRM, 20 * SECONDS)}
    handlers = {number: signal.signal(number, stop) for number, _ in clocks.values()}
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_BYTES, limits[1]))
    for clock, (_, seconds) in clocks.items():
        signal.setitimer(clock, seconds)
    try:
        yield
    finally:
        for clock in clocks:
            signal.setitimer(clock, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def attempt(work: Path, request: dict[str, Any]) -> None:
    """Plan and expand the source at `work`/src: success or a documented refusal, and nothing else anywhere."""
    before = files(work)
    refusal = None
    try:
        with bounded():
            plan(work / "src", **request)
            expand(work / "src", work / "out", **request)
    except HypercloneError as error:
        refusal = error
    written = {path.name for path in work.iterdir()} - {"src"}
    for place in written & {"out", "out.partial"}:
        shutil.rmtree(work / place)
    assert files(work) == before
    assert (refusal is None and written == {"out"}) or written <= {"out.partial"}
    assert refusal is None or refusal.exit_code in REFUSED
    assert refusal is None or "\n" not in refusal.message


def attempt_with(work: Path, path: Path, spoilt: bytes, request: dict[str, Any]) -> None:
    """The same while the file at `path` has other contents."""
    contents = path.read_bytes()
    try:
        path.write_bytes(spoilt)
        attempt(work, request)
    finally:
        path.write_bytes(contents)


WORDS = [
    "",
    "auto",
    "F64",
    "F8_E4M3",
    "I64",
    "BOOL",
    "..",
    "/etc/passwd",
    "../src/config.json",
    "a\0b",
    "\ud800",
    "é" * 300,
]
NUMBERS = [-1, 0, 1, 2, 3, 5, 2**31, 2**63, 10**18, 10**30, -(2**63)]
values: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.integers(0, 200),
    st.floats(),
    st.sampled_from(WORDS),
    st.sampled_from([[], {}, [0], [1, 1], [[]], {"a": {}}, ["full_attention"], {"rope_type": "yarn"}, {"type": 3}]),
)
edits = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 7), values), min_size=1, max_size=3)
byte_edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=9)), min_size=1, max_size=4)


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value inside a JSON value."""
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    return [place for key in keys for place in ((value, key), *places(value[key]))]


def edit_json(value: Any, changes: list[tuple[int, int, Any]]) -> Any:
    """A copy of a JSON value with things in it replaced, removed, moved, added, or a little more or less."""
    value = deepcopy(value)
    for number, action, new in changes:
        found = places(value)
        if not found:
            return new
        holder, key = found[number % len(found)]
        other, other_key = found[(number * 31 + 7) % len(found)]
        old = holder[key]
        if action == 0:
            del holder[key]
        elif action == 1:
            holder[key] = deepcopy(other[other_key])
        elif action == 2 and isinstance(old, (int, float)):
            holder[key] = old + random.Random(number).choice([-8, -1, 1, 8])
        elif action == 3 and isinstance(old, (int, float)):
            holder[key] = old * random.Random(number).choice([-1, 2, 0.5])
        elif action == 4 and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        elif action == 5 and isinstance(holder, dict):
            holder[f"{key}{number}"] = deepcopy(old)
        else:
            holder[key] = new
    return value


def edit_bytes(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Bytes replaced, inserted, removed, or cut off."""
    for place, action, new in changes:
        start = int(place * len(content))
        if action == 3:
            content = content[:start]
        else:
            content = (
                content[:start] + (new if action < 2 else b"") + content[start + (len(new) if action != 1 else 0) :]
            )
    return content


def trials(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Settings for so many examples, the same in every run."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,  # a block that is `bounded` has one of its own
        suppress_health_check=list(HealthCheck),
    )


def few_or_many(few: int, many: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.stress)])


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """`built(variant, shard size)`: a directory that holds a random checkpoint as `src`."""
    found: dict[tuple[str, str], Path] = {}

    def get(variant: str, max_shard_size: str = "50GB") -> Path:
        key = variant, max_shard_size
        if key not in found:
            found[key] = tmp_path_factory.mktemp(f"fuzz-{variant}")
            models.build(variant, found[key] / "src", max_shard_size=max_shard_size)
        return found[key]

    return get


Built = Callable[..., Path]
requests = st.sampled_from(REQUESTS)


@few_or_many(60, 1200)
def test_a_damaged_config_is_expanded_or_refused(examples: int, built: Built) -> None:
    @trials(examples)
    @given(st.sampled_from(FEW if examples < 1000 else MORE), edits, requests)
    def check(variant: str, changes: list[tuple[int, int, Any]], request: dict[str, Any]) -> None:
        work = built(variant)
        path = work / "src" / "config.json"
        spoilt = json.dumps(edit_json(json.loads(path.read_bytes()), changes)).encode()
        attempt_with(work, path, spoilt, request)

    check()


@few_or_many(40, 600)
def test_a_damaged_safetensors_header_is_expanded_or_refused(examples: int, built: Built) -> None:
    @trials(examples)
    @given(edits, st.integers(-9, 9), requests)
    def check(changes: list[tuple[int, int, Any]], longer: int, request: dict[str, Any]) -> None:
        work = built("qwen3")
        path = work / "src" / "model.safetensors"
        old = path.read_bytes()
        length = int.from_bytes(old[:8], "little")
        header = json.dumps(edit_json(json.loads(old[8 : 8 + length]), changes)).encode()
        stated = max(0, len(header) + (longer if abs(longer) > 7 else 0))
        attempt_with(work, path, stated.to_bytes(8, "little") + header + old[8 + length :], request)

    check()


@few_or_many(40, 600)
def test_a_damaged_index_is_expanded_or_refused(examples: int, built: Built) -> None:
    @trials(examples)
    @given(edits, requests)
    def check(changes: list[tuple[int, int, Any]], request: dict[str, Any]) -> None:
        work = built("llama-gqa-tied", "60KB")
        path = work / "src" / INDEX
        spoilt = json.dumps(edit_json(json.loads(path.read_bytes()), changes)).encode()
        attempt_with(work, path, spoilt, request)

    check()


@pytest.mark.parametrize("name", ["config.json", INDEX, "model-00001-of-*.safetensors"])
@few_or_many(25, 400)
def test_damaged_bytes_of_any_file_are_expanded_or_refused(examples: int, name: str, built: Built) -> None:
    @trials(examples)
    @given(byte_edits, requests)
    def check(changes: list[tuple[float, int, bytes]], request: dict[str, Any]) -> None:
        work = built("llama-gqa-tied", "60KB")
        (path,) = (work / "src").glob(name)
        attempt_with(work, path, edit_bytes(path.read_bytes(), changes), request)

    check()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@few_or_many(25, 200)
def test_a_damaged_bin_file_is_expanded_or_refused(examples: int, legacy: bool, built: Built, tmp_path: Path) -> None:
    shutil.copytree(built("llama-mqa") / "src", tmp_path / "src")
    path = tmp_path / "src" / BIN
    tensors = load_file(tmp_path / "src" / "model.safetensors")
    (tmp_path / "src" / "model.safetensors").unlink()
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()

    @trials(examples)
    @given(byte_edits, requests)
    def check(changes: list[tuple[float, int, bytes]], request: dict[str, Any]) -> None:
        path.write_bytes(edit_bytes(whole, changes))
        attempt(tmp_path, request)

    check()


FOUND: dict[str, tuple[str, dict[str, Any], str]] = {
    "as many heads as stars": ("qwen2_moe", {"num_attention_heads": 10**18}, "more than any model has"),
    "a large product of sizes": ("mistral", {"num_attention_heads": 2**20, "head_dim": 2**14}, "makes dimension 0"),
    "more heads than units": ("mistral", {"hidden_size": 1}, "no shape of this|makes dimension 1"),
    "no width": ("qwen2_moe", {"shared_expert_intermediate_size": ""}, "shared_expert_intermediate_size"),
    "no factor": ("lfm2-adjusted-untied", {"block_ffn_dim_multiplier": "x"}, "block_ffn_dim_multiplier should be"),
    "no end of a factor": ("mamba", {"intermediate_size": None, "expand": float("inf")}, "expand should be"),
    "a special number that is none": ("mamba2", {"time_step_limit": [0.0, {"__float__": None}]}, ""),
    "half a surrogate pair": ("nemotron", {"tie_word_embeddings": "\ud800"}, ""),
}
"""Configs that once brought a traceback or never an end; refused with these words, or expanded."""


@pytest.mark.parametrize("variant, changes, words", FOUND.values(), ids=list(FOUND))
@pytest.mark.parametrize("request_", REQUESTS[::5], ids=["plain", "target"])
def test_configs_that_once_crashed_are_expanded_or_refused(
    request_: dict[str, Any], variant: str, changes: dict[str, Any], words: str, built: Built, tmp_path: Path
) -> None:
    shutil.copytree(built(variant) / "src", tmp_path / "src")
    path = tmp_path / "src" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    attempt(tmp_path, request_)
    if words:
        with pytest.raises(HypercloneError, match=words):
            plan(tmp_path / "src", **request_)
