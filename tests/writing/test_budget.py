"""Memory stays what was asked for, whatever the model's size: by smaller blocks, then by fewer threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperclone_cli import api
from hyperclone_cli.errors import RequestError
from hyperclone_cli.planning.grown_tensor import TensorKind
from hyperclone_cli.writing.blocks import cut_blocks
from hyperclone_cli.writing.budget import LARGEST_BLOCK_BYTES, plan_budget

Sources = Callable[[str], Path]
MIB = 1 << 20


@pytest.fixture
def kinds(source: Sources) -> list[TensorKind]:
    return list(api.plan(source("qwen3"), embed_mult=2).kinds)


@pytest.mark.parametrize(
    "threads, max_memory, expected",
    [
        (1, "512MB", (1, LARGEST_BLOCK_BYTES)),
        (2, "512MB", (2, LARGEST_BLOCK_BYTES)),
        (16, 512 * MIB, (16, 2 * MIB)),
        (16, str(128 * MIB), (8, MIB)),
        (16, 16 * MIB, (1, MIB)),
        (1, "1TB", (1, LARGEST_BLOCK_BYTES)),
    ],
)
def test_threads_share_the_memory(
    threads: int, max_memory: int | str, expected: tuple[int, int], kinds: list[TensorKind]
) -> None:
    budget = plan_budget(kinds, threads, max_memory)
    assert (budget.threads, budget.block_bytes) == expected


@pytest.mark.parametrize("noise_snr_db, threads", [(None, 8), (10.0, 4)])
def test_rows_that_are_wider_or_noisy_leave_room_for_fewer_threads(
    noise_snr_db: float | None, threads: int, source: Sources
) -> None:
    """The feed-forward's rows get 80 × 32,768 elements, 10 MiB in float32; noise is made 64 rows at a time."""
    wide = api.plan(source("qwen3"), ffn_mult=1 << 15, noise_snr_db=noise_snr_db)
    row_bytes = (80 << 15) * 4
    memory = 8 * 16 * row_bytes * (8 if noise_snr_db else 1)
    budget = plan_budget(wide.kinds, 8, memory)
    assert budget.threads == threads
    largest = max(wide.tensors, key=lambda tensor: tensor.growths[-1].target)
    first = cut_blocks(largest, budget.block_bytes)[0]
    assert (first.stop - first.start) * row_bytes * 16 * budget.threads <= memory


@pytest.mark.parametrize("max_memory", [16 * MIB - 1, 0, "5MB"])
def test_memory_that_is_too_little_for_one_thread_is_refused_with_what_is_enough(
    max_memory: int | str, kinds: list[TensorKind]
) -> None:
    with pytest.raises(RequestError, match=r"one thread needs 16,777,216 bytes") as refusal:
        plan_budget(kinds, 1, max_memory)
    enough = refusal.value.hint.split()[2]
    assert plan_budget(kinds, 1, enough).threads == 1


@pytest.mark.parametrize("max_memory", ["lots", "5 elephants", "", "nanMB", "infGB", "-5MB"])
def test_memory_that_is_no_size_is_refused(max_memory: str, kinds: list[TensorKind]) -> None:
    with pytest.raises(RequestError, match="--max-memory"):
        plan_budget(kinds, 1, max_memory)
