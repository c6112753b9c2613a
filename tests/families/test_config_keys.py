"""The keys of config.json: other spellings, keys that are left out, keys inside others, and contradictions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperclone_cli import plan
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.growth_table import GROWTHS

Sources = Callable[[str], Path]


def assert_doubles(src: Path, clone: Path) -> dict[str, Any]:
    """Assert that twice the source is the same function; the clone's config."""
    expand(src, clone, GROWTHS["twice"])
    error = models.logit_error(src, clone)
    assert error <= 1e-5
    report = verify(clone)
    assert report.passed, report.failures
    config: dict[str, Any] = json.loads((clone / "config.json").read_text())
    return config


def test_a_number_may_go_by_another_name(source: Sources, tmp_path: Path) -> None:
    src = models.edited(source("gpt2"), tmp_path / "src", n_embd=None, hidden_size=48, n_head=4, num_attention_heads=4)
    config = assert_doubles(src, tmp_path / "clone")
    assert "n_embd" not in config
    assert [config[key] for key in ("hidden_size", "n_head", "num_attention_heads")] == [96, 8, 8]


def test_names_that_contradict_each_other_are_refused(source: Sources, tmp_path: Path) -> None:
    src = models.edited(source("gpt2"), tmp_path / "src", hidden_size=96)
    with pytest.raises(CheckpointError, match="n_embd 48 and hidden_size 96 contradict"):
        expand(src, tmp_path / "clone", GROWTHS["twice"])


def test_a_width_that_is_left_to_the_architecture_is_written_out(source: Sources, tmp_path: Path) -> None:
    assert json.loads((source("gpt2") / "config.json").read_text())["n_inner"] is None
    expand(source("gpt2"), tmp_path / "clone", Request(embed_mult=2))
    assert json.loads((tmp_path / "clone/config.json").read_text())["n_inner"] == 192


def test_long_rope_is_known_by_its_old_names(source: Sources, tmp_path: Path) -> None:
    rope = json.loads((source("phi3-longrope") / "config.json").read_text())["rope_parameters"]
    for name in ("type", "rope_type"):
        old = {key: rope[key] for key in ("short_factor", "long_factor")} | {name: "longrope"}
        src = models.edited(source("phi3-longrope"), tmp_path / name, rope_parameters=None, rope_scaling=old)
        assert make_plan(open_source(src), Request(embed_mult=2)).family.layout.name == "long rope"


@pytest.mark.parametrize("spelling", ["num_experts", "num_local_experts"])
def test_a_key_is_read_and_kept_as_the_file_spells_it(spelling: str, source: Sources, tmp_path: Path) -> None:
    """Qwen 3's mixtures on the Hub say num_experts, transformers now writes num_local_experts."""
    src = models.edited(source("qwen3_moe"), tmp_path / "src")
    text = (src / "config.json").read_text()
    (src / "config.json").write_text(text.replace('"num_local_experts"', f'"{spelling}"'))
    made = expand(src, tmp_path / "clone", Request(embed_mult=2))
    assert [key for key in made.config if key in ("num_experts", "num_local_experts")] == [spelling]
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


def test_a_number_inside_another_object_is_changed_there_and_nowhere_else(source: Sources) -> None:
    made = plan(source("dbrx"), embed_mult=2, ffn_mult=3, num_kv_heads=2)
    before = json.loads((source("dbrx") / "config.json").read_text())
    grown = before["ffn_config"] | {"hidden_size": 96, "ffn_hidden_size": 120}
    assert made.config == before | {"d_model": 96, "n_heads": 8, "ffn_config": grown}


def test_a_width_that_the_config_repeats_is_written_where_it_had_a_default(source: Sources, tmp_path: Path) -> None:
    ffn_config = json.loads((source("dbrx") / "config.json").read_text())["ffn_config"]
    del ffn_config["hidden_size"]
    made = plan(models.edited(source("dbrx"), tmp_path / "src", ffn_config=ffn_config), embed_mult=2)
    assert made.config["ffn_config"]["hidden_size"] == 96


@pytest.mark.parametrize("multiple", [0, None, "4"])
def test_a_feed_forward_width_must_be_a_multiple(multiple: Any, source: Sources, tmp_path: Path) -> None:
    shutil.copytree(source("gpt_neox_japanese-untied-twofold"), tmp_path / "src")
    config = json.loads((tmp_path / "src/config.json").read_text()) | {"intermediate_multiple_size": multiple}
    (tmp_path / "src/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="intermediate_multiple_size should be a number above 0"):
        plan(tmp_path / "src", embed_mult=2)


PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "kimi_linear-tied": (
        "kimi_linear",
        {
            **dict.fromkeys(("linear_num_heads", "linear_head_dim", "layer_types")),
            "linear_attn_config": {"num_heads": 6, "head_dim": 20, "kda_layers": [1], "full_attn_layers": [2]},
        },
    ),
    "bailing_hybrid": (
        "bailing_hybrid",
        {**dict.fromkeys(("linear_num_heads", "linear_head_dim")), "head_dim": 20},
    ),
    "hrm_text": ("hrm_text", {"num_layers_per_stack": None, "num_hidden_layers": 2}),
}
"""Variant → its table, and what a config that was not saved by transformers says otherwise; None: nothing."""


@pytest.mark.parametrize("variant", PUBLISHED)
def test_a_config_that_transformers_did_not_save_is_read_as_it_reads_it(
    variant: str, source: Callable[[str], Path], tmp_path: Path
) -> None:
    name, changes = PUBLISHED[variant]
    src = models.edited(source(variant), tmp_path / "src", **changes)
    made = expand(src, tmp_path / "clone", Request(embed_mult=2, ffn_mult=2))
    assert made.family.name == name
    models.assert_same_function(src, tmp_path / "clone")
