"""Whether stock transformers takes the source and the clone: asked on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.errors import NOT_TOGETHER, CheckpointError, RequestError, first_of
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.planning.planner import make_plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOAD_IT_FIRST = "Once AutoModelForCausalLM.from_pretrained loads the source, it can be expanded."


def check_loads(plan: Plan) -> Plan:
    """The plan, if transformers loads the source and the clone; made again where it sees the source otherwise.

    Tensors of the source that transformers does not load are left out, and biases that are not stored, which it fills
    with zeros, are written as zeros. A note of the plan names either. Takes names, dtypes and shapes alone.

    Raises CheckpointError if transformers refuses the source, or loads it otherwise than it is read here; RequestError
    if it accepts the source and refuses the clone's config.
    """
    source, unexpected = _as_loaded(plan)
    if source is not plan.source:
        plan = make_plan(source, plan.request)
    _check_clone(plan, unexpected)
    return plan


def _as_loaded(plan: Plan) -> tuple[Source, list[str]]:
    """(the source as transformers sees it, names that it does not know).

    Without the tensors of the table that it ignores, and with the zeros that it fills in.
    """
    from hyperclone_cli.checkpoint.transformers_model import load_without_weights

    source = plan.source
    try:
        model, report = load_without_weights(source.config, source.tensors.values(), source.path)
    except CheckpointError as error:
        raise CheckpointError(error.message, _hint(plan) or error.hint or _LOAD_IT_FIRST) from None
    _check_shapes(source, report)
    missing = sorted(report["missing_keys"])
    zeros = {name: model.get_parameter(name).numel() for name in missing if _is_zero_bias(model, name)}
    if others := [name for name in missing if name not in zeros]:
        raise CheckpointError(
            f"{source.path}: transformers finds no tensor {first_of(others)}, and would fill it with random numbers.",
            NOT_TOGETHER,
        )
    written = {one.name for tensor in plan.tensors if not tensor.kept for one in tensor.source.originals}
    unexpected = sorted(report["unexpected_keys"])
    spelt = _spellings(plan, unexpected)
    ignored = [name for name in source.tensors if name in written and name in spelt]
    return (source.as_loaded(ignored, zeros) if ignored or zeros else source), unexpected


def _spellings(plan: Plan, names: Sequence[str]) -> set[str]:
    """Names of a model's tensors, with and without the prefix of the base model."""
    prefix = f"{plan.source_family.prefix}."
    return {spelt for name in names for spelt in (name, name.removeprefix(prefix), prefix + name)}


def _is_zero_bias(model: PreTrainedModel, name: str) -> bool:
    from hyperclone_cli.checkpoint.transformers_model import starts_as_zeros

    return name.endswith("bias") and model.get_parameter(name).dim() == 1 and starts_as_zeros(model, name)


def _check_shapes(source: Source, report: dict[str, Any]) -> None:
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise CheckpointError(
            f"{source.path}: tensor {name} has shape {list(found)}; by config.json, transformers expects"
            f" {list(expected)}.",
            NOT_TOGETHER,
        )


def _hint(plan: Plan) -> str:
    """What to do about a source that transformers refuses; "" if nothing particular is known."""
    pad, vocabulary = plan.proposal.config.get("pad_token_id"), plan.proposal.sizes["vocab"]
    if type(pad) is int and not -vocabulary <= pad < vocabulary:
        return (
            f"config.json: pad_token_id {pad} is beyond the {vocabulary} rows of the embedding. Set it to null or to a"
            " token of the vocabulary, or resize the embeddings first (resize_token_embeddings)."
        )
    if family := plan.request.family:
        return (
            f'If the source is {family} under a name of its own, put "model_type": "{family}" into its config.json.'
            " Otherwise install a version of transformers that loads it."
        )
    return ""


def _check_clone(plan: Plan, unexpected: Sequence[str]) -> None:
    """Raise RequestError for a config, CheckpointError for tensors that transformers would not load.

    unexpected  names of the source's tensors that it does not load either: those of towers, which stay as they are
    """
    from hyperclone_cli.checkpoint.transformers_model import load_without_weights, loading_problems

    try:
        _, report = load_without_weights(plan.config, plan.tensors, "the clone")
    except CheckpointError as error:  # the source's is valid, so the request is not
        hint = "Leave the numbers of heads and their size to the hidden size."
        raise RequestError(error.message, error.hint or hint) from None
    known = {f"unexpected tensor {name}" for name in unexpected}
    if problems := [problem for problem in loading_problems(report) if problem not in known]:
        raise CheckpointError(
            f"{plan.source.path}: transformers would not load its clone: {first_of(problems)}.",
            "The table of this architecture does not fit the checkpoint: please report it."
            if plan.request.family is None
            else f"The table of {plan.request.family} does not fit the checkpoint: choose another --family.",
        )
