"""A loaded model in, a grown one out, by the same tables and the same arithmetic as on disk."""

from __future__ import annotations

from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, Unpack

import torch

from hyperclone_cli.checkpoint.json_config import check_config, check_readable
from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES, put_rows
from hyperclone_cli.checkpoint.source import TensorSource, stored_tensors
from hyperclone_cli.checkpoint.transformers_model import loading_problems, quiet_transformers, weights_of
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.growth.options import GrowthOptions, request
from hyperclone_cli.planning.planner import Plan, make_plan
from hyperclone_cli.writing.arithmetic import grow_block
from hyperclone_cli.writing.blocks import Block
from hyperclone_cli.writing.budget import plan_budget
from hyperclone_cli.writing.loop import run_blocks, workers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Model = TypeVar("Model", bound="PreTrainedModel")


def clone_model(model: Model, **options: Unpack[GrowthOptions]) -> Model:
    """A larger model of the same class that computes the same function; `model` itself is only read.

    Its tensors are those that `expand` writes for the same `options` (GrowthOptions), bit for bit. It
    is on the same device and in the same mode, training or evaluation, and has a copy of the generation
    config. Memory: both models, and where `model` is not on the CPU the grown one there for a while.

    Raises RequestError for options that the architecture cannot meet, and CheckpointError for a model
    of another architecture, a quantised one, or one whose weights are not in memory.
    """
    plan = make_plan(open_model(model), request(**options))
    check_config(plan.config)
    grown = _load_like(model, plan)
    if plan.request.dtype is None:
        _take_dtypes(grown, model)
    if model.can_generate():
        grown.generation_config = deepcopy(model.generation_config)
    grown.train(model.training)
    grown.to(model.device)
    return grown


def open_model(model: PreTrainedModel) -> TensorSource:
    """What a loaded model holds, in the names and the layout of a checkpoint on disk. Copies no weights.

    Raises CheckpointError for a quantised model, or one whose weights are not in memory.
    """
    config = model.config.to_dict()
    check_readable(config)
    path = Path(type(model).__name__)
    absent = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if absent:
        raise CheckpointError(f"{path}: tensor {absent[0]!r} is not in memory.", "Load the model without offloading.")
    weights = weights_of(model)
    return TensorSource(path, config, stored_tensors(path, weights), weights)


def grow_tensors(plan: Plan) -> dict[str, torch.Tensor]:
    """Every tensor of a plan, whole, on the CPU."""
    grown = {tensor.name: torch.empty(tensor.shape, dtype=TORCH_DTYPES[tensor.dtype]) for tensor in plan.tensors}
    stored = stored_tensors(plan.source.path, grown)
    budget = plan_budget(plan.tensors)

    def fill(block: Block, rows: torch.Tensor, noise_power: float) -> None:
        name = block.tensor.name
        for place, data in grow_block(block, rows, noise_power):
            put_rows(grown[name], block.tensor.like(stored[name]), place, data)

    with plan.source.rows() as read, workers(budget.threads) as executor:
        for _ in run_blocks(plan.tensors, read, executor, budget, fill):
            pass
    return grown


def _load_like(model: Model, plan: Plan) -> Model:
    """A model like `model` with the plan's config and tensors: transformers makes it, as it would from disk."""
    with quiet_transformers():
        grown: Model
        grown, report = type(model).from_pretrained(
            None,
            config=type(model.config).from_dict(dict(plan.config)),
            state_dict=grow_tensors(plan),
            dtype=reduce(torch.promote_types, {TORCH_DTYPES[tensor.dtype] for tensor in plan.tensors}),
            attn_implementation=model.config._attn_implementation,
            output_loading_info=True,
        )
    if problems := loading_problems(report):
        raise CheckpointError(f"{plan.source.path}: transformers cannot load the grown tensors: {problems[0]}.")
    grown.name_or_path = grown.config.name_or_path = ""  # it came from no path, which is not one called "None"
    return grown


def _take_dtypes(grown: PreTrainedModel, model: PreTrainedModel) -> None:
    """Give every parameter and buffer the dtype of its namesake; `from_pretrained` loads all in the widest."""
    for name, parameter in grown.named_parameters():
        parameter.data = parameter.data.to(model.get_parameter(name).dtype)
    for name, buffer in grown.named_buffers():
        buffer.data = buffer.data.to(model.get_buffer(name).dtype)
