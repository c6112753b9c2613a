"""The plan: every source tensor matched to one rule, every output tensor's shape, place and bytes.

Writes nothing, imports neither torch nor transformers, and reads no tensor but a tied head that is
stored twice. The same source and request give the same plan, and the plan decides every byte of the clone.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from hyperclone_cli.axes import Form, Role
from hyperclone_cli.config import grow_config, read_sizes, value
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import Family, find_family
from hyperclone_cli.growth import Growth, Request, Run, grow_dimension, resolve
from hyperclone_cli.mixing import Mixing
from hyperclone_cli.shards import FLOAT_DTYPES, ITEM_BYTES, StoredTensor
from hyperclone_cli.source import Source

_SIZE_HINT = 'Use a size such as "5GB".'


@dataclass(frozen=True)
class GrownTensor:
    """One tensor of the clone, made from one tensor of the source.

    Element = gain · (w + offset) · (shares of its input dimensions) - offset, rounded once to `dtype`;
    offset is 1 for norms that multiply by (1 + w), else 0.
    """

    name: str
    source: StoredTensor
    dtype: str
    part: str
    roles: tuple[Role, ...]
    growths: tuple[Growth, ...]
    mixing: Mixing
    gain: float = 1.0
    offset: float = 0.0

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(growth.target for growth in self.growths)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * ITEM_BYTES[self.dtype]

    @cached_property
    def exact(self) -> bool:
        """Whether no element needs rounding: factors are powers of two, and the dtype holds the source's.

        Subnormal numbers aside.
        """
        shares = {share for run in self.growths[0].runs for share in self.shares(run)}
        powers = _is_power_of_two(self.gain) and all(_is_power_of_two(float(share)) for share in shares if share)
        wide = self.dtype == self.source.dtype or (
            ITEM_BYTES[self.dtype] > ITEM_BYTES[self.source.dtype] and self.dtype in ("F32", "F64")
        )
        return powers and wide and not self.noisy and not (self.offset and self.gain != 1.0)

    @cached_property
    def noisy(self) -> bool:
        """Whether noise is asked for and there are copies over which it can cancel."""
        return (
            self.mixing.noise_snr_db is not None
            and self.roles[-1] is Role.IN
            and any(run.copies > 1 for run in self.growths[-1].runs)
        )

    def shares(self, rows: Run) -> tuple[Fraction, ...]:
        """What part of its weight a run of rows takes in each run of columns; a column's copies sum to 1."""
        if self.roles[1:] != (Role.IN,):
            return tuple(Fraction(1) for growth in self.growths[1:] for _ in growth.runs)
        return tuple(self.mixing.share(rows.copy, run.copy, run.copies) for run in self.growths[1].runs)


@dataclass(frozen=True)
class Head:
    """How the clone reads its logits: `module` carries `factor` where a tied matrix cannot."""

    tied: bool
    why: str
    module: str | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class Plan:
    """Everything that will be written, decided."""

    source: Source
    family: Family
    request: Request
    growths: Mapping[str, Growth]
    config: Mapping[str, Any]
    tensors: tuple[GrownTensor, ...]
    shards: Mapping[str, tuple[str, ...]]
    dropped: Mapping[str, str]
    head: Head

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def digest(self) -> str:
        """SHA-256 over the source's headers, the request and the grown config."""
        decided = {
            "source": [[t.name, t.dtype, t.shape] for t in self.source.tensors.values()],
            "source_config": self.source.config,
            "request": asdict(self.request),
            "config": self.config,
        }
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()

    def parameters(self) -> tuple[Counter[str], Counter[str]]:
        """Parameters by part of the network, before and after; a tied head counts once."""
        before, after = Counter[str](), Counter[str]()
        for tensor in self.tensors:
            after[tensor.part] += tensor.elements
        parts = {tensor.source.name: tensor for tensor in reversed(self.tensors)}  # a new head comes last
        for tensor in parts.values():
            before[tensor.part] += math.prod(tensor.source.shape)
        return before, after

    def rounded(self) -> list[str]:
        """Tensors whose numbers are rounded once; all others hold the source's, scaled by powers of two."""
        return [tensor.name for tensor in self.tensors if not tensor.exact]

    def kv_cache_bytes(self) -> tuple[int, int]:
        """Bytes of keys and values that one token adds, before and after, in the clone's dtype."""
        item = next(ITEM_BYTES[tensor.dtype] for tensor in self.tensors if tensor.part == "attention")
        rest = 2 * self.growths["layers"].source * self.growths["head_dim"].source * item
        return self.growths["kv_heads"].source * rest, self.growths["kv_heads"].target * rest


def make_plan(source: Source, request: Request) -> Plan:
    """Decide what the clone of `source` under `request` is.

    Raises CheckpointError if a tensor fits no rule, several, or not its shape; RequestError if the
    architecture cannot do what is asked.
    """
    family = find_family(source.config["model_type"])
    sizes = read_sizes(source.config, family)
    growths = resolve(request, sizes, family)
    matched = _match(source, family)
    _check_complete(matched, family, sizes["layers"])

    dropped = {name: form.dropped for name, (_, _, form) in matched.items() if form.dropped}
    tensors = [
        _grow(source.tensors[name], full, parameter, form, growths, request)
        for name, (full, parameter, form) in matched.items()
        if not form.dropped
    ]
    tensors, head, redundant = _tie(source, family, request, growths, tensors)
    dropped.update(redundant)
    # widest items first, so that every tensor of a file is aligned to its own size
    tensors.sort(key=lambda tensor: -ITEM_BYTES[tensor.dtype])
    config = grow_config(source.config, family, growths, request.dtype, head.tied)
    return Plan(
        source, family, request, growths, config, tuple(tensors), _split(tensors, request.max_shard_size), dropped, head
    )


def _match(source: Source, family: Family) -> dict[str, tuple[str, str, Form]]:
    matched = {}
    strangers = []
    for name in source.tensors:
        fits = family.matches(name)
        if len(fits) > 1:
            raise CheckpointError(f"tensor {name!r} fits {len(fits)} rules of {family.model_type}: a table is wrong.")
        if fits:
            matched[name] = fits[0]
        else:
            strangers.append(name)
    if strangers:
        raise CheckpointError(
            f"{source.path}: no rule of {family.model_type} fits {_some(strangers)}.",
            "Only causal language models in their original layout can be expanded.",
        )
    names = Counter(full for full, _, _ in matched.values())
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise CheckpointError(f"{source.path}: stored twice, with and without {family.prefix!r}: {_some(twice)}.")
    return matched


def _check_complete(matched: Mapping[str, tuple[str, str, Form]], family: Family, layers: int) -> None:
    """Every module that is not optional, in every layer; a parameter that one layer has, all have."""
    present = {full for full, _, form in matched.values() if not form.dropped}
    patterns = {re.sub(r"\.\d+\.", ".*.", name) for name in present}
    patterns |= {f"{module}.weight" for module, form in family.tensors.items() if not form.optional}
    expected = {
        pattern.replace(".*.", f".{layer}.")
        for pattern in patterns
        for layer in range(layers if ".*." in pattern else 1)
    }
    for names, what in ((expected - present, "missing tensors"), (present - expected, "too many tensors")):
        if names:
            raise CheckpointError(
                f"config.json says {family.model_type} with {layers} layers; {what}: {_some(sorted(names))}.",
                "Fetch config.json and the weights again, from one revision.",
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _grow(
    stored: StoredTensor, full: str, parameter: str, form: Form, growths: Mapping[str, Growth], request: Request
) -> GrownTensor:
    dimensions = form.parameters[parameter]
    if len(dimensions) != len(stored.shape):
        raise CheckpointError(
            f"tensor {stored.name!r}: expected {len(dimensions)} dimensions, found shape {list(stored.shape)}."
        )
    grown = []
    for number, (dimension, size) in enumerate(zip(dimensions, stored.shape, strict=True)):
        try:
            grown.append(grow_dimension(dimension.axes, size, growths))
        except ValueError as error:
            raise CheckpointError(
                f"tensor {stored.name!r}: config.json makes dimension {number} ({' × '.join(dimension.axes)})"
                f" {error}, found shape {list(stored.shape)}.",
                "config.json and the weights do not belong together.",
            ) from None
    is_float = stored.dtype in FLOAT_DTYPES.values()
    if not is_float:
        raise CheckpointError(f"tensor {stored.name!r}: expected floating-point weights, found {stored.dtype}.")
    embed = growths["embed"]
    return GrownTensor(
        name=full,
        source=stored,
        dtype=FLOAT_DTYPES[request.dtype] if request.dtype else stored.dtype,
        part=_part(form, dimensions[0].axes + dimensions[-1].axes),
        roles=tuple(dimension.role for dimension in dimensions),
        growths=tuple(grown),
        mixing=request.mixing,
        gain=(embed.source / embed.target) ** form.forward_power,
        offset=float(form.plus_one),
    )


def _part(form: Form, axes: tuple[str, ...]) -> str:
    """The part of the network, read off the axes."""
    if form.kind == "vector":
        return "norms"
    if "vocab" in axes:
        return "embedding" if form.kind == "embedding" else "head"
    if "kv_heads" in axes:
        return "attention"
    return "feed-forward" if "ffn" in axes else "embedding"


def _tie(
    source: Source, family: Family, request: Request, growths: Mapping[str, Growth], tensors: list[GrownTensor]
) -> tuple[list[GrownTensor], Head, dict[str, str]]:
    """Settle the head: (tensors, head, stored tensors that are not written and why).

    A tied matrix E is copied like any embedding (its rows times the gain g), so the head that
    reads n copies of it gives n·g times the logits. The last module before it is scaled by
    1 / (n·g), or the tie is given up.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    embedding = by_name.get(f"{family.embedding}.weight")
    if embedding is None:
        raise CheckpointError(f"{source.path}: no tensor {family.embedding}.weight.", "The checkpoint is incomplete.")
    heads = [tensor for tensor in tensors if tensor.part == "head" and tensor.name.endswith(".weight")]
    redundant: dict[str, str] = {}
    if value(source.config, family, "tie_word_embeddings"):
        for head in heads:
            if source.same_bytes(head.source.name, embedding.source.name):
                redundant[head.source.name] = "the tied head, stored a second time"
        tensors = [tensor for tensor in tensors if tensor.source.name not in redundant]
        if len(redundant) < len(heads):
            return tensors, Head(False, "untied: the stored head differs from the embedding"), redundant
    elif heads:
        return tensors, Head(False, "untied, as in the source"), redundant
    else:
        raise CheckpointError(
            f"{source.path}: no tensor {family.head}.weight, and config.json does not tie it to the embedding.",
            "The checkpoint is incomplete.",
        )

    factor = 1.0 / (float(embedding.growths[1].ratio) * embedding.gain)
    if request.tie_embeddings != "untie" and factor == 1.0:
        return tensors, Head(True, "tied, as in the source"), redundant
    fold = next((fold for fold in family.folds if _applies(fold.when, source, family)), None)
    module = fold.module.replace("layers.-1.", f"layers.{growths['layers'].source - 1}.") if fold else None
    foldable = f"{module}.weight" in by_name
    if request.tie_embeddings == "keep" and not foldable:
        raise RequestError(
            f"--tie-embeddings keep: {family.model_type} has no weight before the head that could carry {factor:g}.",
            "Use --tie-embeddings auto, which writes a head of its own.",
        )
    if request.tie_embeddings != "untie" and foldable:
        tensors = [
            replace(tensor, gain=tensor.gain * factor) if tensor.name.rpartition(".")[0] == module else tensor
            for tensor in tensors
        ]
        return tensors, Head(True, f"tied: {module} carries the factor {factor:g}", module, factor), redundant
    form = family.tensors[family.head]
    head = _grow(embedding.source, f"{family.head}.weight", "weight", form, growths, request)
    why = "asked for" if request.tie_embeddings == "untie" else "no weight before the head can carry the factor"
    return [*tensors, head], Head(False, f"untied: {head.name} is written ({why})"), redundant


def _applies(when: Mapping[str, Any], source: Source, family: Family) -> bool:
    return all(value(source.config, family, key) == wanted for key, wanted in when.items())


def _split(tensors: list[GrownTensor], max_shard_size: int | str) -> dict[str, tuple[str, ...]]:
    from huggingface_hub import split_state_dict_into_shards_factory

    size = int(max_shard_size) if str(max_shard_size).isdecimal() else max_shard_size
    if not re.match(r"[0-9.]*[1-9]", str(size)):
        raise RequestError(f"--max-shard-size {size}: a file needs room for something.", _SIZE_HINT)
    try:
        split = split_state_dict_into_shards_factory(
            {tensor.name: tensor for tensor in tensors},
            get_storage_size=lambda tensor: tensor.nbytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=size,
        )
    except ValueError as error:
        raise RequestError(f"--max-shard-size {size}: {error}.", _SIZE_HINT) from None
    return {name: tuple(tensors) for name, tensors in split.filename_to_tensors.items()}


def _is_power_of_two(number: float) -> bool:
    return math.frexp(number)[0] == 0.5
