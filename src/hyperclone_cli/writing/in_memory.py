"""`clone_model`: grow a model that is in memory, by the same plan and the same arithmetic as on disk."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from hyperclone_cli.checkpoint.json_config import check_readable
from hyperclone_cli.checkpoint.quantised.unpack import quantisation
from hyperclone_cli.checkpoint.row_io import STORED_DTYPES, TORCH_DTYPES, Read, put_rows
from hyperclone_cli.checkpoint.source import TensorSource, stored_tensors
from hyperclone_cli.checkpoint.transformers_model import (
    NOTHING_RUN,
    loading_problems,
    quiet_transformers,
    stock_config,
    weights_of,
)
from hyperclone_cli.errors import DEQUANTISE, CheckpointError, RequestError
from hyperclone_cli.growth.option import takes
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.planning.grown_tensor import GrownTensor
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.writing.arithmetic import grow_block
from hyperclone_cli.writing.block_loop import run_blocks, workers
from hyperclone_cli.writing.blocks import Block
from hyperclone_cli.writing.budget import plan_budget

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Model = TypeVar("Model", bound="PreTrainedModel")


@takes(Request, Mixing)
def clone_model(model: Model, request: Request | None = None, **options: Any) -> Model:
    """Return a larger model of the same class that computes the same function as `model`, which is only read.

    The request is `request`, or the keywords that make one. The tensors are bit for bit those that `expand` writes for
    it. Device, training or evaluation mode, and a copy of the generation config are taken from `model`. Memory: both
    models; if `model` is not on the CPU, the grown one is on the CPU until it is complete.

    Raises RequestError for a request that the architecture does not allow, CheckpointError if the model is of an
    unsupported architecture, quantised, or not entirely in memory, and TypeError for an unknown keyword.
    """
    asked = Request.of(request, options)
    if asked.text_only:
        raise RequestError("--text-only: clone_model returns a model of the class that it was given.", "Use expand.")
    plan = make_plan(open_model(model), asked)
    if plan.proposal.upcycling:
        raise RequestError(
            f"--num-experts {asked.num_experts}: clone_model returns a model of the class that it was given, which has"
            " no experts.",
            "Use expand.",
        )
    stock_config(plan.config, "the clone")
    grown = _load_like(model, plan)
    if plan.request.dtype is None:
        _take_dtypes(grown, model, plan)
    if model.can_generate():
        grown.generation_config = deepcopy(model.generation_config)
    grown.train(model.training)
    grown.to(model.device)
    return grown


def open_model(model: PreTrainedModel) -> TensorSource:
    """A loaded model as a checkpoint, with the names and the layout that it has on disk. Copies no weights.

    Raises CheckpointError if the model is quantised, or not entirely in memory.
    """
    config = model.config.to_dict()
    check_readable(config)
    path = Path(type(model).__name__)
    if stated := quantisation(config):
        method = stated.get("quant_method", "unknown")
        raise CheckpointError(f"{path}: the model is quantised (quant_method {str(method)!r}).", DEQUANTISE)
    absent = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if absent:
        raise CheckpointError(f"{path}: tensor {absent[0]!r} is not in memory.", "Load the model without offloading.")
    weights = weights_of(model)
    return TensorSource(path, config, stored_tensors(path, weights), weights)


def grow_tensors(plan: Plan) -> dict[str, torch.Tensor]:
    """Every tensor of a plan, whole, on the CPU."""
    with plan.source.rows() as read:
        return grow_whole(plan.tensors, read)


def grow_whole(tensors: Sequence[GrownTensor], read: Read) -> dict[str, torch.Tensor]:
    """Planned tensors by name, each whole, on the CPU, grown from the rows that `read` gives."""
    grown = {tensor.name: torch.empty(tensor.shape, dtype=STORED_DTYPES[tensor.dtype]) for tensor in tensors}
    stored = stored_tensors(Path(), grown)
    budget = plan_budget({tensor.kind for tensor in tensors})

    def fill(block: Block, rows: torch.Tensor, noise_power: float) -> None:
        name = block.tensor.name
        for place, data in grow_block(block, rows, noise_power):
            put_rows(grown[name], block.tensor.like(stored[name]), place, data)

    with workers(budget.threads) as executor:
        for _ in run_blocks(tensors, read, executor, budget, fill):
            pass
    return grown


def _load_like(model: Model, plan: Plan) -> Model:
    """A model of the class of `model` with the plan's config and tensors, loaded by transformers as from disk."""
    with quiet_transformers():
        grown: Model
        grown, report = type(model).from_pretrained(
            None,
            config=type(model.config).from_dict(dict(plan.config)),
            state_dict=grow_tensors(plan),
            dtype=reduce(
                torch.promote_types, {TORCH_DTYPES[tensor.dtype] for tensor in plan.tensors if not tensor.kept}
            ),
            attn_implementation=model.config._attn_implementation,
            output_loading_info=True,
            **NOTHING_RUN,
        )
    if problems := loading_problems(report):
        raise CheckpointError(f"{plan.source.path}: transformers cannot load the grown tensors: {problems[0]}.")
    grown.name_or_path = grown.config.name_or_path = ""  # transformers sets "None", as a path
    return grown


def _take_dtypes(grown: PreTrainedModel, model: PreTrainedModel, plan: Plan) -> None:
    """Give every parameter and buffer its dtype in `model`; `from_pretrained` loads all in the widest."""

    def copied(name: str) -> str:
        """The name in `model` of what was copied, which may be of a layer with another number."""
        layer = plan.family.tensor_names.layer_of(name)
        return name if layer is None else name.replace(f".{layer}.", f".{plan.order[layer].source}.", 1)

    for name, parameter in grown.named_parameters():
        parameter.data = parameter.data.to(model.get_parameter(copied(name)).dtype)
    for name, buffer in grown.named_buffers():
        buffer.data = buffer.data.to(model.get_buffer(copied(name)).dtype)
