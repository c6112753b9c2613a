"""Quantised sources: the clone is that of the model that transformers makes of them when it dequantises."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config
from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from hyperclone_cli import expand, plan, verify
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.growth.request import Dtype, Request
from support import models, quantised

DOUBLE = Request(embed_mult=2, ffn_mult=2)

FP8 = FineGrainedFP8Config(dequantize=True, weight_block_size=(16, 16))
FOURS = FineGrainedFP8Config(dequantize=True, weight_block_size=(4, 4))
TENSORS = FineGrainedFP8Config(dequantize=True, weight_block_size=None, activation_scheme="static")

SCHEMES: dict[str, tuple[str, dict[str, Any], Callable[[Path, Path], Path], Any, str]] = {
    "FP8 in blocks": ("qwen3", {}, lambda src, out: quantised.fp8_blocks(src, out, 16, 16), FP8, "14 tensors"),
    "FP8 in oblong blocks": ("qwen3", {}, lambda src, out: quantised.fp8_blocks(src, out, 8, 16), FP8, "14 tensors"),
    "FP8, blocks not stated": (
        "llama-gqa-tied",
        {},
        lambda src, out: quantised.fp8_blocks(src, out, 16, 16, stated=False),
        FP8,
        "14 tensors",
    ),
    "FP8 of DeepSeek": (
        "deepseek_v3",
        {},
        lambda src, out: quantised.fp8_blocks(src, out, 4, 4),
        FOURS,
        "tensors are dequantised to bfloat16",
    ),
    "FP8, one scale a tensor": ("ministral3", {}, quantised.fp8_tensors, TENSORS, "14 tensors"),
    "MXFP4": (
        "gpt_oss",
        {"hidden_size": 64, "intermediate_size": 96},
        quantised.mxfp4,
        Mxfp4Config(dequantize=True),
        "4 tensors",
    ),
}


def dequantised(src: Path, unquantised: Path, config: Any, out: Path) -> Path:
    """The checkpoint that transformers writes of the model that it dequantises."""
    found, report = AutoModelForCausalLM.from_pretrained(
        src, quantization_config=config, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not any(report.values()), report
    model = AutoModelForCausalLM.from_pretrained(unquantised, dtype=torch.bfloat16)
    model.load_state_dict(found.state_dict())
    model.save_pretrained(out)
    return out


@pytest.mark.parametrize("variant, changes, quantise, config, words", SCHEMES.values(), ids=list(SCHEMES))
def test_the_clone_is_that_of_the_model_that_transformers_dequantises(
    variant: str,
    changes: dict[str, Any],
    quantise: Callable[[Path, Path], Path],
    config: Any,
    words: str,
    tmp_path: Path,
) -> None:
    plain = models.build(variant, tmp_path / "plain", torch.bfloat16, **changes)
    src = quantise(plain, tmp_path / "src")
    expected = dequantised(src, plain, config, tmp_path / "expected")
    made = expand(src, tmp_path / "clone", DOUBLE)
    expand(expected, tmp_path / "other", DOUBLE)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("clone", "other"))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert "quantization_config" not in json.loads((tmp_path / "clone" / "config.json").read_text())
    assert any(words in note for note in made.notes)
    models.assert_same_function(expected, tmp_path / "clone")


def read_rows(path: Path, name: str, **changes: Any) -> torch.Tensor:
    """All rows of a tensor, read in three parts."""
    source = open_source(path)
    stored: StoredTensor = source.tensors[name]._replace(**changes)
    count = stored.shape[0] if not stored.stack else stored.stack[0] * stored.stack[-1 if stored.transposed else 1]
    cuts = [0, count // 3, count // 2, count]
    with source.rows() as read:
        return torch.cat([read(stored, start, stop) for start, stop in pairwise(cuts) if start < stop])


NAME = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def fp8_of(tmp_path: Path) -> Callable[..., Path]:
    """`fp8_of(weight, scale)`: a checkpoint whose first down_proj is `weight` in FP8, with other tensors' scales."""
    plain = models.build("qwen3", tmp_path / "plain", torch.bfloat16)

    def make(weight: torch.Tensor, scale: torch.Tensor | None, suffix: str = "_scale_inv", **stated: Any) -> Path:
        scales = {} if scale is None else {f"{NAME}{suffix}": scale}
        changed = {NAME: weight} | scales
        return quantised.rewritten(
            plain, tmp_path / "src", lambda name, tensor: changed if name == NAME else {name: tensor}, **stated
        )

    return make


def random_fp8(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn)


GRIDS: dict[str, tuple[tuple[int, ...], tuple[int, ...], list[int], str]] = {
    "DeepSeek's kv_a_proj_with_mqa": ((576, 256), (5, 2), [128, 128], "_scale_inv"),
    "ragged on both sides": ((200, 330), (2, 3), [128, 128], "_scale_inv"),
    "smaller than a block": ((40, 24), (1, 1), [128, 128], "_scale_inv"),
    "groups in a row": ((48, 80), (48, 5), [1, 16], "_scale"),
    "one of a row": ((48, 80), (48, 1), [1, 80], "_scale"),
    "one of a row, flat": ((48, 80), (48,), [1, 80], "_scale"),
    "one": ((48, 80), (1,), [48, 80], "_scale"),
    "one without dimensions": ((48, 80), (), [48, 80], "_scale"),
}


@pytest.mark.parametrize("shape, grid, block, suffix", GRIDS.values(), ids=list(GRIDS))
@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16], ids=["F32", "BF16"])
def test_every_grid_of_scales_is_read_as_transformers_reads_it(
    shape: tuple[int, ...],
    grid: tuple[int, ...],
    block: list[int],
    suffix: str,
    scale_dtype: torch.dtype,
    fp8_of: Callable[..., Path],
) -> None:
    numbers, scales = random_fp8(*shape), (torch.rand(grid) + 0.1).to(scale_dtype)
    stated = {"weight_block_size": [128, 128]} if block == [128, 128] else {}
    src = fp8_of(numbers, scales, suffix, quant_method="fp8", **stated)
    square = scales.view(-1, 1) if len(grid) < 2 else scales
    expected = _dequantize_fp8_weight(numbers, square, block, torch.float32).bfloat16()
    assert torch.equal(read_rows(src, NAME), expected)
    columns = read_rows(src, NAME, transposed=True, stack=(1, *shape))
    assert torch.equal(columns, expected.T)


def test_a_stack_of_matrices_has_scales_for_each(fp8_of: Callable[..., Path]) -> None:
    numbers, scales = random_fp8(3, 20, 24), torch.rand(3, 2, 2) + 0.1
    src = fp8_of(numbers, scales, quant_method="fp8", weight_block_size=[16, 16])
    expected = _dequantize_fp8_weight(numbers, scales, [16, 16], torch.float32).bfloat16()
    assert torch.equal(read_rows(src, NAME), expected)
    assert torch.equal(read_rows(src, NAME, stack=(3, 20, 24)), expected.flatten(0, 1))
    assert torch.equal(read_rows(src, NAME, stack=(3, 20, 24), transposed=True), expected.transpose(1, 2).flatten(0, 1))


def test_mxfp4_is_read_as_transformers_reads_it_in_both_directions(tmp_path: Path) -> None:
    every = torch.arange(256, dtype=torch.uint8).repeat(3).view(2, 12, 2, 16)
    scales = torch.tensor([1, 100, 126, 127, 128, 200], dtype=torch.uint8).repeat(8).view(2, 12, 2)
    plain = models.build("gpt_oss", tmp_path / "plain", torch.bfloat16)
    name = "model.layers.0.mlp.experts.down_proj"
    stored = {f"{name}_blocks": every, f"{name}_scales": scales}
    src = quantised.rewritten(plain, tmp_path / "src", lambda one, tensor: stored if one == name else {one: tensor})
    expected = convert_moe_packed_tensors(every, scales)
    assert torch.equal(read_rows(src, name), expected)
    matrices = {"stack": (2, 64, 12)}
    assert torch.equal(read_rows(src, name, **matrices), expected.flatten(0, 1))
    assert torch.equal(read_rows(src, name, **matrices, transposed=True), expected.transpose(1, 2).flatten(0, 1))


def test_no_number_of_a_quantised_source_is_refused_and_what_is_not_finite_is_named(
    fp8_of: Callable[..., Path], tmp_path: Path
) -> None:
    numbers, scales = random_fp8(48, 80), torch.full((3, 5), 0.5)
    numbers[1, 1] = torch.nan
    scales[0, 0], scales[0, 1], scales[1, 0], scales[2, 0] = 0.0, -1.0, torch.inf, torch.nan
    src = fp8_of(numbers, scales, quant_method="fp8", weight_block_size=[16, 16])
    expected = _dequantize_fp8_weight(numbers, scales, [16, 16], torch.float32).bfloat16()
    assert torch.equal(read_rows(src, NAME).view(torch.int16), expected.view(torch.int16))
    made = expand(src, tmp_path / "clone", DOUBLE)
    assert any(NAME in note and "NaN or Inf" in note for note in made.notes)


def test_fp8_without_scales_is_taken_as_it_is(fp8_of: Callable[..., Path]) -> None:
    numbers = random_fp8(48, 80)
    assert torch.equal(read_rows(fp8_of(numbers, None), NAME), numbers.bfloat16())


def test_parts_may_lie_in_other_shards_and_in_pickles(tmp_path: Path) -> None:
    plain = models.build("qwen3", tmp_path / "plain", torch.bfloat16)
    single = quantised.fp8_blocks(plain, tmp_path / "single", 16, 16)
    tensors = load_file(single / "model.safetensors")
    sharded, pickled = (shutil.copytree(single, tmp_path / name) for name in ("sharded", "pickled"))
    for path in (sharded, pickled):
        (path / "model.safetensors").unlink()
    torch.save(tensors, pickled / "pytorch_model.bin")
    shards = {name: f"model-0000{1 + name.endswith('_inv')}-of-00002.safetensors" for name in tensors}
    for shard in set(shards.values()):
        save_file({name: tensors[name] for name in tensors if shards[name] == shard}, sharded / shard)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    expected = read_rows(single, NAME)
    assert torch.equal(read_rows(sharded, NAME), expected)
    assert torch.equal(read_rows(pickled, NAME), expected)


@pytest.mark.parametrize("stated, dtype", [("bfloat16", None), ("float16", None), ("float32", "float16"), (None, None)])
def test_the_dtype_is_the_requests_or_else_that_of_the_config(
    stated: str | None, dtype: Dtype | None, tmp_path: Path
) -> None:
    plain = models.edited(models.build("qwen3", tmp_path / "plain"), tmp_path / "other", dtype=stated)
    src = quantised.fp8_blocks(plain, tmp_path / "src", 16, 16)
    made = plan(src, replace(DOUBLE, dtype=dtype))
    expected = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[dtype or stated or "bfloat16"]
    assert made.source.tensors[NAME].dtype == expected
    assert {tensor.dtype for tensor in made.tensors if tensor.source.name == NAME} == {expected}


def test_a_clone_is_verified_against_the_dequantised_source(tmp_path: Path) -> None:
    plain = models.build("llama-gqa-tied", tmp_path / "plain", torch.bfloat16)
    src = quantised.fp8_blocks(plain, tmp_path / "src", 16, 16)
    expand(src, tmp_path / "clone", DOUBLE)
    report = verify(tmp_path / "clone")
    assert report.passed
    assert report.logits
    assert report.logits.relative_error <= 1e-5
    tensors = load_file(tmp_path / "clone" / "model.safetensors")
    tensors["model.norm.weight"] *= 1.01
    save_file(tensors, tmp_path / "clone" / "model.safetensors", metadata={"format": "pt"})
    assert not verify(tmp_path / "clone").passed


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_config_that_still_says_quantised_is_noticed(key: str, tmp_path: Path) -> None:
    """As vendors' scripts leave it, which cast the weights and copy config.json as it is."""
    src = models.build("qwen3", tmp_path / "plain", torch.bfloat16)
    src = quantised.rewritten(src, tmp_path / "src", lambda name, tensor: {name: tensor})
    stale = {key: {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    (src / "config.json").write_text(json.dumps(json.loads((src / "config.json").read_text()) | stale))
    made = expand(src, tmp_path / "clone", DOUBLE)
    note = "config.json says quantised (fp8), and no tensor is: the clone's does not say it."
    assert note in made.notes
    assert key not in json.loads((tmp_path / "clone" / "config.json").read_text())
    models.assert_same_function(tmp_path / "plain", tmp_path / "clone")


def to_codes(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return (
        {f"{name.removesuffix('weight')}codes": torch.zeros(4, 4, 2, dtype=torch.int8)}
        if name == NAME
        else {name: tensor}
    )


def four_bits(**changes: Any) -> Callable[[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A weight of bitsandbytes, with changes to what it says of itself."""
    state = {"shape": [48, 80], "blocksize": 64} | changes
    parts = {
        "absmax": torch.ones(60),
        "quant_map": torch.ones(16),
        "quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }
    stored = {NAME: torch.zeros(1920, 1, dtype=torch.uint8)} | {f"{NAME}.{part}": one for part, one in parts.items()}
    return lambda name, tensor: stored if name == NAME else {name: tensor}


REFUSED: dict[str, tuple[Callable[[str, torch.Tensor], dict[str, torch.Tensor]], dict[str, Any], str]] = {
    "a scheme that is not read": (
        to_codes,
        {"quant_method": "aqlm"},
        r"quantised \(quant_method 'aqlm'\) in a way .*down_proj.codes' is I8 of shape \[4, 4, 2\]",
    ),
    "scales of other weights": (
        lambda name, tensor: (
            {name: random_fp8(48, 80), f"{name}_scale_inv": torch.ones(7, 5)} if name == NAME else {name: tensor}
        ),
        {"quant_method": "fp8", "weight_block_size": [16, 16]},
        r"down_proj.weight_scale_inv': scales of shape \[7, 5\] do not fit weights of \[48, 80\] in blocks of 16 × 16",
    ),
    "scales beside weights that were dequantised": (
        lambda name, tensor: {name: tensor} | ({f"{name}_scale_inv": torch.ones(3, 5)} if name == NAME else {}),
        {"quant_method": "fp8"},
        "is for weights that are quantised, and no such weights lie beside it",
    ),
    "four bits of another shape": (four_bits(shape=[48, 81]), {}, "shape 48 × 81 does not fit the other parts"),
    "four bits of an absurd shape": (four_bits(shape=[10**30, 80]), {}, "does not fit the other parts"),
    "four bits of no shape": (four_bits(shape=None), {}, "damaged, or not of bitsandbytes"),
    "four bits in blocks of nothing": (four_bits(blocksize=0), {}, "blocks"),
    "four bits and a wild offset": (four_bits(nested_offset=1e999), {}, "offset inf"),
    "blocks without end": (
        lambda name, tensor: (
            {name: random_fp8(48, 80), f"{name}_scale_inv": torch.ones(7, 5)} if name == NAME else {name: tensor}
        ),
        {"quant_method": "fp8", "weight_block_size": [10**30, 0]},
        "do not fit weights",
    ),
}


@pytest.mark.parametrize("change, stated, words", REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_dequantised_is_named(
    change: Callable[[str, torch.Tensor], dict[str, torch.Tensor]], stated: dict[str, Any], words: str, tmp_path: Path
) -> None:
    plain = models.build("qwen3", tmp_path / "plain", torch.bfloat16)
    src = quantised.rewritten(plain, tmp_path / "src", change, **stated)
    with pytest.raises(CheckpointError, match=words):
        plan(src, DOUBLE)


def by_formula(src: Path) -> torch.Tensor:
    """NAME of a checkpoint whose integers are packed, a number at a time, as the layouts' own descriptions have it."""
    module = NAME.removesuffix("weight")
    found = {name.removeprefix(module): one for name, one in load_file(src / "model.safetensors").items()}
    stated = json.loads((src / "config.json").read_text())["quantization_config"]
    method = stated["quant_method"]
    if method == "bitsandbytes" and "load_in_4bit" in stated:
        scales = found["weight.absmax"]
        state = json.loads(bytes(found["weight.quant_state.bitsandbytes__nf4"].tolist()))
        if "nested_offset" in state:
            coarse = found["weight.nested_absmax"].repeat_interleave(state["nested_blocksize"])[: len(scales)]
            scales = found["weight.nested_quant_map"][scales.long()] * coarse + state["nested_offset"]
        codes = [half for byte in found["weight"].flatten().tolist() for half in (byte >> 4, byte & 15)]
        numbers = [found["weight.quant_map"][code] * scales[place // 64] for place, code in enumerate(codes)]
        return torch.stack(numbers).view(48, 80).bfloat16()
    if method == "bitsandbytes":
        return (found["weight"].float() * found["SCB"][:, None] * 7.874015718698502e-3).bfloat16()
    bits = stated["bits"] if "bits" in stated else stated["config_groups"]["group_0"]["weights"]["num_bits"]
    each, most = 32 // bits, 2**bits - 1

    def number(words: torch.Tensor, row: int, column: int, dim: int) -> int:
        place = (row, column)[dim] % each
        place = (0, 4, 1, 5, 2, 6, 3, 7)[place] if method == "awq" else place
        word = words[row // each, column] if dim == 0 else words[row, column // each]
        stored: int = (int(word) >> (bits * place)) & most
        return stored

    expected = torch.empty(48, 80)
    for row in range(48):
        for column in range(80):
            group = int(found["g_idx"][column]) if method == "gptq" else column // 16
            if method == "compressed-tensors":
                zero = (
                    number(found["weight_zero_point"], row, group, 0) if "weight_zero_point" in found else 1 << bits - 1
                )
                stored, scale = number(found["weight_packed"], row, column, 1), found["weight_scale"][row, group]
            else:
                stored = number(found["qweight"], column, row, 0 if method == "gptq" else 1)
                zero = number(found["qzeros"], group, row, 1) + (stated.get("checkpoint_format") == "gptq")
                scale = found["scales"][group, row]
            expected[row, column] = (stored - zero) * (scale if method == "compressed-tensors" else scale.float())
    return expected.bfloat16()


PACKED: dict[str, tuple[Callable[[Path, Path], Path], float]] = {
    "GPTQ": (quantised.gptq, 0.1),
    "GPTQ, by activations": (lambda src, out: quantised.gptq(src, out, act_order=True), 0.1),
    "GPTQ v2 of 8 bits": (lambda src, out: quantised.gptq(src, out, 8, version="gptq_v2"), 0.01),
    "GPTQ of 2 bits": (lambda src, out: quantised.gptq(src, out, 2), 0.6),
    "AWQ": (quantised.awq, 0.1),
    "compressed-tensors": (lambda src, out: quantised.pack_quantised(src, out, symmetric=False), 0.1),
    "compressed-tensors of 8 bits": (lambda src, out: quantised.pack_quantised(src, out, 8, symmetric=False), 0.01),
    "compressed-tensors, symmetric": (quantised.pack_quantised, 2.0),
    "INT8 of bitsandbytes": (quantised.int8_rows, 0.01),
    "NF4 of bitsandbytes": (quantised.nf4, 0.2),
    "NF4, scales as they are": (lambda src, out: quantised.nf4(src, out, nested=False), 0.2),
}


@pytest.mark.parametrize("quantise, error", PACKED.values(), ids=list(PACKED))
def test_packed_integers_are_what_their_formula_makes_of_them(
    quantise: Callable[[Path, Path], Path], error: float, tmp_path: Path
) -> None:
    plain = models.build("qwen3", tmp_path / "plain", torch.bfloat16)
    src = quantise(plain, tmp_path / "src")
    found = read_rows(src, NAME)
    assert torch.equal(found, by_formula(src))
    assert torch.equal(read_rows(src, NAME, transposed=True, stack=(1, 48, 80)), found.T)
    assert models.relative_error(found.float(), load_file(plain / "model.safetensors")[NAME].float()) < error
    made = expand(src, tmp_path / "clone", DOUBLE)
    assert any("14 tensors are dequantised" in note for note in made.notes)
    assert torch.equal(load_file(tmp_path / "clone" / "model.safetensors")[NAME][:48, :80], found)
