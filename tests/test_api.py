"""The commands as functions: their options, their defaults, and what importing them costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch

import hyperclone_cli
from hyperclone_cli import clone_model, expand, plan, verify
from hyperclone_cli.cli import growing as cli
from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.writing.options import Writing
from support import models
from support.heard import Heard

Sources = Callable[[str], Path]
Options = dict[str, Any]
DOUBLE: Options = {"embed_mult": 2, "ffn_mult": 2}


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_may_be_text(kind: type[str] | type[Path], source: Sources, tmp_path: Path) -> None:
    src, out = kind(source("qwen3")), kind(tmp_path / "clone")
    planned = plan(src, **DOUBLE)
    assert expand(src, out, **DOUBLE).digest == planned.digest
    assert verify(out).passed
    assert verify(out, src, weights_only=True).passed
    with pytest.raises(RequestError, match="already exists"):
        expand(src, out, **DOUBLE)
    heard = Heard()
    expand(src, out, overwrite=True, progress=heard, **DOUBLE)
    assert sum(written for written, _ in heard.advances) == planned.nbytes


MIXING: Options = {"strategy": "uneven", "uneven_ratio": (1, 3), "noise_snr_db": 20.0, "seed": 5}
REST: Options = {
    "embed_mult": 2, "ffn_mult": 3, "moe_ffn_mult": 2.5, "heads_mult": 4, "kv_heads_mult": 2, "head_dim_mult": 2,
    "hidden_size": None, "intermediate_size": None, "num_heads": None, "num_kv_heads": None,
    "depth_mult": 1.5, "num_layers": None, "depth_order": "top", "depth_init": "copy",
    "text_only": True, "family": None, "target_params": None, "multiple_of": 64, "aspect": "wide", "dtype": "float16",
    "max_shard_size": "1GB", "tie_embeddings": "untie",
    "num_experts": None, "experts_per_token": None, "expert_granularity": 1, "expert_drop": 0,
    "expert_noise_snr_db": None, "source_lr": 0.004,
}  # fmt: skip
WRITING: Options = {
    "overwrite": True, "restart": True, "threads": 2, "max_memory": "1GB", "checksum": True, "optimizer": True,
    "rank": 0, "world_size": 2, "distributed": False, "executor": "ray", "ray_address": "auto",
}  # fmt: skip


def test_options_are_the_fields_of_the_request() -> None:
    assert Request.of(None, MIXING | REST) == Request(**REST, mixing=Mixing(**MIXING))
    assert Request.of(None, {}) == Request()
    assert Request.of(Request(embed_mult=2), {}) == Request(embed_mult=2)


def declared(*declarations: type) -> Options:
    """Field → default of dataclasses, as Python itself sees them."""
    return {
        field.name: field.default
        for declaration in declarations
        for field in fields(declaration)
        if field.default is not MISSING
    }


SIGNATURES = {
    expand: (Request, Mixing, Writing),
    plan: (Request, Mixing),
    clone_model: (Request, Mixing),
    cli.expand: (Request, Mixing, Writing),
    cli.plan: (Request, Mixing),
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: f"{function.__module__}.{function.__name__}")
def test_the_fields_are_the_keywords_with_their_defaults(function: Callable[..., Any]) -> None:
    expected = declared(*SIGNATURES[function])
    assert len(expected) >= 20
    assert expected.keys() <= (MIXING | REST | WRITING).keys()
    parameters = inspect.signature(function).parameters
    assert not [one for one in parameters.values() if one.kind is one.VAR_KEYWORD]
    if function.__module__ == cli.__name__:
        expected["uneven_ratio"] = "1:2"  # as it is typed
    assert {name: one.default for name, one in parameters.items() if name in expected} == expected


def test_what_python_shows_of_a_function_is_what_it_takes() -> None:
    own = {"src", "out", "request", "access", "progress"}
    assert inspect.signature(expand).parameters.keys() == own | (MIXING | REST | WRITING).keys()
    assert inspect.signature(expand).parameters["kv_heads_mult"].annotation == float | None
    assert inspect.signature(plan).parameters.keys() == own - {"out"} | (MIXING | REST).keys()


def test_a_request_is_the_same_as_its_keywords(source: Sources, tmp_path: Path) -> None:
    made = Request(**DOUBLE, mixing=Mixing("diagonal"))
    planned = plan(source("qwen3"), made)
    assert planned.digest == plan(source("qwen3"), **DOUBLE, strategy="diagonal").digest
    assert expand(source("qwen3"), tmp_path / "clone", made, threads=1).digest == planned.digest
    model = models.load(source("qwen3"))
    grown = models.logits(clone_model(model, made))
    assert torch.equal(grown, models.logits(models.load(tmp_path / "clone")))
    for call in (
        lambda: plan(source("qwen3"), made, embed_mult=3),
        lambda: expand(source("qwen3"), tmp_path / "another", made, embed_mult=3),
        lambda: clone_model(model, made, embed_mult=3),
    ):
        with pytest.raises(TypeError, match="embed_mult: give a request or keywords, not both"):
            call()
    assert not (tmp_path / "another").exists()


BAD: dict[str, tuple[Options, str]] = {
    "a multiplier of none": ({"embed_mult": None}, "--embed-mult None: expected a number from 1 to 65,536"),
    "a multiplier of text": ({"ffn_mult": "2"}, "--ffn-mult 2: expected a number from 1 to 65,536"),
    "too small a multiplier": ({"kv_heads_mult": 0.5}, "--kv-heads-mult 0.5: expected a number from 1 to 65,536"),
    "too large a multiplier": ({"heads_mult": 65537}, "--heads-mult 65537: expected a number from 1 to 65,536"),
    "an infinite multiplier": ({"embed_mult": float("inf")}, "--embed-mult inf: expected a number from 1 to 65,536"),
    "part of a head size": ({"head_dim_mult": 2.0}, "--head-dim-mult 2.0: expected a whole number from 1 to 65,536"),
    "part of a unit": ({"hidden_size": 64.5}, "--hidden-size 64.5: expected a whole number from 1 to 1,073,741,824"),
    "truth for a number": ({"num_heads": True}, "--num-heads True: expected a whole number from 1 to 1,073,741,824"),
    "no multiple": ({"multiple_of": None}, "--multiple-of None: expected a whole number from 1 to 1,073,741,824"),
    "another dtype": ({"dtype": "int8"}, "--dtype int8: expected one of float32, bfloat16, float16"),
    "no tie": ({"tie_embeddings": None}, "--tie-embeddings None: expected one of auto, keep, untie"),
    "another strategy": ({"strategy": "both"}, "--strategy both: expected one of halving, symmetric, diagonal, uneven"),
    "too much noise": ({"noise_snr_db": -1}, "--noise-snr-db -1: expected a number from 0 to 200"),
    "noise that is none": ({"noise_snr_db": float("nan")}, "--noise-snr-db nan: expected a number from 0 to 200"),
    "a ratio with a zero": ({"uneven_ratio": (1, 0)}, "--uneven-ratio 1:0: expected whole numbers such as 1:2"),
    "a ratio as a list": ({"uneven_ratio": [1, 2]}, r"--uneven-ratio \[1, 2\]: expected whole numbers such as 1:2"),
}


@pytest.mark.parametrize("options, words", BAD.values(), ids=list(BAD))
def test_a_value_out_of_its_range_is_refused(options: Options, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Request.of(None, options)


def test_an_unknown_option_is_an_error(source: Sources, tmp_path: Path) -> None:
    wrong: Any = {"embed_multt": 2}
    for call in (
        lambda: plan(source("qwen3"), **wrong),
        lambda: expand(source("qwen3"), tmp_path / "clone", **wrong),
        lambda: clone_model(models.load(source("qwen3")), **wrong),
    ):
        with pytest.raises(TypeError, match="embed_multt"):
            call()
    with pytest.raises(AttributeError, match="shrink"):
        hyperclone_cli.shrink  # noqa: B018


def test_the_number_of_torch_threads_is_left_as_it_was(source: Sources, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expand(source("qwen3"), tmp_path / "clone", **DOUBLE)
        verify(tmp_path / "clone", weights_only=True)
        clone_model(models.load(source("qwen3")), **DOUBLE)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_importing_the_package_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, hyperclone_cli\n"
        "from hyperclone_cli import Mixing, Progress, Request, expand, plan, verify\n"
        "assert {'Request', 'clone_model', 'expand', 'plan', 'verify'} <= set(dir(hyperclone_cli))\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
