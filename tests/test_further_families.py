"""Architectures with laws of their own, such as paired heads or ALiBi: exact at every growth, or refused."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from hyperclone_cli import plan
from hyperclone_cli.axes import linear, numbered, post_norm
from hyperclone_cli.clone import expand
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.mixing import Mixing
from hyperclone_cli.request import Request
from hyperclone_cli.verifier import verify
from models_further import VARIANTS

Sources = Callable[[str], Path]

GROWTHS = {
    "twice": Request(embed_mult=2, ffn_mult=2),
    "three times": Request(embed_mult=3, ffn_mult=3),
    "twice, uneven and noisy": Request(embed_mult=2, ffn_mult=2, mixing=Mixing("uneven", noise_snr_db=10)),
    "half as wide again": Request(embed_mult=1.5, ffn_mult=1.5),
    "larger heads": Request(embed_mult=2, ffn_mult=2, head_dim_mult=2),
    "feed-forward alone": Request(ffn_mult=2.5),
}

SLOPES = "heads grow in size alone"
NORMED = "LayerNorm of queries and keys leaves no room"
FOUR_TIMES = "it is 4 × "
ALIBI = [variant for variant in VARIANTS if variant.startswith(("bloom", "mpt"))]
REFUSED: dict[tuple[str, str], str] = {
    ("diffllama", "larger heads"): "its λ are products",
    ("diffllama-gqa-tied", "larger heads"): "its λ are products",
    ("stablelm-12b", "larger heads"): NORMED,
    ("stablelm-12b-tied-mha", "larger heads"): NORMED,
    **{(variant, "half as wide again"): SLOPES for variant in ALIBI},
    **{(variant, "feed-forward alone"): FOUR_TIMES for variant in ALIBI},
    ("gpt_neox_japanese", "feed-forward alone"): "it is 4 × hidden_size",
    ("gpt_neox_japanese-untied-twofold", "feed-forward alone"): "it is 2 × hidden_size",
}
"""What an architecture cannot have, and what it says; everything else is exact."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    @functools.cache
    def build(variant: str) -> Path:
        return models.build(VARIANTS[variant], tmp_path_factory.mktemp("source") / variant)

    return build


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_growth_is_the_same_function_or_refused(
    variant: str, growth: str, source: Sources, tmp_path: Path
) -> None:
    src, out = source(variant), tmp_path / "clone"
    if (variant, growth) in REFUSED:
        with pytest.raises(RequestError, match=REFUSED[variant, growth]):
            expand(src, out, GROWTHS[growth])
        return
    expand(src, out, GROWTHS[growth])
    one, other = models.load(src), models.load(out)
    assert models.relative_error(models.logits(other), models.logits(one)) <= 1e-5
    assert torch.equal(models.decode(other), models.decode(one))
    report = verify(out, weights_only=True)
    assert report.passed, report.failures


NEOX_LAYER, LLAMA_LAYER = "gpt_neox_japanese.layers.*.", "model.layers.*.self_attn."
WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "heads one after another, not in two halves": (
        "diffllama-gqa-tied",
        {"tensors": {LLAMA_LAYER + "q_proj": linear("heads query", "embed")}},
    ),
    "a pair that writes its halves apart": (
        "diffllama",
        {"tensors": {LLAMA_LAYER + "o_proj": linear("embed", "2 kv_pairs group value")}},
    ),
    "norms in the order of another group": (
        "stablelm-12b",
        {
            "layout": "query and key norms",
            "tensors": {LLAMA_LAYER + "q_layernorm.norms.*": numbered("group kv_heads", post_norm("query"))},
        },
    ),
    "attention part by part": (
        "gpt_neox_japanese",
        {
            "tensors": {
                NEOX_LAYER + "attention.query_key_value": linear("heads query | heads key | heads value", "embed")
            }
        },
    ),
    "ALiBi as if the number of heads did not matter": ("bloom", {"heads_stay": False}),
    "scores scaled twice": ("mpt-scaled", {"score_scale": ""}),
    "scaled queries, which are clipped elsewhere": ("mpt-untied-six-heads-clipped", {"score_scale": ""}),
}
"""Tables that are nearly right: (variant, what is wrong)."""


@pytest.mark.parametrize("variant, changes", WRONG.values(), ids=list(WRONG))
def test_a_wrong_table_is_found_out(
    variant: str, changes: dict[str, Any], source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src, out = source(variant), tmp_path / "clone"
    model_type, layout = VARIANTS[variant][0], changes.get("layout")
    family = FAMILIES[f"{model_type} ({layout})" if layout else model_type]
    monkeypatch.setitem(FAMILIES, family.name, family.variant(family.model_type, **changes))
    expand(src, out, GROWTHS["twice"])
    assert models.relative_error(models.logits(models.load(out)), models.logits(models.load(src))) > 1e-3
    assert any(failure.startswith("logits:") for failure in verify(out).failures)


@pytest.mark.parametrize("variant, heads", [("bloom", "n_head"), ("mpt", "n_heads")])
def test_alibi_keeps_the_number_of_heads(variant: str, heads: str, source: Sources) -> None:
    made = plan(source(variant), embed_mult=3, ffn_mult=3)
    assert made.config[heads] == 4
    before, after = made.kv_cache_bytes()
    assert after == 3 * before
    with pytest.raises(RequestError, match="heads grow in size alone"):
        plan(source(variant), embed_mult=2, ffn_mult=2, num_heads=8)
    larger = plan(source(variant), target_params="1M")
    assert larger.config[heads] == 4
    assert larger.growths["embed"].target % larger.growths["embed"].source == 0


@pytest.mark.parametrize("variant, scale", [("mpt", 12**-0.5), ("mpt-scaled", 0.4)])
def test_larger_heads_are_made_up_for_where_the_config_scales_scores(
    variant: str, scale: float, source: Sources
) -> None:
    made = plan(source(variant), embed_mult=4, ffn_mult=4)
    assert made.config["attn_config"]["softmax_scale"] == scale / 4
    assert made.rounded() == []


def test_key_value_heads_stay_in_two_halves(source: Sources) -> None:
    assert plan(source("diffllama"), embed_mult=2).config["num_key_value_heads"] == 8
    with pytest.raises(RequestError, match="the key/value heads are two halves"):
        plan(source("diffllama-gqa-tied"), embed_mult=1.75, num_heads=14, num_kv_heads=7)


def test_every_new_head_has_a_norm_of_its_own(source: Sources, tmp_path: Path) -> None:
    expand(source("stablelm-12b"), tmp_path / "clone", Request(embed_mult=2, num_kv_heads=2))
    norms = "model.layers.1.self_attn.q_layernorm.norms.{}.weight"
    before, after = (load_file(path / "model.safetensors") for path in (source("stablelm-12b"), tmp_path / "clone"))
    names = [norms.format(head) for head in range(8)]
    assert sorted(name for name in after if "layers.1.self_attn.q_layernorm" in name) == names
    for head, copied in enumerate((0, 1, 0, 1, 2, 3, 2, 3)):  # two key/value heads, whose groups grow inside them
        assert torch.equal(after[norms.format(head)], before[norms.format(copied)])


@pytest.mark.parametrize("lost, words", [("q_layernorm.norms.3", "missing tensors: .*norms.3"), ("", "too many")])
def test_norms_of_other_heads_than_there_are_are_refused(
    lost: str, words: str, source: Sources, tmp_path: Path
) -> None:
    shutil.copytree(source("stablelm-12b"), tmp_path / "src")
    tensors = load_file(source("stablelm-12b") / "model.safetensors")
    norm = "model.layers.1.self_attn.q_layernorm.norms.4.weight"
    tensors = {name: tensors[name] for name in tensors if not lost or lost not in name}
    save_file(tensors if lost else tensors | {norm: torch.ones(12)}, tmp_path / "src/model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        plan(tmp_path / "src", embed_mult=2)


@pytest.mark.parametrize("multiple", [0, None, "4"])
def test_a_feed_forward_width_must_be_a_multiple(multiple: Any, source: Sources, tmp_path: Path) -> None:
    shutil.copytree(source("gpt_neox_japanese-untied-twofold"), tmp_path / "src")
    config = json.loads((tmp_path / "src/config.json").read_text()) | {"intermediate_multiple_size": multiple}
    (tmp_path / "src/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="intermediate_multiple_size should be a number above 0"):
        plan(tmp_path / "src", embed_mult=2)


@pytest.mark.parametrize("variant", ["diffllama", "gpt_neox_japanese", "stablelm-12b", "bloom", "mpt"])
def test_verify_passes(variant: str, source: Sources, tmp_path: Path) -> None:
    expand(source(variant), tmp_path / "clone", GROWTHS["twice, uneven and noisy"])
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
