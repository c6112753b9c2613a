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
from typing import Any

from hyperclone_cli.axes import Form, Role, dimension, drop
from hyperclone_cli.config import grow_config, read_sizes
from hyperclone_cli.errors import CheckpointError, HypercloneError, RequestError
from hyperclone_cli.families import FAMILIES, REFUSED, Family, find_family, known_family
from hyperclone_cli.growth import Growth, grow_axes
from hyperclone_cli.head import Head, settle_head
from hyperclone_cli.layers import borrowers, grow_layer_numbers, grow_layers, stated_kinds
from hyperclone_cli.request import Request
from hyperclone_cli.resolve import resolve
from hyperclone_cli.shape import propose
from hyperclone_cli.shards import ITEM_BYTES
from hyperclone_cli.source import Source
from hyperclone_cli.tensors import GrownTensor, grow_tensor

_SIZE_HINT = 'Use a size such as "5GB".'


@dataclass(frozen=True)
class Plan:
    """Everything that will be written, decided.

    `layers` are the growths in each layer, where layers have widths of their own; empty where they are alike.
    """

    source: Source
    family: Family
    request: Request
    growths: Mapping[str, Growth]
    layers: Mapping[int, Mapping[str, Growth]]
    config: Mapping[str, Any]
    tensors: tuple[GrownTensor, ...]
    shards: Mapping[str, tuple[str, ...]]
    dropped: Mapping[str, str]
    head: Head
    notes: tuple[str, ...]

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
        """Bytes of keys and values that one token adds, before and after, in the clone's dtype.

        A recurrent layer adds none, nor does one that takes them from another.
        """
        attention = [tensor for tensor in self.tensors if tensor.part == "attention"]
        numbers = {int(number) for tensor in attention for number in re.findall(r"\.(\d+)\.", tensor.name)[:1]}
        numbers -= set(borrowers(self.source.config, self.family, self.growths["layers"].source))
        cached = [
            grow_axes(dimension(Role.OUT, packed).parts, self.layers.get(number, self.growths))
            for number in numbers
            for packed in self.family.cache
        ]
        each = max((ITEM_BYTES[tensor.dtype] for tensor in attention), default=0)
        return sum(growth.source for growth in cached) * each, sum(growth.target for growth in cached) * each


def make_plan(source: Source, request: Request) -> Plan:
    """Decide what the clone of `source` under `request` is.

    A number of parameters is replaced by the sizes that it leads to: they are the plan's request, and a note.

    Raises CheckpointError if a tensor fits no rule, several, or not its shape; RequestError if the
    architecture cannot do what is asked.
    """
    _check_known(source, request)
    family = find_family(source.config, source.tensors, request.family)
    sizes = read_sizes(source.config, family)
    if request.target_params is not None:
        return _plan_of_size(source, request, sizes, family)
    growths = resolve(request, sizes, family, source.config)
    layers = grow_layers(request, source.config, family, sizes, growths)
    kinds = stated_kinds(source.config, family, sizes["layers"])
    matched = _match(source, family, sizes["layers"], kinds)
    _check_complete(matched, family, sizes, kinds)

    dropped = {name: form.dropped for name, (_, _, form) in matched.items() if form.dropped}
    tensors = [
        grow_tensor(source.tensors[name], copy, parameter, form, family, inside, request)
        for name, (full, parameter, form) in matched.items()
        if not form.dropped
        for inside in [layers.get(_layer(full), growths)]
        for copy in _copies(full, form, inside)
    ]
    tensors, head, redundant = settle_head(source, family, request, growths, tensors)
    dropped.update(redundant)
    # widest items first, so that every tensor of a file is aligned to its own size
    tensors.sort(key=lambda tensor: -ITEM_BYTES[tensor.dtype])
    config = grow_config(source.config, family, growths, request.dtype, head.tied)
    if any(growth.grows for growth in growths.values()):
        config = grow_layer_numbers(config, source.config, family, layers)
    return Plan(
        source=source,
        family=family,
        request=request,
        growths=growths,
        layers=layers,
        config=config,
        tensors=tuple(tensors),
        shards=_split(tensors, request.max_shard_size),
        dropped=dropped,
        head=head,
        notes=(*_silent_heads(growths["kv_heads"]), *source.notes),
    )


def _silent_heads(heads: Growth) -> list[str]:
    silent = sum(run.length for run in heads.runs if run.silent)
    why = f"ALiBi gives each head a slope of its own, and {heads.source} of these are the source's."
    return [f"{silent} of {heads.target} heads are silent until training reads them: {why}"] if silent else []


def _plan_of_size(source: Source, request: Request, sizes: Mapping[str, int], family: Family) -> Plan:
    def count(candidate: Request) -> int:
        return make_plan(source, candidate).parameters()[1].total()

    target = request.target_params
    assert isinstance(target, int)
    make_plan(source, Request(family=request.family))  # what is wrong with the source, no shape mends
    plan = make_plan(source, propose(request, sizes, family, source.config, count))
    total = plan.parameters()[1].total()
    keys = [family.sizes[axis] for axis in ("embed", "ffn", "heads", "kv_heads") if axis in family.sizes]
    shape = ", ".join(f"{key} {family.value(plan.config, key)}" for key in keys)
    note = f"--target-params {target:,}: {shape} make {total:,} ({total / target - 1:+.1%})."
    return replace(plan, notes=(note, *plan.notes))


def _check_known(source: Source, request: Request) -> None:
    """Raise CheckpointError for an architecture without a table whose every tensor fits another's, naming that."""
    model_type = source.config["model_type"]
    if request.family or model_type in REFUSED or known_family(source.config, source.tensors):
        return
    for name in FAMILIES:
        try:
            make_plan(source, Request(family=name))
        except HypercloneError:
            continue
        raise CheckpointError(
            f"config.json: model_type {model_type!r} is not supported.",
            f"Its tensors are those of {name} to the last name and shape: --family {name} takes it for one, and"
            " `verify` decides.",
        )


def _match(
    source: Source, family: Family, layers: int, kinds: Mapping[tuple[int, str], str]
) -> dict[str, tuple[str, str, Form]]:
    matched = {}
    strangers = []
    extra = source.config.get(family.extra_layers)
    last = layers + (extra if type(extra) is int else 0)
    for name in source.tensors:
        if layers <= _layer(name) < last or (family.extra_names and family.extra_names in name):
            matched[name] = (name, "", drop("multi-token prediction, which transformers does not load"))
            continue
        fits = family.matches(name)
        if len(fits) > 1:
            raise CheckpointError(f"tensor {name!r} fits {len(fits)} rules of {family.model_type}: a table is wrong.")
        if fits:
            full, parameter, form = fits[0]
            kind = kinds.get((_layer(name), _respect(form.layer_kind)), form.layer_kind)
            borrowed = drop("of a layer that takes them from elsewhere: transformers does not load it")
            matched[name] = (full, parameter, form if kind == form.layer_kind else borrowed)
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


def _layer(name: str) -> int:
    """The number of the layer that a tensor belongs to; -1 outside of any."""
    number = re.search(r"\.layers\.(\d+)\.", f".{name}")
    return int(number[1]) if number else -1


def _copies(full: str, form: Form, growths: Mapping[str, Growth]) -> list[str]:
    """The names of the tensors that are made from one: its own, or where it is numbered one for each of its copies."""
    if not form.numbered:
        return [full]
    runs = grow_axes(dimension(Role.OUT, form.numbered).parts, growths).runs
    units = [unit for run in runs for unit in range(run.start, run.start + run.length)]
    before, number, after = re.split(r"\.(\d+)\.(?!.*\.\d+\.)", full)
    return [f"{before}.{copy}.{after}" for copy, unit in enumerate(units) if unit == int(number)]


def _check_complete(
    matched: Mapping[str, tuple[str, str, Form]],
    family: Family,
    sizes: Mapping[str, int],
    stated: Mapping[tuple[int, str], str],
) -> None:
    """Every module that is not optional, in every layer of its kind; a parameter that one of them has, all have.

    A layer's kind is the `stated` one, or else that of the modules which it has.
    """
    present = {full: form for full, _, form in matched.values() if not form.dropped}
    patterns = {_first_parameter(module, form): form for module, form in family.tensors.items() if not form.optional}
    patterns |= {_in_every_layer(name, family): form for name, form in present.items()}
    numbers = {name: [int(number) for number in re.findall(r"\.(\d+)\.", name)] for name in present}
    # a number beyond those of the tensors is wrong already
    most = [len({found[place] for found in numbers.values() if found[place:]}) + 1 for place in (0, 1)]
    layers = min(sizes["layers"], most[0])
    found = {
        (numbers[name][0], _respect(form.layer_kind)): form.layer_kind
        for name, form in present.items()
        if form.layer_kind
    }
    kinds = {**found, **stated}
    usual: dict[str, str] = {}
    for form in family.tensors.values():
        if form.layer_kind:
            usual.setdefault(_respect(form.layer_kind), form.layer_kind)
    expected = {
        pattern.replace(".*.", f".{layer}.", 1).replace(".*.", f".{unit}.")
        for pattern, form in patterns.items()
        for layer in range(layers if ".*." in pattern else 1)
        if not (kind := form.layer_kind) or kind == kinds.get((layer, _respect(kind)), usual[_respect(kind)])
        for unit in range(min(_count(form, sizes), most[1]) if pattern.count(".*.") > 1 else 1)
    }
    for names, what in (
        (expected - present.keys(), "missing tensors"),
        (present.keys() - expected, "too many tensors"),
    ):
        if names:
            layers_of = f"{sizes['layers']} layers" + (
                f" of {sizes['experts']} experts" if sizes.get("experts") else ""
            )
            raise CheckpointError(
                f"config.json says {family.model_type} with {layers_of}; {what}: {_some(sorted(names))}.",
                "Fetch config.json and the weights again, from one revision.",
            )


def _respect(kind: str) -> str:
    """In what respect layers of this kind differ from others."""
    return kind.rpartition("/")[0]


def _in_every_layer(name: str, family: Family) -> str:
    """The pattern of a tensor's name, or the name itself where the table has it in one layer alone."""
    return name if name.rpartition(".")[0] in family.tensors else re.sub(r"\.\d+\.", ".*.", name)


def _count(form: Form, sizes: Mapping[str, int]) -> int:
    """How many modules of a form a layer has."""
    axes = dimension(Role.OUT, form.numbered).axes if form.numbered else ("experts",)
    return math.prod(sizes.get(axis, 0) for axis in axes)


def _first_parameter(module: str, form: Form) -> str:
    """The tensor that a module has in any case."""
    return ".".join(filter(None, (module, next(iter(form.parameters)))))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


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
