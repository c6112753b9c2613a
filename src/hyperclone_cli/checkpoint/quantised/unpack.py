"""Which tensors are quantised: found by names, dtypes and shapes, for config.json may be out of date."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperclone_cli.checkpoint.quantised.bitsandbytes import four_bits, state_of
from hyperclone_cli.checkpoint.quantised.four_bits import mxfp4
from hyperclone_cli.checkpoint.quantised.integers import gptq_or_awq, pack_quantised
from hyperclone_cli.checkpoint.quantised.packed import Packed
from hyperclone_cli.checkpoint.quantised.scaled import INT8_STEP, scaled
from hyperclone_cli.checkpoint.safetensors_file import FLOAT_DTYPES, StoredTensor
from hyperclone_cli.errors import CheckpointError, first_of

_STATED_AS = ("quantization_config", "compression_config")
"""Keys of config.json that say how the weights are quantised; the second was compressed-tensors' at first."""

_FP8 = ("F8_E4M3", "F8_E5M2")
_SCALES = ("weight_scale_inv", "weight_scale", "scale", "qscale_weight")
"""Names of the scales beside a `weight`; of another parameter, the first two with its name for `weight`."""

_PACKED_PARTS = ("qzeros", "scales", "g_idx", "weight_scale", "weight_zero_point", "weight_g_idx")

_LEFT_OVER = re.compile(
    r"\.((input|output|activation|act|[kqv]|kv|prob)(_proj\.\w+)?_(global_)?scale(_inv)?|weight_format|weight_shape)$"
)
"""Names of what quantised kernels need beside the weights: scales of activations, a mark of bitsandbytes, a shape."""

_SCALE = re.compile(r"[._](weight_scale(_inv|_2)?|scales|qzeros|absmax|quant_map|weight_zero_point)$")
"""Names of the other parts of quantised tensors."""

_INTEGERS = ("I32", "I16", "I8", "U8", *_FP8, "F8_E8M0")


@dataclass(frozen=True)
class Unpacked:
    """A checkpoint as if it were not quantised: config.json without a word of it, tensors, and notes for the user."""

    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    notes: tuple[str, ...]


def unpack(
    config: Mapping[str, Any],
    tensors: Mapping[str, StoredTensor],
    path: Path,
    contents: Callable[[StoredTensor], bytes],
    dtype: str | None = None,
) -> Unpacked:
    """The checkpoint at `path` with each quantised tensor in place of those that it is stored as.

    contents  reads a small tensor, which some schemes have their shapes in
    dtype     torch's name of what they are dequantised to; None: that of config.json, or bfloat16

    Raises CheckpointError for a quantised checkpoint that cannot be read from its tensors alone.
    """
    stated = quantisation(config)
    dtype = dtype or stated_dtype(config)
    block = _stated_block(stated)
    found: dict[str, StoredTensor] = {}
    quantised = any(tensor.dtype in _INTEGERS for tensor in tensors.values())  # each scheme has parts of such a dtype
    for name, tensor in tensors.items() if quantised else ():
        unpacked = (
            four_bits(name, tensors, contents)
            or _integers(name, tensors, stated)
            or _scaled(name, tensor, tensors, block)
        )
        if unpacked:
            packed, whole, shape = unpacked
            found[whole] = StoredTensor(whole, FLOAT_DTYPES[dtype], shape, tensor.path, 0, packed=packed)
    used = {part.name for one in found.values() if one.packed for part in one.packed.parts}
    used |= {state.name for name in found if (state := state_of(name, tensors))}
    left = [name for name in tensors if found and name not in used and _LEFT_OVER.search(name)]
    used.update(left)
    others = {name: tensor for name, tensor in tensors.items() if name not in used}
    if stated or found:
        _check_understood(others, stated, path)
    plain = {key: _without(value) for key, value in config.items() if key not in _STATED_AS}
    return Unpacked(plain, others | found, _notes(found, left, stated, dtype))


def quantisation(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What config.json, or the text model's part of it, says of quantisation; empty if nothing."""
    parts = [config, config.get("text_config")]
    stated = [part[key] for part in parts if isinstance(part, Mapping) for key in _STATED_AS if part.get(key)]
    return stated[0] if stated and isinstance(stated[0], Mapping) else {"quant_method": "unknown"} if stated else {}


def stated_dtype(config: Mapping[str, Any]) -> str:
    """The dtype that config.json states, or that of its text model, where it is one of floats; else bfloat16."""
    parts = [config, config.get("text_config")]
    named = [part.get(key) for part in parts if isinstance(part, Mapping) for key in ("dtype", "torch_dtype")]
    return next((name for name in named if isinstance(name, str) and name in FLOAT_DTYPES), "bfloat16")


def _without(value: Any) -> Any:
    return {key: one for key, one in value.items() if key not in _STATED_AS} if isinstance(value, Mapping) else value


def _stated_block(stated: Mapping[str, Any]) -> tuple[int, int] | None:
    block = stated.get("weight_block_size")
    if isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block):
        return block[0], block[1]
    return None


def _integers(
    name: str, tensors: Mapping[str, StoredTensor], stated: Mapping[str, Any]
) -> tuple[Packed, str, tuple[int, ...]] | None:
    """The same as `_scaled` of numbers that are packed in words."""
    module, _, leaf = name.rpartition(".")
    part = {one: tensors.get(f"{module}.{one}") for one in _PACKED_PARTS}
    if (
        leaf == "qweight"
        and stated.get("version", "gemm") == "gemm"
        and (zeros := part["qzeros"])
        and (scales := part["scales"])
    ):
        made, shape = gptq_or_awq(tensors[name], zeros, scales, part["g_idx"], str(stated.get("checkpoint_format")))
    elif leaf == "weight_packed" and (scales := part["weight_scale"]) and (bits := _stated_bits(stated)):
        made, shape = pack_quantised(tensors[name], scales, part["weight_zero_point"], part["weight_g_idx"], bits)
    else:
        return None
    return made, f"{module}.weight", shape


def _stated_bits(stated: Mapping[str, Any]) -> int | None:
    """Bits of an integer, where compressed-tensors states the same for all groups of layers that have integers."""
    groups = stated.get("config_groups")
    named = groups.values() if isinstance(groups, Mapping) else ()
    weights = [one.get("weights") for one in named if isinstance(one, Mapping)]
    bits = {one.get("num_bits") for one in weights if isinstance(one, Mapping) and one.get("type") == "int"}
    return bits.pop() if len(bits) == 1 and bits <= {2, 4, 8} else None


def _scaled(
    name: str, tensor: StoredTensor, tensors: Mapping[str, StoredTensor], block: tuple[int, int] | None
) -> tuple[Packed, str, tuple[int, ...]] | None:
    """(how it is stored, name, shape) of the tensor that this one is the first part of; None if it is of no other."""
    base = name.removesuffix("_blocks")
    if base != name and f"{base}_scales" in tensors and tensor.dtype == "U8":
        packed, shape = mxfp4(tensor, tensors[f"{base}_scales"])
        return packed, base, shape
    if tensor.dtype not in (*_FP8, "I8") or len(tensor.shape) < 2:
        return None
    module, _, leaf = name.rpartition(".")
    if tensor.dtype == "I8" and leaf == "weight" and f"{module}.SCB" in tensors:
        return scaled(tensor, [tensors[f"{module}.SCB"]], None, INT8_STEP), name, tensor.shape
    named = _SCALES if leaf == "weight" else [scale.replace("weight", leaf) for scale in _SCALES[:2]]
    scales = [tensors[f"{module}.{scale}"] for scale in named if f"{module}.{scale}" in tensors]
    if not scales and tensor.dtype == "I8":
        return None
    zeros = [tensors[zero] for zero in [f"{name}_zero_point"] if scales and zero in tensors]
    return scaled(tensor, [*scales[:1], *zeros], block), name, tensor.shape


def _check_understood(others: Mapping[str, StoredTensor], stated: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError for a part of a quantised tensor that is left."""
    method = stated.get("quant_method", "unknown")
    for name, tensor in others.items():
        if tensor.dtype in _INTEGERS and len(tensor.shape) in (2, 3):
            raise CheckpointError(
                f"{path}: quantised (quant_method {method!r}) in a way that cannot be undone from its tensors alone:"
                f" {name!r} is {tensor.dtype} of shape {list(tensor.shape)}.",
                "Use the weights that it was quantised from.",
            )
        if _SCALE.search(name):
            raise CheckpointError(
                f"{path}: {name!r} is for weights that are quantised, and no such weights lie beside it.",
                "If they were dequantised already, leave the scales out of the file (and of its index).",
            )


def _notes(
    found: Mapping[str, StoredTensor], left: Sequence[str], stated: Mapping[str, Any], dtype: str
) -> tuple[str, ...]:
    method = stated.get("quant_method", "no word of it in config.json")
    notes = []
    if found:
        notes.append(
            f"Quantised ({method}): {len(found)} tensors are dequantised to {dtype} as their rows are read, and written"
            " unquantised; --dtype chooses another dtype."
        )
    elif stated:
        notes.append(f"config.json says quantised ({method}), and no tensor is: the clone's does not say it.")
    if left:
        notes.append(f"Not written, for quantised kernels alone use them: {first_of(left)}.")
    return tuple(notes)
