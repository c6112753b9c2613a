"""A dense model written as a mixture: the same function to stock transformers, or a refusal that says why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from hyperclone_cli import clone_model, plan
from hyperclone_cli.checkpoint import views
from hyperclone_cli.errors import HypercloneError, RequestError
from hyperclone_cli.families.upcycling import UPCYCLINGS, Upcycling
from hyperclone_cli.growth import experts, upcycling
from hyperclone_cli.growth.request import Request
from hyperclone_cli.planning import as_mixture
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing import budget
from hyperclone_cli.writing.options import Writing
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.models import EACH, VARIANTS

Sources = Callable[[str], Path]

PAIRS = list(UPCYCLINGS)
SHAPES: dict[str, dict[str, Any]] = {
    "4 experts, 1 chosen": {"num_experts": 4, "experts_per_token": 1},
    "8 experts, 2 chosen": {"num_experts": 8, "experts_per_token": 2},
    "16 quarters, 4 chosen": {"num_experts": 16, "experts_per_token": 4, "expert_granularity": 4},
}
BESIDE: dict[str, dict[str, Any]] = {
    "alone": {},
    "twice as wide": {"embed_mult": 2, "ffn_mult": 2},
    "twice as deep": {"depth_mult": 2},
}
EIGHT: dict[str, Any] = SHAPES["8 experts, 2 chosen"]
QUARTERS: dict[str, Any] = SHAPES["16 quarters, 4 chosen"]


def _cells() -> list[Any]:
    """Every pair with every shape and every other growth: each of these meets each other once, the rest are stress."""
    cells = product(range(len(PAIRS)), enumerate(SHAPES), enumerate(BESIDE))
    return [
        pytest.param(PAIRS[pair], shape, beside, marks=[] if (first + second + pair) % 3 == 0 else pytest.mark.stress)
        for pair, (first, shape), (second, beside) in cells
    ]


@pytest.mark.parametrize("model_type, shape, beside", _cells())
def test_a_mixture_of_the_feed_forward_is_the_same_function(
    model_type: str, shape: str, beside: str, source: Sources, tmp_path: Path
) -> None:
    """Logits, no missing tensor, and greedy decoding with a cache, through the mixture's own class."""
    src = source(EACH[model_type])
    expand(src, tmp_path / "clone", Request.of(None, SHAPES[shape] | BESIDE[beside]))
    stated = json.loads((tmp_path / "clone/config.json").read_text())
    assert stated["architectures"] == [UPCYCLINGS[model_type].class_name]
    assert type(models.load(tmp_path / "clone")).__name__ == UPCYCLINGS[model_type].class_name
    models.assert_same_function(src, tmp_path / "clone")


@pytest.mark.parametrize(
    "variant, more",
    [
        ("llama-gqa-tied", {"embed_mult": 1.5, "ffn_mult": 1.6, "strategy": "uneven", "noise_snr_db": 10}),
        ("qwen2", {"embed_mult": 2, "ffn_mult": 2.4, "depth_mult": 1.5, "noise_snr_db": 10}),
        ("granite", {"ffn_mult": 1.5, "dtype": "float32", "num_experts": 8, "expert_granularity": 2}),
    ],
)
def test_each_growth_of_widths_goes_with_experts(
    variant: str, more: dict[str, Any], source: Sources, tmp_path: Path
) -> None:
    expand(source(variant), tmp_path / "clone", Request.of(None, QUARTERS | more))
    assert models.logit_error(source(variant), tmp_path / "clone") <= 1e-5


def test_what_is_written_beside_the_weights(source: Sources, tmp_path: Path) -> None:
    made = expand(source("llama-gqa-tied"), tmp_path / "clone", Request.of(None, QUARTERS))
    record = json.loads((tmp_path / "clone/hyperclone.json").read_text())
    assert record["mixture"] == {"dense": "llama", "mixture": "mixtral"}
    assert record["request"]["expert_granularity"] == 4
    assert "expert_granularity" not in Request().recorded()
    card = (tmp_path / "clone/README.md").read_text()
    assert "chosen by a random router" in card
    assert "| active for each token |" in card
    notes = " ".join(made.notes)
    assert "Written as mixtral (MixtralForCausalLM): 16 experts, each 1/4 of the feed-forward, 4 for a token." in notes
    assert "router_aux_loss_coef 0.001, once output_router_logits is true" in notes
    assert made.as_json()["parameters"]["before"] == plan(source("llama-gqa-tied")).as_json()["parameters"]["before"]
    total, active = made.parameters()[1].total(), made.active_parameters()
    ffn = 3 * 48 * 80 * 2
    assert active == (made.parameters()[0].total(), total - 3 * ffn)


def test_what_the_parts_of_a_feed_forward_are(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-gqa-tied"), tmp_path / "clone", Request.of(None, QUARTERS))
    grown, dense = (load_file(path / "model.safetensors") for path in (tmp_path / "clone", source("llama-gqa-tied")))
    layer, moe = "model.layers.1.", "model.layers.1.block_sparse_moe."
    for expert in range(16):
        units = slice(20 * (expert % 4), 20 * (expert % 4) + 20)
        parts = {name: grown[f"{moe}experts.{expert}.{name}.weight"] for name in ("w1", "w2", "w3")}
        assert parts["w1"].equal(dense[f"{layer}mlp.gate_proj.weight"][units])
        assert parts["w3"].equal(dense[f"{layer}mlp.up_proj.weight"][units])
        assert parts["w2"].equal(4 * dense[f"{layer}mlp.down_proj.weight"][:, units])
    router = grown[f"{moe}gate.weight"]
    assert len({tuple(row) for row in router.tolist()}) == 4
    assert router[::4].repeat_interleave(4, 0).equal(router)
    assert 0.015 < float(router.std()) < 0.025


@pytest.mark.parametrize("variant", ["granite", "qwen2"])
def test_the_bytes_do_not_depend_on_blocks_but_on_the_seed(
    variant: str, source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(name: str, **more: Any) -> bytes:
        expand(source(variant), tmp_path / name, Request.of(None, QUARTERS | more))
        return (tmp_path / name / "model.safetensors").read_bytes()

    whole = written("whole")
    assert written("other", seed=1) != whole
    monkeypatch.setattr(budget, "LARGEST_BLOCK_BYTES", 3000)
    assert written("cut") == whole


@pytest.mark.parametrize("name", ["block_sparse_moe.gate.weight", "block_sparse_moe.experts.5.w2.weight"])
def test_verification_of_weights_knows_experts_and_the_router(name: str, source: Sources, tmp_path: Path) -> None:
    expand(source("llama-gqa-tied"), tmp_path / "clone", Request.of(None, QUARTERS))
    assert verify(tmp_path / "clone", weights_only=True).passed
    path = tmp_path / "clone/model.safetensors"
    tensors = load_file(path)
    tensors[f"model.layers.1.{name}"].view(-1)[3] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    failures = verify(tmp_path / "clone", weights_only=True).failures
    assert failures[0].startswith(f"tensor model.layers.1.{name} 1 of"), failures


def test_one_step_of_training_moves_every_chosen_expert(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-gqa-tied"), tmp_path / "clone", Request.of(None, EIGHT))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "clone", dtype=torch.float32)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    found = model(models.tokens(4, 48), labels=models.tokens(4, 48), output_router_logits=True)
    found.loss.backward()
    optimizer.step()
    for layer, scores in enumerate(found.router_logits):
        chosen = scores.topk(2).indices.unique().tolist()
        assert len(chosen) == 8
        for name in ("gate_up_proj", "down_proj"):
            weight = f"model.layers.{layer}.mlp.experts.{name}"
            moved = model.get_parameter(weight).detach() - before[weight]
            assert bool((moved.abs().amax((1, 2))[chosen] > 0).all())
        gate = f"model.layers.{layer}.mlp.gate.weight"
        assert not model.get_parameter(gate).detach().equal(before[gate])


@pytest.mark.parametrize("model_type", PAIRS)
def test_what_transformers_assumes_otherwise_is_written(model_type: str) -> None:
    pair = UPCYCLINGS[model_type]
    dense, mixture = (AutoConfig.for_model(name).to_dict() for name in (model_type, pair.target.model_type))
    sizes = {name for key in pair.target.sizes.values() for name in pair.target.names(key)}
    for config in (dense, mixture):
        config |= config.pop("rope_parameters", None) or {}
    written = pair.assumed.keys() | pair.config.keys() | sizes | {"model_type", "architectures", "transformers_version"}
    differ = {key for key in dense.keys() & mixture.keys() if dense[key] != mixture[key]}
    assert differ - written - {"layer_types", "sliding_window"} == set()
    assert {key: dense[key] for key in pair.assumed if key in dense} == dict(pair.assumed)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "olmo2"])
def test_a_config_that_says_little(model_type: str, source: Sources, tmp_path: Path) -> None:
    stated = json.loads((source(EACH[model_type]) / "config.json").read_text())
    left_out = {key: None for key in ("rms_norm_eps", "rope_parameters", "max_position_embeddings") if key in stated}
    src = models.edited(source(EACH[model_type]), tmp_path / "src", **left_out)
    expand(src, tmp_path / "clone", Request.of(None, EIGHT))
    assert models.logit_error(src, tmp_path / "clone") <= 1e-5


# --- experts that differ ---------------------------------------------------------------------------------------------


def test_dropped_units_are_drawn_anew_with_the_mean_and_the_spread_of_their_rows(
    source: Sources, tmp_path: Path
) -> None:
    made = expand(source("llama-gqa-tied"), tmp_path / "clone", Request.of(None, EIGHT | {"expert_drop": 0.25}))
    grown, dense = (load_file(path / "model.safetensors") for path in (tmp_path / "clone", source("llama-gqa-tied")))
    mlp, moe = "model.layers.1.mlp.{}_proj.weight", "model.layers.1.block_sparse_moe.experts.{}.{}.weight"
    dropped = []
    for expert in range(8):
        gate, up = (
            (grown[moe.format(expert, new)] != dense[mlp.format(old)]).any(1)
            for new, old in (("w1", "gate"), ("w3", "up"))
        )
        down = (grown[moe.format(expert, "w2")] != dense[mlp.format("down")]).any(0)
        assert gate.equal(up)
        assert gate.equal(down)
        assert int(gate.sum()) == 20
        dropped.append(gate)
        before, after = dense[mlp.format("up")][gate], grown[moe.format(expert, "w3")][gate]
        assert abs(float(after.mean() - before.mean())) < 0.2 * float(before.std())
        assert 0.8 < float(after.std() / before.std()) < 1.2
    assert len({tuple(mask.tolist()) for mask in dropped}) == 8
    assert made.request.by_request == "not function-preserving by request (--expert-drop 0.25)"


def test_noise_is_as_loud_as_asked_for(source: Sources, tmp_path: Path) -> None:
    expand(source("granite"), tmp_path / "clone", Request.of(None, EIGHT | {"expert_noise_snr_db": 20}))
    grown = load_file(tmp_path / "clone/model.safetensors")["model.layers.1.block_sparse_moe.output_linear.weight"]
    dense = load_file(source("granite") / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    noise = grown - dense
    assert 0.095 < float(noise.norm() / dense.norm()) / 8**0.5 < 0.105
    assert float((noise[0] * noise[1]).mean().abs()) < 0.1 * float(noise[0].square().mean())


@pytest.mark.parametrize(
    "variant, more",
    [
        ("llama-gqa-tied", {"expert_drop": 0.5, "embed_mult": 2, "ffn_mult": 2}),
        ("granite", {"expert_drop": 0.5, "expert_noise_snr_db": 30, "depth_mult": 2}),
        ("qwen2", {"expert_noise_snr_db": 30}),
    ],
)
def test_experts_that_differ_are_compared_by_their_weights_alone(
    variant: str, more: dict[str, Any], source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Request.of(None, QUARTERS | more)
    expand(source(variant), tmp_path / "clone", asked)
    report = verify(tmp_path / "clone")
    assert (report.failures, report.passed, report.by_request, report.logits) == ((), False, asked.by_request, None)
    models.load(tmp_path / "clone")
    monkeypatch.setattr(budget, "LARGEST_BLOCK_BYTES", 3000)
    expand(source(variant), tmp_path / "cut", asked)
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (tmp_path / "clone/model.safetensors").read_bytes()
    assert models.logit_error(source(variant), tmp_path / "clone") > 1e-4


# --- what is refused -------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "chosen experts that are not said": ("llama-mha", {}, {"num_experts": 8}, r"not said\. Add --experts-per-token 1"),
    "more chosen than there are": (
        *("llama-mha", {}, {"num_experts": 4, "experts_per_token": 5}),
        "there are 4 experts",
    ),
    "half a feed-forward chosen": (
        *("llama-mha", {}, {"num_experts": 16, "experts_per_token": 6, "expert_granularity": 4}),
        r"--experts-per-token 6: no multiple of 4, .* more often than others\. .* --experts-per-token 8",
    ),
    "a part of a feed-forward left over": (
        *("llama-mha", {}, {"num_experts": 18, "experts_per_token": 4, "expert_granularity": 4}),
        "--num-experts 18: no multiple of 4",
    ),
    "units left over": (
        *("llama-mha", {}, {"num_experts": 9, "experts_per_token": 3, "expert_granularity": 3}),
        "the feed-forward width 80 has no 3 equal parts",
    ),
    "norms that differ": ("phi3", {}, EIGHT, "LayerNorm where Phi 3 has RMSNorm"),
    "no mixture that is known": ("gemma2", {}, EIGHT, r"no mixture is known .* llama, mistral, qwen2"),
    "windows in some layers": ("qwen3", {"use_sliding_window": True}, EIGHT, "windows in all layers or in none"),
    "biases without a place": ("llama-biases", {}, EIGHT, "MixtralForCausalLM has no such bias"),
    "parts of experts": (
        *("mixtral", {}, {"num_experts": 8, "experts_per_token": 4, "expert_granularity": 2}),
        "has experts already",
    ),
    "experts of a mixture that differ": (
        *("mixtral", {}, {"num_experts": 8, "experts_per_token": 4, "expert_drop": 0.5}),
        "has experts already",
    ),
    "noise for nothing": ("llama-mha", {}, {"expert_noise_snr_db": 20}, "Add --num-experts"),
    "parts of nothing": ("llama-mha", {}, {"expert_granularity": 2}, "Add --num-experts"),
}


@pytest.mark.parametrize("variant, config, asked, words", REFUSED.values(), ids=list(REFUSED))
def test_what_would_be_another_function_is_refused(
    variant: str, config: dict[str, Any], asked: dict[str, Any], words: str, source: Sources, tmp_path: Path
) -> None:
    if variant == "llama-biases":
        src = models.build("llama-mha", tmp_path / "src", mlp_bias=True)
    else:
        src = models.edited(source(variant), tmp_path / "src", **config) if config else source(variant)
    with pytest.raises(HypercloneError) as refusal:
        plan(src, **asked)
    assert re.search(words, f"{refusal.value.message} {refusal.value.hint}"), refusal.value


def test_a_model_in_memory_stays_of_its_class(source: Sources) -> None:
    model = AutoModelForCausalLM.from_pretrained(source("llama-gqa-tied"))
    with pytest.raises(RequestError, match="which has no experts"):
        clone_model(model, **EIGHT)


def test_an_optimizer_does_not_become_that_of_a_mixture(source: Sources, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="parameters that the source has not"):
        expand(source("llama-gqa-tied"), tmp_path / "clone", Request.of(None, EIGHT), Writing(optimizer=True))
    assert not any(tmp_path.iterdir())


# --- what must not pass ----------------------------------------------------------------------------------------------


def _swapped(made: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Gates in the place of the values they multiply, and the other way round."""
    others = {f"model.layers.*.mlp.{one}_proj": f"model.layers.*.mlp.{other}_proj" for one, other in
              (("gate", "up"), ("up", "gate"))}  # fmt: skip
    return {module: tuple(others.get(name, name) for name in dense) for module, dense in made.items()}


def _config(pair: Upcycling, **changes: Any) -> Upcycling:
    return replace(pair, config={**pair.config, **changes})


WRONG_PAIRS: dict[str, tuple[str, dict[str, Any], Callable[[Upcycling], Upcycling]]] = {
    "gates for values": ("llama", EIGHT, lambda pair: replace(pair, made=_swapped(pair.made))),
    "values before gates in one tensor": ("granite", EIGHT, lambda pair: replace(pair, made=_swapped(pair.made))),
    "a shared expert that comes on top": ("qwen2", EIGHT, lambda pair: replace(pair, routed=1.0)),
    "half of what is all": ("mistral", EIGHT, lambda pair: replace(pair, routed=0.5)),
    "weights that do not sum to 1": ("qwen3", EIGHT, partial(_config, norm_topk_prob=False)),
}


@pytest.mark.parametrize("model_type, shape, mistake", WRONG_PAIRS.values(), ids=list(WRONG_PAIRS))
def test_a_wrong_pair_fails(
    model_type: str,
    shape: dict[str, Any],
    mistake: Callable[[Upcycling], Upcycling],
    source: Sources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = {**UPCYCLINGS, model_type: mistake(UPCYCLINGS[model_type])}
    monkeypatch.setattr(upcycling, "UPCYCLINGS", wrong)
    assert_fails(source(EACH[model_type]), tmp_path / "clone", Request.of(None, shape))


def test_parts_without_their_factor_fail(source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = experts._from_dense
    monkeypatch.setattr(experts, "_from_dense", lambda *given: replace(right(*given), written=1.0))
    assert_fails(source("llama-gqa-tied"), tmp_path / "clone", Request.of(None, QUARTERS))


def test_parts_with_rows_of_their_own_fail(source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the best four may be the same part four times."""
    monkeypatch.setattr(as_mixture, "Drawn", lambda *given, **_: views.Drawn(*given))
    assert_fails(source("llama-gqa-tied"), tmp_path / "clone", Request.of(None, QUARTERS))


def test_a_factor_that_is_spread_over_three_matrices_fails(source: Sources, tmp_path: Path) -> None:
    """Its cube root in each is a factor of the whole only where silu(a · x) is a · silu(x), which it is not."""
    expand(source("llama-gqa-tied"), tmp_path / "clone", Request.of(None, QUARTERS))
    path = tmp_path / "clone/model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        if ".experts." in name:
            tensors[name] *= 4 ** (1 / 3) / (4 if ".w2." in name else 1)
    save_file(tensors, path, metadata={"format": "pt"})
    assert models.logit_error(source("llama-gqa-tied"), tmp_path / "clone") > 1e-3


def assert_fails(src: Path, out: Path, asked: Request) -> None:
    expand(src, out, asked)
    assert models.logit_error(src, out) > 1e-3


def test_verification_passes_a_right_pair_and_no_wrong_one(
    source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = UPCYCLINGS["llama"]
    expand(source("llama-gqa-tied"), tmp_path / "right", Request.of(None, EIGHT | {"embed_mult": 2}))
    report = verify(tmp_path / "right", new_tokens=4)
    assert report.passed, report.failures
    monkeypatch.setattr(upcycling, "UPCYCLINGS", {"llama": replace(pair, made=_swapped(pair.made))})
    expand(source("llama-gqa-tied"), tmp_path / "wrong", Request.of(None, EIGHT))
    assert any(failure.startswith("logits: ") for failure in verify(tmp_path / "wrong", new_tokens=1).failures)


assert {EACH[model_type] for model_type in PAIRS} <= VARIANTS.keys()
