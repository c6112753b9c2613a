"""Every stored tensor matched to one rule of its family's table, and none missing."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.families import Family
from hyperclone_cli.families.vocabulary import Form, Role, dimension, drop
from hyperclone_cli.growth.widths import Growth, grow_axes

Matched = tuple[str, str, Form]
"""The full name of a tensor, the parameter of its module that it is, and the module's form."""


def match_tensors(
    source: Source, family: Family, layers: int, kinds: Mapping[tuple[int, str], str]
) -> dict[str, Matched]:
    """The full name, parameter and form of every stored tensor, by its stored name.

    `layers` is their number, `kinds` those that the config states: (layer, respect) → kind. Raises CheckpointError if a
    tensor fits no rule, or several, or is stored twice.
    """
    matched = {}
    strangers = []
    extra = source.config.get(family.extra_layers)
    last = layers + (extra if type(extra) is int else 0)
    for name in source.tensors:
        if layers <= layer_of(name) < last or (family.extra_names and family.extra_names in name):
            matched[name] = (name, "", drop("multi-token prediction, which transformers does not load"))
            continue
        fits = family.matches(name)
        if len(fits) > 1:
            raise CheckpointError(f"tensor {name!r} fits {len(fits)} rules of {family.model_type}: a table is wrong.")
        if fits:
            full, parameter, form = fits[0]
            kind = kinds.get((layer_of(name), _respect(form.layer_kind)), form.layer_kind)
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


def layer_of(name: str) -> int:
    """The number of the layer that a tensor belongs to; -1 outside of any."""
    number = re.search(r"\.layers\.(\d+)\.", f".{name}")
    return int(number[1]) if number else -1


def copies_of(full: str, form: Form, growths: Mapping[str, Growth]) -> list[str]:
    """The names of the tensors that are made from one: its own, or where it is numbered one for each of its copies."""
    if not form.numbered:
        return [full]
    runs = grow_axes(dimension(Role.OUT, form.numbered).parts, growths).runs
    units = [unit for run in runs for unit in range(run.start, run.start + run.length)]
    before, number, after = re.split(r"\.(\d+)\.(?!.*\.\d+\.)", full)
    return [f"{before}.{copy}.{after}" for copy, unit in enumerate(units) if unit == int(number)]


def check_complete(
    matched: Mapping[str, Matched],
    family: Family,
    sizes: Mapping[str, int],
    stated: Mapping[tuple[int, str], str],
) -> None:
    """Every module that is not optional, in every layer of its kind; a parameter that one of them has, all have.

    A layer's kind is the `stated` one, or else that of the modules which it has. Raises CheckpointError for tensors
    that are missing, or too many.
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
