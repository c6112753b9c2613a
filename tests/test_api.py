"""The commands as functions: their options, their defaults, and what importing them costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import hyperclone_cli
from hyperclone_cli import clone_model, expand, plan, verify
from hyperclone_cli.cli import app as cli
from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.options import GrowthOptions, request
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from support import models

Sources = Callable[[str], Path]
DOUBLE = GrowthOptions(embed_mult=2, ffn_mult=2)


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_may_be_text(kind: type[str] | type[Path], source: Sources, tmp_path: Path) -> None:
    src, out = kind(source("qwen3")), kind(tmp_path / "clone")
    planned = plan(src, **DOUBLE)
    assert expand(src, out, **DOUBLE).digest == planned.digest
    assert verify(out).passed
    assert verify(out, src, weights_only=True).passed
    with pytest.raises(RequestError, match="already exists"):
        expand(src, out, **DOUBLE)
    written: list[int] = []
    expand(src, out, overwrite=True, progress=lambda some, _: written.append(some), **DOUBLE)
    assert sum(written) == planned.nbytes


def test_options_are_the_fields_of_the_request() -> None:
    mixing = {"strategy": "uneven", "uneven_ratio": (1, 3), "noise_snr_db": 20.0, "seed": 5}
    rest = {
        "embed_mult": 2, "ffn_mult": 3, "moe_ffn_mult": 2.5, "heads_mult": 4, "kv_heads_mult": 2, "head_dim_mult": 2,
        "hidden_size": None, "intermediate_size": None, "num_heads": None, "num_kv_heads": None,
        "family": None, "target_params": None, "multiple_of": 64, "dtype": "float16",
        "max_shard_size": "1GB", "tie_embeddings": "untie",
    }  # fmt: skip
    assert GrowthOptions.__annotations__.keys() == mixing.keys() | rest.keys()
    assert request(**mixing, **rest) == Request(mixing=Mixing(**mixing), **rest)  # type: ignore[arg-type]
    assert request() == Request()


def test_the_defaults_are_those_of_the_command_line() -> None:
    typed = {name: parameter.default for name, parameter in inspect.signature(cli.expand).parameters.items()}
    ours = {name: parameter.default for name, parameter in inspect.signature(expand).parameters.items()}
    ours |= {field.name: getattr(Request(), field.name) for field in fields(Request) if field.name != "mixing"}
    ours |= {field.name: getattr(Mixing(), field.name) for field in fields(Mixing)} | {"uneven_ratio": "1:2"}
    both = {name: (typed[name], ours[name]) for name in typed.keys() & ours.keys() - {"src", "out"}}
    assert len(both) > 20
    assert {name: pair for name, pair in both.items() if pair[0] != pair[1]} == {}


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
        "from hyperclone_cli import expand, plan, verify\n"
        "assert {'clone_model', 'expand', 'plan', 'verify'} <= set(dir(hyperclone_cli))\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
