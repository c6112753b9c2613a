"""Blocks are worked on in order, a bounded number at once; each is written to the bytes that it has in memory."""

from __future__ import annotations

import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hyperclone_cli import expand, plan
from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES, put_rows, rows_in_memory, write_rows
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor, create, lay_out
from hyperclone_cli.families.vocabulary import Role
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.growth.widths import Growth, grow_axes, nest, padded, side_by_side, spaced, tiled
from hyperclone_cli.planning.grown_tensor import Filling, GrownTensor, TensorKind
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.writing.arithmetic import grow_block
from hyperclone_cli.writing.block_loop import run_blocks, workers
from hyperclone_cli.writing.blocks import Block, cut_blocks
from hyperclone_cli.writing.budget import Budget
from hyperclone_cli.writing.columns import sum_copies
from hyperclone_cli.writing.on_threads import write_on_threads
from hyperclone_cli.writing.shard_task import ShardTask, ShardWritten, write_shard

Sources = Callable[[str], Path]
SMALL = Budget(2, 1000)

PADDED_BY_ONE = {
    "padded": padded(4, 5),
    "padded after two copies": padded(4, 9),
    "padded from two units": padded(2, 3),
    "spaced": spaced(3, 2),
    "a single unit spaced": spaced(1, 2),
    "padded inside each unit": nest(tiled(2, 2), padded(2, 3)),
    "spaced inside each unit": nest(tiled(2, 1), spaced(2, 2)),
    "a unit for each unit of padding": nest(padded(3, 4), tiled(1, 1)),
    "side by side": side_by_side([padded(4, 5), tiled(2, 2), spaced(1, 2)]),
    "axes": grow_axes((("a", "b"), ("b",)), {"a": tiled(2, 1), "b": padded(3, 4)}),
}
PLACES: dict[str, Callable[[Growth], tuple[tuple[Role, Growth], ...]]] = {
    "vector": lambda growth: ((Role.OUT, growth),),
    "vector that undoes the scale": lambda growth: ((Role.OUT, growth.unscaled()),),
    "rows": lambda growth: ((Role.OUT, growth), (Role.IN, tiled(3, 2))),
    "rows of one column": lambda growth: ((Role.OUT, growth), (Role.IN, tiled(1, 1))),
    "columns": lambda growth: ((Role.OUT, tiled(3, 2)), (Role.OUT, growth)),
    "columns of one row": lambda growth: ((Role.OUT, tiled(1, 1)), (Role.OUT, growth)),
    "columns that are read": lambda growth: ((Role.OUT, tiled(3, 2)), (Role.IN, growth.unscaled())),
    "rows and columns": lambda growth: ((Role.OUT, growth), (Role.OUT, growth)),
}
"""What grows in a tensor: the role and the growth of each of its dimensions."""


def copied(units: torch.Tensor, growth: Growth, filling: Filling) -> torch.Tensor:
    """The first dimension of `units` grown, run by run, as the definition of a growth has it."""
    mean = units.mean(0, keepdim=True) if filling is Filling.MEAN else torch.zeros_like(units[:1])
    return torch.cat(
        [
            run.scale
            * (torch.cat([mean] * run.length) if run.is_padding else units[run.start : run.start + run.length])
            for run in growth.runs
        ]
    )


@pytest.mark.parametrize("dtype", ["F64", "BF16"])
@pytest.mark.parametrize("filling", [Filling.ZERO, Filling.MEAN])
@pytest.mark.parametrize(
    "place, transposed",
    [(place, transposed) for place in PLACES for transposed in (False, True) if not (transposed and "vector" in place)],
)
@pytest.mark.parametrize("growth", PADDED_BY_ONE)
def test_padding_of_one_unit_is_written_as_it_is_in_memory(
    growth: str, place: str, transposed: bool, filling: Filling, dtype: str, tmp_path: Path
) -> None:
    roles, growths = zip(*PLACES[place](PADDED_BY_ONE[growth]), strict=True)
    shape = [each.source for each in growths]
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(TORCH_DTYPES[dtype])
    stored = weight.T.contiguous() if transposed else weight
    source = StoredTensor("w", dtype, tuple(stored.shape), tmp_path, 0, transposed)
    fillings = tuple(Filling.NOISE if role is Role.IN else filling for role in roles)
    mixing = Mixing("symmetric")
    kind = TensorKind("grown", source, dtype, "norms", roles, growths, fillings, mixing, transposed=transposed)
    tensor = GrownTensor("grown", None, source, kind)

    path = tmp_path / "grown.safetensors"
    head, [target] = lay_out(path, [("grown", dtype, tensor.shape)])
    in_memory = torch.empty(tensor.shape, dtype=weight.dtype)
    with open(create(path, head, len(head) + tensor.nbytes), "r+b") as file, workers(1) as executor:

        def write(block: Block, rows: torch.Tensor, noise_power: float) -> None:
            for first, grown in grow_block(block, rows, noise_power):
                write_rows(file.fileno(), tensor.like(target), first, grown)
                put_rows(in_memory, tensor.like(target), first, grown)

        list(run_blocks([tensor], rows_in_memory({"w": stored}), executor, Budget(1, 1), write))
    assert torch.equal(load_file(path)["grown"], in_memory)

    found = (in_memory.T if transposed else in_memory).double()
    expected = copied(weight.double(), growths[0], filling)
    if roles[-1] is Role.IN:
        assert found.isfinite().all()
        found = sum_copies(found, growths[1])
    elif len(growths) == 2:
        expected = copied(expected.T, growths[1], filling).T
    assert torch.allclose(found, expected, rtol=2 * torch.finfo(weight.dtype).eps, atol=1e-6)


@pytest.mark.parametrize("rows", [torch.tensor(3.0).expand(1), torch.full((4, 5), 3.0).T[:1, :1]], ids=["view", "cut"])
def test_a_single_number_is_written_whatever_its_stride(rows: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    head, [target] = lay_out(path, [("one", "F32", tuple(rows.shape))])
    with open(create(path, head, len(head) + 4), "r+b") as file:
        write_rows(file.fileno(), target, 0, rows)
    assert torch.equal(load_file(path)["one"], rows)


@pytest.fixture
def noisy(source: Sources) -> Plan:
    return plan(source("llama-gqa-tied"), embed_mult=2, ffn_mult=2, noise_snr_db=10.0)


def nothing(block: Block, rows: torch.Tensor, noise_power: float) -> None:
    pass


def test_results_come_in_order_and_few_blocks_are_ahead(noisy: Plan) -> None:
    submitted = 0

    class Counting(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal submitted
            submitted += 1
            return super().submit(*args, **kwargs)

    results = []
    with noisy.source.rows() as read, Counting(2) as executor:
        for result in run_blocks(noisy.tensors, read, executor, SMALL, nothing, noise=False):
            results.append(result)
            assert submitted - len(results) < 4 * SMALL.threads
    blocks = [cut_blocks(tensor, SMALL.block_bytes) for tensor in noisy.tensors]
    assert [result.block for result in results] == [block for each in blocks for block in each]
    assert [result.block for result in results if result.last] == [each[-1] for each in blocks]
    assert all(result.finite for result in results)


@pytest.mark.parametrize("noise", [False, True])
def test_rows_are_read_once_and_once_more_for_noise(noise: bool, noisy: Plan) -> None:
    found = Counter[tuple[str, int]]()
    with noisy.source.rows() as rows, workers(1) as executor:

        def read(stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
            found.update((stored.name, row) for row in range(start, stop))
            return rows(stored, start, stop)

        list(run_blocks(noisy.tensors, read, executor, SMALL, nothing, noise))
    assert found == {
        (tensor.source.name, row): 2 if noise and tensor.noisy else 1
        for tensor in noisy.tensors
        for row in range(tensor.growths[0].source)
    }


def test_an_error_cancels_the_blocks_that_have_not_begun_and_waits_for_the_others(noisy: Plan) -> None:
    begun: list[Block] = []
    ended: list[Block] = []

    def work(block: Block, _: torch.Tensor, __: float) -> None:
        begun.append(block)
        if len(begun) == 1:
            raise CancelledError
        time.sleep(0.2)
        ended.append(block)

    with pytest.raises(CancelledError), noisy.source.rows() as read, workers(1) as executor:
        for _ in run_blocks(noisy.tensors, read, executor, Budget(8, 100), work):
            pass
    assert len(begun) < 8
    assert ended == begun[1:]


def test_a_block_says_whether_its_own_rows_are_finite() -> None:
    weight = torch.ones(5, 3)
    weight[2, 1] = torch.nan
    source = StoredTensor("w", "F32", (5, 3), Path("w"), 0)
    growths, roles = (tiled(5, 1), padded(3, 4)), (Role.OUT, Role.OUT)
    kind = TensorKind("grown", source, "F32", "norms", roles, growths, (Filling.ZERO,) * 2, Mixing())
    tensor = GrownTensor("grown", None, source, kind)
    with workers(2) as executor:
        results = list(run_blocks([tensor], rows_in_memory({"w": weight}), executor, Budget(2, 1), nothing))
    assert [result.finite for result in results] == [True, True, False, True, True]


def test_another_process_could_write_a_shard(source: Sources, tmp_path: Path) -> None:
    """What write_shard needs and what it returns can be pickled, and it needs no other shard."""
    made = expand(source("qwen3"), tmp_path / "clone", embed_mult=2, max_shard_size="100KB")
    assert len(made.shards) > 2
    nbytes = {tensor.name: tensor.nbytes for tensor in made.tensors}
    (tmp_path / "alone").mkdir()
    for shard, names in reversed(list(made.shards.items())):
        task = pickle.loads(pickle.dumps(partial(write_shard, made, ShardTask(shard, tmp_path / "alone", SMALL))))
        written = pickle.loads(pickle.dumps(task()))
        assert written == ShardWritten(shard, names, sum(nbytes[name] for name in names), frozenset())
        assert (tmp_path / "alone" / shard).read_bytes() == (tmp_path / "clone" / shard).read_bytes()


def test_shards_are_written_at_once_and_heard_of_in_the_callers_thread(source: Sources, tmp_path: Path) -> None:
    made = plan(source("qwen3"), embed_mult=2, max_shard_size="100KB")
    heard: list[tuple[int, int, int]] = []
    threads = threading.active_count()
    found = {}
    for count in (1, 3):
        (tmp_path / str(count)).mkdir()
        write_on_threads(
            made,
            [ShardTask(shard, tmp_path / str(count), Budget(count, 1000)) for shard in made.shards],
            count,
            progress=lambda nbytes, total: heard.append((nbytes, total, threading.get_ident())),
        )
        found[count] = {path.name: path.read_bytes() for path in (tmp_path / str(count)).iterdir()}
    assert found[1] == found[3]
    assert found[1].keys() == made.shards.keys()
    assert len(made.shards) > 3
    assert sum(nbytes for nbytes, *_ in heard) == 2 * made.nbytes
    assert {(total, thread) for _, total, thread in heard} == {(made.nbytes, threading.get_ident())}
    assert threading.active_count() == threads


def test_an_error_stops_all_shards(source: Sources, tmp_path: Path) -> None:
    made = plan(source("qwen3"), embed_mult=2, max_shard_size="100KB")
    threads = threading.active_count()

    def interrupt(_: int, __: int) -> None:
        raise KeyboardInterrupt

    tasks = [ShardTask(shard, tmp_path, Budget(3, 1000)) for shard in made.shards]
    with pytest.raises(KeyboardInterrupt):
        write_on_threads(made, tasks, 3, progress=interrupt)
    assert threading.active_count() == threads
    assert len(list(tmp_path.iterdir())) < len(made.shards)
