"""Tiny checkpoints in the layouts in which quantised models are published, made of unquantised ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FP8_MOST = torch.finfo(torch.float8_e4m3fn).max
Tensors = dict[str, torch.Tensor]


def rewritten(src: Path, out: Path, change: Callable[[str, torch.Tensor], Tensors], **quantization: Any) -> Path:
    """Copy a checkpoint to `out`, with each tensor replaced by those that `change` makes of its name and numbers.

    quantization  what config.json says of it under quantization_config; nothing if there is none
    """
    shutil.copytree(src, out)
    tensors = load_file(out / "model.safetensors")
    made = [change(name, tensor) for name, tensor in tensors.items()]
    stored = {name: tensor.contiguous() for one in made for name, tensor in one.items()}
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    if quantization:
        config = json.loads((out / "config.json").read_text()) | {"quantization_config": quantization}
        (out / "config.json").write_text(json.dumps(config))
    return out


def is_linear(name: str, tensor: torch.Tensor) -> bool:
    """Whether quantisers take it for a linear layer: those outside the layers, and routers, they leave alone."""
    return tensor.dim() == 2 and ".layers." in name and not name.endswith("mlp.gate.weight")


def blocks_of(tensor: torch.Tensor, rows: int, columns: int) -> Iterator[tuple[int, int, torch.Tensor]]:
    """(row, column, numbers) of each block, from the first on; the last ones may be smaller."""
    for row in range(0, tensor.shape[0], rows):
        for column in range(0, tensor.shape[1], columns):
            yield row // rows, column // columns, tensor[row : row + rows, column : column + columns]


def fp8(tensor: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(numbers in FP8, scales of blocks): the largest magnitude of a block is the largest of FP8."""
    whole = tensor.float()
    scales = torch.empty(-(-whole.shape[0] // rows), -(-whole.shape[1] // columns))
    for row, column, block in blocks_of(whole, rows, columns):
        scales[row, column] = block.abs().max() / FP8_MOST
    spread = scales.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[: whole.shape[0], : whole.shape[1]]
    return (whole / spread).to(torch.float8_e4m3fn), scales


def fp8_blocks(src: Path, out: Path, rows: int, columns: int, stated: bool = True) -> Path:
    """As DeepSeek V3 and Qwen 3 are published: `weight_scale_inv` for blocks, which config.json states."""

    def change(name: str, tensor: torch.Tensor) -> Tensors:
        if not is_linear(name, tensor):
            return {name: tensor}
        numbers, scales = fp8(tensor, rows, columns)
        return {name: numbers, f"{name}_scale_inv": scales}

    block = {"weight_block_size": [rows, columns]} if stated else {}
    return rewritten(src, out, change, quant_method="fp8", activation_scheme="dynamic", fmt="e4m3", **block)


def fp8_tensors(src: Path, out: Path) -> Path:
    """As Ministral 3 is published: one scale for a tensor, and a measured one for its activations."""

    def change(name: str, tensor: torch.Tensor) -> Tensors:
        if not is_linear(name, tensor):
            return {name: tensor}
        numbers, scales = fp8(tensor, *tensor.shape)
        scale = {f"{name}_scale_inv": scales.view(()).bfloat16()}
        return {name: numbers, **scale, f"{name.removesuffix('weight')}activation_scale": torch.tensor(0.5)}

    return rewritten(src, out, change, quant_method="fp8", activation_scheme="static", weight_block_size=None)


def fp8_rows(src: Path, out: Path, method: str = "compressed-tensors", **scale_of: Any) -> Path:
    """As compressed-tensors and FBGEMM write it: `weight_scale` (rows, 1) for each row."""

    def change(name: str, tensor: torch.Tensor) -> Tensors:
        if not is_linear(name, tensor):
            return {name: tensor}
        numbers, scales = fp8(tensor, 1, tensor.shape[1])
        return {name: numbers, f"{name}_scale": scales.to(**scale_of)}

    return rewritten(src, out, change, quant_method=method, format="float-quantized", config_groups={})


def mxfp4(src: Path, out: Path) -> Path:
    """As gpt-oss is published: experts in groups of 32 numbers of four bits, two in a byte, and powers of two."""
    magnitudes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])

    def change(name: str, tensor: torch.Tensor) -> Tensors:
        if tensor.dim() != 3:
            return {name: tensor}
        rows = tensor.float().transpose(1, 2)
        groups = rows.reshape(*rows.shape[:2], -1, 32)
        powers = torch.floor(torch.log2(groups.abs().amax(-1).clamp_min(1e-30))) - 1
        scaled = groups / torch.exp2(powers)[..., None]
        codes = (scaled.abs()[..., None] - magnitudes).abs().argmin(-1) + 8 * (scaled < 0)
        pairs = codes[..., 0::2] + 16 * codes[..., 1::2]
        return {f"{name}_blocks": pairs.to(torch.uint8), f"{name}_scales": (powers + 127).to(torch.uint8)}

    return rewritten(src, out, change, quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn"])


def packed(numbers: torch.Tensor, bits: int, dim: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Unsigned integers (rows, columns) in words of 32 bits along `dim`.

    order  which number of each word lies in its lowest bits, the next, …; None: as they come
    """
    each = 32 // bits
    moved = numbers.movedim(dim, -1)
    moved = torch.nn.functional.pad(moved, (0, -moved.shape[-1] % each))
    words = torch.zeros(moved.shape[0], moved.shape[1] // each, dtype=torch.int64)
    for place, number in enumerate(order or range(each)):
        words |= moved[:, number::each].long() << (bits * place)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32).movedim(-1, dim)


def integers(tensor: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(numbers, zero points, scales in half precision) of a weight (rows, columns), in groups of columns."""
    groups = tensor.float().reshape(tensor.shape[0], -1, group)
    least, most = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
    scales = ((most - least) / (2**bits - 1)).half()
    zeros = (-least / scales.float()).round().clamp(1, 2**bits - 1)
    numbers = (groups / scales.float()[..., None] + zeros[..., None]).round().clamp(0, 2**bits - 1)
    return numbers.reshape(tensor.shape).long(), zeros.long(), scales


def gptq(src: Path, out: Path, bits: int = 4, act_order: bool = False, version: str = "gptq") -> Path:
    """As GPTQ is published: transposed, zero points one too small in its first version."""

    def change(name: str, tensor: torch.Tensor) -> Tensors:
        if not is_linear(name, tensor):
            return {name: tensor}
        columns = tensor.shape[1]
        order = torch.randperm(columns, generator=torch.Generator().manual_seed(5)) if act_order else None
        numbers, zeros, scales = integers(tensor if order is None else tensor[:, order], bits, 16)
        groups = torch.arange(columns) // 16
        if order is not None:
            numbers, groups = numbers[:, order.argsort()], groups[order.argsort()]
        module = name.removesuffix("weight")
        return {
            f"{module}qweight": packed(numbers.T, bits, 0),
            f"{module}qzeros": packed(zeros.T - int(version == "gptq"), bits, 1),
            f"{module}scales": scales.T,
            f"{module}g_idx": groups.int(),
        }

    stated = {"bits": bits, "group_size": 16, "desc_act": act_order, "checkpoint_format": version}
    return rewritten(src, out, change, quant_method="gptq", **stated)


def awq(src: Path, out: Path) -> Path:
    """As AWQ is published: transposed, rows of the weight in words in an order of its own."""

    def change(name: str, tensor: torch.Tensor) -> Tensors:
        if not is_linear(name, tensor):
            return {name: tensor}
        numbers, zeros, scales = integers(tensor, 4, 16)
        order, module = (0, 2, 4, 6, 1, 3, 5, 7), name.removesuffix("weight")
        words = {"qweight": packed(numbers.T, 4, 1, order), "qzeros": packed(zeros.T, 4, 1, order)}
        return {f"{module}{leaf}": found for leaf, found in (words | {"scales": scales.T}).items()}

    return rewritten(src, out, change, quant_method="awq", bits=4, group_size=16, version="gemm", zero_point=True)


def pack_quantised(src: Path, out: Path, bits: int = 4, symmetric: bool = True) -> Path:
    """As compressed-tensors writes integers of a few bits."""

    def change(name: str, tensor: torch.Tensor) -> Tensors:
        if not is_linear(name, tensor):
            return {name: tensor}
        numbers, zeros, scales = integers(tensor, bits, 16)
        points = {} if symmetric else {f"{name}_zero_point": packed(zeros, bits, 0)}
        shape = {f"{name}_shape": torch.tensor(tensor.shape)}
        return {f"{name}_packed": packed(numbers, bits, 1), f"{name}_scale": scales} | points | shape

    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": 16}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return rewritten(src, out, change, quant_method="compressed-tensors", format="pack-quantized", config_groups=groups)


def int8_rows(src: Path, out: Path) -> Path:
    """As bitsandbytes saves INT8: a row's largest magnitude is 127."""

    def change(name: str, tensor: torch.Tensor) -> Tensors:
        if not is_linear(name, tensor):
            return {name: tensor}
        most, module = tensor.float().abs().amax(1), name.removesuffix("weight")
        numbers = (tensor.float() / most[:, None] * 127).round().to(torch.int8)
        return {name: numbers, f"{module}SCB": most, f"{module}weight_format": torch.tensor(0, dtype=torch.uint8)}

    return rewritten(src, out, change, quant_method="bitsandbytes", load_in_8bit=True)


def nf4(src: Path, out: Path, nested: bool = True) -> Path:
    """As bitsandbytes saves four bits, its scales quantised once more or not."""
    values = torch.linspace(-1, 1, 16) ** 3
    outer = torch.linspace(-1, 1, 256)

    def change(name: str, tensor: torch.Tensor) -> Tensors:
        if not is_linear(name, tensor):
            return {name: tensor}
        flat = tensor.float().flatten()
        blocks = torch.nn.functional.pad(flat, (0, -len(flat) % 64)).view(-1, 64)
        scales = blocks.abs().amax(1)
        codes = ((blocks / scales[:, None])[..., None] - values).abs().argmin(-1).flatten()[: len(flat)]
        state: dict[str, Any] = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(tensor.shape)}
        parts = {"absmax": scales, "quant_map": values}
        if nested:
            offset = float(scales.mean())
            state |= {"nested_blocksize": 16, "nested_dtype": "float32", "nested_offset": offset}
            inner = torch.nn.functional.pad(scales - offset, (0, -len(scales) % 16)).view(-1, 16)
            coarse = inner.abs().amax(1)
            fine = ((inner / coarse[:, None])[..., None] - outer).abs().argmin(-1).flatten()[: len(scales)]
            parts |= {"absmax": fine.to(torch.uint8), "nested_absmax": coarse, "nested_quant_map": outer}
        text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        parts |= {"quant_state.bitsandbytes__nf4": text}
        pairs = (codes[0::2] * 16 + codes[1::2]).to(torch.uint8)[:, None]
        return {name: pairs} | {f"{name}.{part}": found.clone() for part, found in parts.items()}

    return rewritten(src, out, change, quant_method="bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4")
