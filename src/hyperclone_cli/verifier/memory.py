"""What running a model takes in memory, and what this machine has free. Imports torch only where there is a GPU."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.filesize import decimal

from hyperclone_cli.checkpoint.sizes import read_sizes
from hyperclone_cli.checkpoint.source import Source, TensorSource
from hyperclone_cli.families import Family

if TYPE_CHECKING:
    import torch

Mode = Literal["in memory", "layer by layer", "weights only"]

_KEPT_LOGITS = 6
"""Sets of logits of the page: those of three runs are kept, and comparing two takes a difference and parts of both."""

_LIBRARIES_BYTES = 350 << 20
"""What torch and transformers take beside weights and activations: imported modules, threads, the tokenizer."""

_SHORTEST_PAGE = 32
"""Tokens below which a page tells little."""

_LOADING_SHARE = 0.1
"""Part of the weights that loading takes in addition: tensors that are converted or fused before they replace parts."""


@dataclass(frozen=True)
class Needs:
    """Bytes that one model takes when it is run.

    weights      of all parameters in the dtype that the model runs in
    largest      of the largest tensor, or of all experts of the layer that has most, which are fused to one tensor
    activations  of logits, hidden states and scores, the libraries, and what is kept of earlier runs
    scratch      on the disk, where weights are read as layers run but cannot be read from the checkpoint's own files
    """

    weights: int
    largest: int
    activations: int
    scratch: int

    @property
    def in_memory(self) -> int:
        """With all weights loaded."""
        return round((1 + _LOADING_SHARE) * self.weights) + self.activations

    @property
    def layer_by_layer(self) -> int:
        """With each weight read when it is used, and dropped again: the next may be read before the last is gone."""
        return 2 * self.largest + self.activations


def needs(checkpoint: Source, family: Family, item_bytes: int, tokens: int) -> Needs:
    """What a model takes in a dtype of `item_bytes`, on a page of `tokens` tokens."""
    counted = ((name, prod(tensor.shape), 1) for name, tensor in checkpoint.tensors.items())
    own_files = not (isinstance(checkpoint, TensorSource) or checkpoint.needs_copy)
    copied = 0 if own_files else sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    return needs_of(counted, checkpoint.config, family, item_bytes, tokens, copied)


def needs_of(
    counted: Iterable[tuple[str, int, int]],
    config: Mapping[str, Any],
    family: Family,
    item_bytes: int,
    tokens: int,
    copied: int = 0,
) -> Needs:
    """What a model takes, of which `copied` bytes are in files of other kinds.

    counted  (name, elements of a tensor, how many such tensors): those of a layer's experts may be counted together,
             under a name with a `*` for the expert's number
    """
    total = largest = 0
    fused: dict[str, int] = defaultdict(int)
    for name, elements, number in counted:
        total += number * elements
        if expert := _expert(name):
            fused[expert] += number * elements
        else:
            largest = max(largest, elements)
    return Needs(
        weights=total * item_bytes,
        largest=max(largest, *fused.values(), 0) * item_bytes,
        activations=activations(config, family, tokens),
        scratch=copied + sum(fused.values()) * item_bytes,
    )


def activations(config: Mapping[str, Any], family: Family, tokens: int) -> int:
    """Bytes beside the weights of a model that is run on a page of `tokens` tokens."""
    sizes = read_sizes(family.own(config), family)
    width, layers, heads = sizes["embed"], sizes.get("layers", 1), sizes.get("kv_heads", 1) * sizes.get("group", 1)
    logits = _KEPT_LOGITS * tokens * sizes["vocab"] * 4
    hidden = 3 * (layers + 1) * tokens * width * 4
    within_layer = tokens * (heads * tokens + 4 * max(width, sizes.get("ffn", width))) * 4
    return logits + hidden + within_layer + _LIBRARIES_BYTES


@dataclass(frozen=True)
class Fit:
    """How a model can be run where it is to run."""

    needs: Needs
    free: Free
    mode: Mode

    def __str__(self) -> str:
        about = f"{decimal(self.needs.in_memory)} in memory or {decimal(self.needs.layer_by_layer)} layer by layer"
        scratch = f", {decimal(self.needs.scratch)} of disk" if self.needs.scratch else ""
        return f"needs about {about}{scratch}, and {decimal(self.free.total)} are free"


def fit(
    checkpoint: Source,
    family: Family,
    item_bytes: int,
    tokens: int,
    limit: int | None,
    device: str | torch.device | None,
    scratch: Path,
) -> Fit:
    """How a checkpoint can be run on `device`, see `free_on`, in at most `limit` bytes; `scratch` takes the files."""
    return fit_of(needs(checkpoint, family, item_bytes, tokens), limit, device, scratch)


def fit_of(needed: Needs, limit: int | None, device: str | torch.device | None, scratch: Path) -> Fit:
    """As `fit`, from what a model needs."""
    free = free_on(device).at_most(limit)
    mode: Mode = "weights only"
    if needed.in_memory <= free.total:
        mode = "in memory"
    elif needed.layer_by_layer <= free.total and needed.scratch <= shutil.disk_usage(scratch).free:
        mode = "layer by layer"
    return Fit(needed, free, mode)


def longest_page(tokens: int, fits: Callable[[int], Iterable[Fit]]) -> int:
    """The number of tokens, at most `tokens`, on which all models can be run: halved until they fit, down to 32.

    fits  how each model can be run on so many tokens

    Where nothing fits, `tokens`.
    """
    for shorter in (tokens >> halvings for halvings in range(tokens.bit_length())):
        if shorter < min(tokens, _SHORTEST_PAGE):
            break
        if all(fit.mode != "weights only" for fit in fits(shorter)):
            return shorter
    return tokens


def _expert(name: str) -> str:
    """The name of one expert's tensor without the expert's number; "" for any other tensor."""
    before, _, after = name.partition(".experts.")
    number, _, rest = after.partition(".")
    return f"{before}.experts.{rest}" if number.isdecimal() or number == "*" else ""


@dataclass(frozen=True)
class Free:
    """Free bytes of each GPU that is used, by its number, and of the machine's memory."""

    gpus: Mapping[int, int]
    memory: int

    @property
    def total(self) -> int:
        """What a model may take where it runs: on the GPUs if there are any, else in memory."""
        return sum(self.gpus.values()) if self.gpus else self.memory

    def at_most(self, limit: int | None) -> Free:
        """No more than `limit` bytes of each."""
        if limit is None:
            return self
        return Free({number: min(free, limit) for number, free in self.gpus.items()}, min(self.memory, limit))


def free_on(device: str | torch.device | None) -> Free:
    """What is free where a model would run on `device`; None: on all GPUs, or the CPU if there is none."""
    name = str(device) if device is not None else "cuda" if _has_gpu() else "cpu"
    if not name.startswith("cuda"):
        return Free({}, free_memory())
    import torch

    numbers = [int(name.partition(":")[2])] if ":" in name else range(torch.cuda.device_count())
    return Free({number: torch.cuda.mem_get_info(number)[0] for number in numbers}, free_memory())


def _has_gpu() -> bool:
    """Whether there is a GPU. torch, which takes a second to import, is asked only where a driver is installed."""
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/kfd").exists():
        return False
    import torch

    return torch.cuda.is_available()


def free_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that this process can still take: what the machine has, and what its control groups allow.

    The page cache counts as free, for the kernel gives it up when memory is short. Where neither is known, as on
    macOS, half of all memory.
    """
    available = [*_machine(proc), *_control_groups(proc, cgroups)]
    if available:
        return max(0, min(available))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _machine(proc: Path) -> Iterable[int]:
    for name, amount in _numbers(proc / "meminfo").items():
        if name == "MemAvailable:":
            yield amount * 1024


def _control_groups(proc: Path, cgroups: Path) -> Iterable[int]:
    """What each control group that this process is in has left: its own and all above it, of both versions.

    Files: the kernel's Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst. In a container the path in
    /proc may lead outside what is mounted; then the mounted root is the container's own group.
    """
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage, prefix = cgroups, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            root, limit, usage, prefix = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        else:
            continue
        group = root / path.lstrip("/")
        for place in [one for one in (group, *group.parents) if one == root or root in one.parents]:
            most, used = _text(place / limit).strip(), _text(place / usage).strip()
            if most.isdigit() and used.isdigit():
                stat = _numbers(place / "memory.stat")
                yield (
                    int(most) - int(used) + sum(stat.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
                )


def _numbers(path: Path) -> dict[str, int]:
    """First word → second of each line that has a number there."""
    words = (line.split() for line in _text(path).splitlines())
    return {found[0]: int(found[1]) for found in words if len(found) > 1 and found[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
