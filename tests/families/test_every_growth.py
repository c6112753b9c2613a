"""Every variant at every kind of growth: the same function to stock transformers, or a refusal that says why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hyperclone_cli import clone_model
from hyperclone_cli.checkpoint.json_config import read_json
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.growth_table import CROSSED, GROWTHS, ONE_UNIT_WIDER, REFUSED, TRIED
from support.models import EACH

Sources = Callable[[str], Path]

VERIFIED = {(variant, "twice, uneven and noisy") for variant in EACH.values()}
"""What `verify` compares in full; of all others it compares the weights, and stock transformers the outputs here."""

WIDENED = dict.fromkeys([*EACH.values(), *(variant for variants in ONE_UNIT_WIDER.values() for variant in variants)])
"""Variants whose residual stream is to become one unit wider: one of each architecture, and all that refuse."""


@pytest.mark.parametrize("variant, growth", TRIED)
def test_every_growth_is_the_same_function_or_refused(
    variant: str, growth: str, source: Sources, tmp_path: Path
) -> None:
    src, out = source(variant), tmp_path / "clone"
    if (variant, growth) in REFUSED:
        with pytest.raises(RequestError, match=REFUSED[variant, growth]):
            expand(src, out, GROWTHS[growth])
        return
    expand(src, out, GROWTHS[growth])
    assert not {"ignored", "zeros"} & read_json(out / "hyperclone.json").keys()  # stock takes the source as it is
    models.assert_same_function(src, out)
    report = verify(out, weights_only=(variant, growth) not in VERIFIED)
    assert report.passed, report.failures


@pytest.mark.parametrize("variant", WIDENED)
def test_a_residual_stream_that_is_one_unit_wider_is_the_same_function_or_refused(
    variant: str, source: Sources, tmp_path: Path
) -> None:
    """One unit of padding is a block of one row, which may be a single number."""
    src, out = source(variant), tmp_path / "clone"
    request = Request(hidden_size=make_plan(open_source(src), Request()).growths["embed"].source + 1)
    refused = [words for words, variants in ONE_UNIT_WIDER.items() if variant in variants]
    if refused:
        with pytest.raises(RequestError, match=refused[0]):
            expand(src, out, request)
        return
    expand(src, out, request)
    # on a CPU, transformers' default for experts takes only rows of a multiple of 16 bytes
    clone, model = (models.load(path, experts_implementation="eager") for path in (out, src))
    assert models.relative_error(models.logits(clone), models.logits(model)) <= 1e-5


@pytest.mark.parametrize("embed, ffn", [(3, 2), (2, 1), (1, 3), (4, 4)])
@pytest.mark.parametrize("variant", CROSSED)
def test_hidden_and_feed_forward_sizes_grow_apart(
    variant: str, embed: int, ffn: int, source: Sources, tmp_path: Path
) -> None:
    expand(source(variant), tmp_path / "clone", Request(embed_mult=embed, ffn_mult=ffn))
    models.assert_same_function(source(variant), tmp_path / "clone")


@pytest.mark.parametrize(
    "variant",
    [
        *("apertus", "mixtral", "deepseek_v3", "gpt2", "granitemoeshared", "gpt_oss", "dbrx"),
        *("gemma4-keys-are-values-shared-kv", "gemma3n-sparse"),
        *("jamba", "recurrent_gemma", "rwkv", "mamba2-groups-tied"),
    ],
)
def test_bin_files_and_a_loaded_model_grow_to_the_same_tensors(variant: str, source: Sources, tmp_path: Path) -> None:
    src, request = source(variant), GROWTHS["three times"]
    expand(src, tmp_path / "clone", request)

    shutil.copytree(src, tmp_path / "bin", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(src / "model.safetensors"), tmp_path / "bin/pytorch_model.bin")
    expand(tmp_path / "bin", tmp_path / "from bin", request)
    clone_model(models.load(src), embed_mult=3, ffn_mult=3).save_pretrained(tmp_path / "from memory")

    expected = load_file(tmp_path / "clone/model.safetensors")
    for place in ("from bin", "from memory"):
        found = load_file(tmp_path / place / "model.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
