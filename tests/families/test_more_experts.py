"""More experts in a mixture: copies of all of them compute the same, or the request is refused with a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from hyperclone_cli import plan
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import FAMILIES, Family
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.growth import experts
from hyperclone_cli.growth.experts import chosen_experts
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.growth.widths import repeated
from hyperclone_cli.planning.symmetry import advice
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models, wrapped
from support.models import VARIANTS

Sources = Callable[[str], Path]


def request(src: Path, times: int, **more: Any) -> Request:
    """A request for so many times the experts, all of whose copies are chosen."""
    found = plan(src)
    assert found.family.routing is not None
    chosen = chosen_experts(found.proposal, found.family.routing)
    return Request(num_experts=times * found.proposal.sizes["experts"], experts_per_token=times * chosen, **more)


# --- the same function -----------------------------------------------------------------------------------------------

WIDER = {"embed_mult": 2, "ffn_mult": 2}
MECHANISMS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "softmax, divided by its sum": ("mixtral", 2, {}),
    "softmax, as it is": ("olmoe", 2, {}),
    "softmax over the chosen, in one tensor a layer": ("granitemoe", 3, {}),
    "softmax over the chosen, with biases": ("gpt_oss", 2, WIDER),
    "some layers dense": ("qwen3_moe", 2, WIDER),
    "a shared expert with a gate": ("qwen2_moe-tied", 2, {"depth_mult": 2}),
    "groups, and biases that correct the choice": ("deepseek_v3", 2, {**WIDER, "depth_mult": 2}),
    "groups of a softmax": ("deepseek_v2", 2, {}),
    "sigmoids as they are": ("dots1", 3, {}),
    "biases of probabilities": ("ernie4_5_moe", 2, {"embed_mult": 1.5}),
    "a norm of the probabilities": ("dbrx", 2, {}),
    "experts in attention too": ("jetmoe", 2, {}),
    "a scale for each expert": ("gemma4-untied-experts", 2, {"strategy": "uneven"}),
}


@pytest.mark.parametrize("variant, times, more", MECHANISMS.values(), ids=list(MECHANISMS))
def test_copies_of_experts_compute_the_same(
    variant: str, times: int, more: dict[str, Any], source: Sources, tmp_path: Path
) -> None:
    src, asked = source(variant), dict(more)
    mixing = {"mixing": Request.of(None, {"strategy": asked.pop("strategy")}).mixing} if "strategy" in asked else {}
    made = expand(src, tmp_path / "clone", request(src, times, **asked, **mixing))
    assert made.growths["experts"].ratio == times
    assert models.logit_error(src, tmp_path / "clone") <= 1e-5


MIXTURES = [name for name, made in VARIANTS.items() if any(key in str(made.config) for key in ("experts", "moe"))]


@pytest.mark.stress
@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("variant", MIXTURES)
def test_every_mixture_grows_or_is_refused(variant: str, times: int, source: Sources, tmp_path: Path) -> None:
    found = plan(source(variant))
    if not found.proposal.sizes.get("experts") or found.family.routing is None:
        with pytest.raises(
            RequestError, match=r"no experts|router chooses two|where a table names|where experts that hand on"
        ):
            plan(source(variant), num_experts=4 * times, experts_per_token=2 * times)
        return
    expand(source(variant), tmp_path / "clone", request(source(variant), times))
    models.assert_same_function(source(variant), tmp_path / "clone")


def test_scores_that_scale_what_an_expert_reads(tmp_path: Path) -> None:
    """Llama 4 multiplies what an expert reads by a sigmoid: no factor on that could stand for one on its output."""
    expand(wrapped.build("llama4", tmp_path / "wrapper"), tmp_path / "src", Request(text_only=True))
    expand(tmp_path / "src", tmp_path / "clone", request(tmp_path / "src", 2))
    assert models.logit_error(tmp_path / "src", tmp_path / "clone") <= 1e-5


def test_copies_stand_after_the_whole_of_what_they_copy(source: Sources, tmp_path: Path) -> None:
    made = expand(source("deepseek_v3"), tmp_path / "clone", request(source("deepseek_v3"), 2))
    grown, before = (load_file(path / "model.safetensors") for path in (tmp_path / "clone", source("deepseek_v3")))
    for number in range(16):
        name = "model.layers.1.mlp.experts.{}.up_proj.weight"
        assert grown[name.format(number)].equal(before[name.format(number % 8)])
    stated = json.loads((tmp_path / "clone/config.json").read_text())
    assert [stated[key] for key in ("n_routed_experts", "num_experts_per_tok", "n_group", "topk_group")] == [
        16,
        4,
        4,
        2,
    ]
    assert made.rounded() == []


def test_verification_compares_every_copy(source: Sources, tmp_path: Path) -> None:
    src = source("granitemoe-tied")
    expand(src, tmp_path / "clone", request(src, 2))
    report = verify(tmp_path / "clone", new_tokens=4)
    assert report.passed, report.failures
    assert report.weights is not None
    assert report.weights.worst == 0.0


def test_a_plan_tells_total_and_active_parameters(source: Sources) -> None:
    src = source("mixtral")
    before, after = plan(src), plan(src, num_experts=8, experts_per_token=4)
    one = 3 * 48 * 80 * 2  # both layers
    total = before.parameters()[0].total()
    assert before.active_parameters() == (total - 2 * one, total - 2 * one)
    grown = total + 4 * one + 2 * 4 * 48
    assert (after.parameters()[1].total(), after.active_parameters()) == (grown, (total - 2 * one, grown - 4 * one))
    assert after.as_json()["active_parameters"]["after"] == grown - 4 * one


@pytest.mark.parametrize(
    "variant, more",
    [
        ("mixtral", {"dtype": "bfloat16"}),
        ("granitemoe", {"embed_mult": 2, "ffn_mult": 2}),
        ("gpt_oss", {}),
        ("deepseek_v3", {"depth_mult": 2}),
    ],
)
def test_noise_cancels_over_the_copies_of_an_expert(
    variant: str, more: dict[str, Any], source: Sources, tmp_path: Path
) -> None:
    mixing = Mixing(noise_snr_db=10)
    made = expand(source(variant), tmp_path / "clone", request(source(variant), 2, mixing=mixing, **more))
    down = [tensor.name for tensor in made.tensors if tensor.source.packed and not tensor.kind.silent]
    assert set(down) <= set(made.rounded())
    assert verify(tmp_path / "clone", weights_only=True).passed
    if "dtype" not in more:
        assert models.logit_error(source(variant), tmp_path / "clone") <= 1e-5


def test_noise_is_as_loud_as_asked_for(source: Sources, tmp_path: Path) -> None:
    mixing = Mixing(noise_snr_db=20)
    expand(source("mixtral"), tmp_path / "clone", request(source("mixtral"), 3, mixing=mixing))
    grown, dense = (load_file(path / "model.safetensors") for path in (tmp_path / "clone", source("mixtral")))
    name = "model.layers.1.block_sparse_moe.experts.{}.w2.weight"
    noise = [grown[name.format(2 + 4 * copy)] - dense[name.format(2)] for copy in range(3)]
    assert float((noise[0] + noise[1] + noise[2]).norm()) < 1e-5 * float(noise[0].norm())
    for one in noise:
        assert 0.09 < float(one.norm() / dense[name.format(2)].norm()) < 0.11
    assert advice(plan(source("mixtral"), num_experts=8, experts_per_token=4)).endswith("diverge: --noise-snr-db 10.")


# --- what is refused -------------------------------------------------------------------------------------------------

REFUSED = {
    "as many chosen": ("mixtral", {}, {"num_experts": 8}, r"takes all 2 copies .* Add --experts-per-token 4"),
    "other chosen": (
        *("mixtral", {}, {"num_experts": 12, "experts_per_token": 4}),
        r"takes all 3 copies .* Use --experts-per-token 6",
    ),
    "no multiple": (
        *("mixtral", {}, {"num_experts": 6, "experts_per_token": 3}),
        r"no multiple of 4: .* --num-experts 8",
    ),
    "fewer": ("mixtral", {}, {"num_experts": 2, "experts_per_token": 1}, "growth takes nothing away"),
    "the same experts": ("mixtral", {}, {"experts_per_token": 4}, "that is another function"),
    "a router of its own kind": (
        *("phimoe", {}, {"num_experts": 8, "experts_per_token": 4}),
        "whose router chooses two",
    ),
    "another norm": (
        *("dbrx", {"ffn_config.moe_normalize_expert_weights": 2.0}, {"num_experts": 8, "experts_per_token": 4}),
        "would not share its weight",
    ),
    "no experts": ("gemma4", {}, {"num_experts": 8, "experts_per_token": 4}, "has no experts"),
    "a choice that is none": (
        *("mixtral", {"num_experts_per_tok": 9}, {"num_experts": 8, "experts_per_token": 4}),
        "should be a number of experts, 4 at most, found 9",
    ),
    "groups that are none": (
        *("deepseek_v3", {"n_group": "two"}, {"num_experts": 16, "experts_per_token": 4}),
        "should be a number of groups of experts, found 'two'",
    ),
}


@pytest.mark.parametrize("variant, config, asked, words", REFUSED.values(), ids=list(REFUSED))
def test_what_would_be_another_function_is_refused(
    variant: str, config: dict[str, Any], asked: dict[str, Any], words: str, source: Sources, tmp_path: Path
) -> None:
    src = source(variant)
    if config:
        stated = json.loads((src / "config.json").read_text())
        for key, value in config.items():
            first, _, inside = key.partition(".")
            config = {first: stated[first] | {inside: value} if inside else value}
        src = models.edited(src, tmp_path / "src", **config)
    with pytest.raises((RequestError, CheckpointError)) as refusal:
        plan(src, **asked)
    assert re.search(words, f"{refusal.value.message} {refusal.value.hint}"), refusal.value


# --- what must not pass ----------------------------------------------------------------------------------------------


def _changed(**changes: Any) -> Callable[[Family], Family]:
    return lambda family: replace(family, routing=replace(family.routing or Routing(), **changes))


def _counted_whole(family: Family) -> Family:
    tensors = {name: replace(form, probability=False) for name, form in family.tensors.items()}
    return replace(family, tensors=tensors)


WRONG: dict[str, tuple[str, Callable[[Family], Family]]] = {
    "scores that stand alone, taken for shares": ("dots1", _changed(alone=None)),
    "shares, taken for scores that stand alone": ("olmoe", _changed(alone={})),
    "groups that are kept": ("deepseek_v3", _changed(groups={})),
    "chosen groups that are kept": ("deepseek_v3", _changed(groups={"n_group": 1})),
    "biases of probabilities in full": ("ernie4_5_moe-untied", _counted_whole),
    "another key for how many are chosen": ("mixtral", _changed(chosen="experts_per_token")),
}


@pytest.mark.parametrize("variant, mistake", WRONG.values(), ids=list(WRONG))
def test_a_wrong_table_for_experts_fails(
    variant: str,
    mistake: Callable[[Family], Family],
    source: Sources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, family = request(source(variant), 2), plan(source(variant)).family
    monkeypatch.setitem(FAMILIES, family.name, mistake(family))
    assert_fails(source(variant), tmp_path / "clone", asked)


def test_copies_inside_groups_fail(source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score of a group is the sum of its two best: of two copies, it would be twice the best."""
    asked = request(source("deepseek_v3"), 2)
    monkeypatch.setattr(experts, "tiled", repeated)
    assert_fails(source("deepseek_v3"), tmp_path / "clone", asked)


def assert_fails(src: Path, out: Path, asked: Request) -> None:
    expand(src, out, asked)
    assert models.logit_error(src, out) > 1e-3
