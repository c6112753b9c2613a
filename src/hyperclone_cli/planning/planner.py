"""How a plan is made: every source tensor matched to one rule, every output tensor's shape, place and bytes.

Writes nothing, imports neither torch nor transformers, and reads no tensor but a tied head that is
stored twice. The same source and request give the same plan, and the plan decides every byte of the clone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from operator import attrgetter

from hyperclone_cli.checkpoint.safetensors_file import ITEM_BYTES
from hyperclone_cli.checkpoint.sizes import check_towers
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.errors import CheckpointError, HypercloneError, RequestError
from hyperclone_cli.families import FAMILIES, REFUSED, find_family, known_family
from hyperclone_cli.growth.config import grow_config, placed
from hyperclone_cli.growth.depth import cloned_layers, grow_layer_rules
from hyperclone_cli.growth.experts import grow_experts
from hyperclone_cli.growth.layers import grow_layer_numbers, grow_layers
from hyperclone_cli.growth.numbers import bytes_of
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.resolve import resolve
from hyperclone_cli.growth.target_params import choose_sizes
from hyperclone_cli.growth.upcycling import as_mixture
from hyperclone_cli.planning.as_mixture import as_experts
from hyperclone_cli.planning.expert_noise import with_noise
from hyperclone_cli.planning.experts import alignment_note
from hyperclone_cli.planning.grown_tensor import GrownTensor
from hyperclone_cli.planning.matching import match_tensors
from hyperclone_cli.planning.notes import copied_layers, kept_note, left_out, new_experts, noise_warning, silent_heads
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.planning.tensors import grow_tensors
from hyperclone_cli.planning.text_alone import LEFT_OUT, config_alone, named_alone, text_alone
from hyperclone_cli.planning.tied_head import decide_head

_LARGEST_FILE_BYTES = 50 * 10**9
_ONE_FILE_BYTES = 10**9
"""Up to so many bytes a clone is one file."""


def make_plan(source: Source, request: Request) -> Plan:
    """Decide what the clone of `source` under `request` is.

    A number of parameters is replaced by the sizes that it leads to: they are the plan's request, and a note.

    Raises CheckpointError if a tensor fits no rule, several, or not its shape; RequestError if the
    architecture cannot do what is asked.
    """
    try:
        family = find_family(source.config, source.tensors, request.family)
    except CheckpointError:
        _name_fitting_table(source, request)
        raise
    check_towers(source.config, family, len(source.tensors))
    stated = proposal = Proposal.of(request, family, source.config)
    if request.target_params is not None:
        return _plan_of_size(source, stated if request.text_only else as_mixture(stated))
    if request.text_only:
        proposal = text_alone(source, stated)
    proposal = as_mixture(proposal)
    family = proposal.family
    growths = resolve(proposal)
    of_layers = grow_layers(proposal, growths)
    matched = match_tensors(source, stated)
    if request.text_only:
        matched = named_alone(matched, stated)
    stored = source.tensors
    if proposal.upcycling:
        stored, matched = as_experts(source, matched, proposal)
    dropped = {name: match.form.dropped for name, match in matched.items() if match.form.dropped}
    order = cloned_layers(growths["layers"])
    layers = {number: of_layers[layer.source] for number, layer in enumerate(order)} if of_layers else {}
    stored, places = with_noise(stored, matched, proposal, growths["experts"])
    tensors = grow_tensors(stored, places, family, growths, layers, order, grow_experts(proposal), request)
    tensors, head, redundant = decide_head(source, proposal, growths, tensors)
    dropped.update(redundant)
    kinds = Counter(tensor.kind for tensor in tensors)
    clone_bytes = sum(number * kind.nbytes for kind, number in kinds.items())
    # widest items first, so that every tensor of a file is aligned to its own size
    tensors.sort(key=lambda tensor: -ITEM_BYTES[tensor.kind.dtype])
    config = grow_config(proposal, growths, head.tied)
    if growths["layers"].grows:
        config = grow_layer_rules(config, proposal, order)
    if any(growth.grows for growth in growths.values()):
        in_order = replace(proposal, config=grow_layer_rules(proposal.config, proposal, order))
        config = grow_layer_numbers(config, in_order, layers)
    if request.text_only:
        config = config_alone(config, source, stated, family, growths, head.tied)
    else:
        config = placed(config, source.config, proposal, growths, head.tied)
    return Plan(
        source=source,
        source_family=stated.family,
        proposal=proposal,
        growths=growths,
        layers=layers,
        order=order,
        config=config,
        tensors=tuple(tensors),
        shards=_split(tensors, _file_bytes(clone_bytes, request.max_shard_size)),
        dropped=dropped,
        head=head,
        notes=(
            *copied_layers(request),
            *new_experts(proposal, config),
            *silent_heads(growths["kv_heads"]),
            *noise_warning(request, kinds),
            *filter(None, [kept_note(stated.family, request, tensors)]),
            *left_out(dropped),
            *alignment_note(proposal, growths, kinds),
            *source.notes,
        ),
    )


def _plan_of_size(source: Source, proposal: Proposal) -> Plan:
    family, target = proposal.family, proposal.request.target_params
    assert isinstance(target, int)
    asked = proposal.request
    # a fault of the source is found here
    unchanged = make_plan(source, Request(family=asked.family, text_only=asked.text_only))
    kept = {
        name: tensor
        for name, tensor in source.tensors.items()
        if unchanged.dropped.get(name, LEFT_OUT.dropped) == LEFT_OUT.dropped
    }
    counted = replace(source, tensors=kept)  # without a second tied head, which each plan would read again

    def count(candidate: Request) -> int:
        return make_plan(counted, candidate).parameters()[1].total()

    plan = make_plan(source, choose_sizes(proposal, count))
    family = plan.family
    total = plan.parameters()[1].total()
    deeper = ("layers",) if proposal.request.aspect == "keep" else ()
    keys = [family.sizes[axis] for axis in ("embed", "ffn", "heads", "kv_heads", *deeper) if axis in family.sizes]
    shape = ", ".join(f"{key} {family.value(family.own(plan.config), key)}" for key in keys)
    note = f"--target-params {target:,}: {shape} make {total:,} ({total / target - 1:+.1%})."
    return replace(plan, notes=(note, *plan.notes))


def _name_fitting_table(source: Source, request: Request) -> None:
    """Raise CheckpointError for an architecture without a table if another's fits every tensor, which it names."""
    model_type = source.config["model_type"]
    if request.family or model_type in REFUSED or known_family(source.config, source.tensors):
        return
    for name in dict.fromkeys(family.model_type for family in FAMILIES.values()):
        try:
            make_plan(source, Request(family=name))
        except HypercloneError:
            continue
        raise CheckpointError(
            f"config.json: model_type {model_type!r} is not supported.",
            f"Its tensors have the names and shapes of {name}: expand it with --family {name}; `verify` then tells"
            f" whether it computes the same. If transformers does not know {model_type!r} either, put"
            f' "model_type": "{name}" into its config.json instead.',
        )


def _split(tensors: list[GrownTensor], file_bytes: int) -> dict[str, tuple[str, ...]]:
    """File → names of its tensors, in files of at most so many bytes where a tensor does not have more."""
    from huggingface_hub import split_state_dict_into_shards_factory

    split = split_state_dict_into_shards_factory(
        {tensor.name: tensor.kind for tensor in tensors},
        get_storage_size=attrgetter("nbytes"),
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=file_bytes,
    )
    return {name: tuple(tensors) for name, tensors in split.filename_to_tensors.items()}


def _file_bytes(clone_bytes: int, asked: int | str | None) -> int:
    """The most bytes of a file. Raises RequestError for a size that is none.

    Without a request several files can be written at once, see `writing.on_threads`. How many depends on the clone
    alone, not on the machine: the same command gives the same files everywhere.
    """
    if asked is None:
        return _LARGEST_FILE_BYTES if clone_bytes <= _ONE_FILE_BYTES else min(_LARGEST_FILE_BYTES, -(-clone_bytes // 4))
    size = bytes_of("--max-shard-size", asked)
    if not size:
        raise RequestError(
            f"--max-shard-size {asked}: a shard must have room for a tensor.", 'Use a size such as "5GB".'
        )
    return size
