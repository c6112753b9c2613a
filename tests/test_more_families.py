"""Every further architecture at every kind of growth: the same function to stock transformers, or a stated refusal."""

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
import models_more
from hyperclone_cli import clone_model, plan
from hyperclone_cli.axes import Form, embedding, in_layers, linear, norm, optional
from hyperclone_cli.clone import expand
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.mixing import Mixing
from hyperclone_cli.request import Request
from hyperclone_cli.verifier import verify

Sources = Callable[[str], Path]

REQUESTS: dict[str, dict[str, Any]] = {
    "2×2": {"embed_mult": 2, "ffn_mult": 2},
    "3×3": {"embed_mult": 3, "ffn_mult": 3},
    "uneven, noise": {"embed_mult": 2, "ffn_mult": 2, "mixing": Mixing("uneven", noise_snr_db=10.0)},
    "embed 1.5": {"embed_mult": 1.5},
    "head_dim 2": {"embed_mult": 2, "head_dim_mult": 2},
    "ffn 2.5": {"ffn_mult": 2.5},
}

YARN = "rotary positions of type 'yarn'"
KEY_NORM = "its LayerNorm of each key"
NO_WEIGHTS = "its norms have no weights"
FFN_NORM = "a norm over ffn"
EPS = "the eps of its norms"
LATENT = "read from latent vectors"
HEADS_NORM = "a norm spans all heads"

REFUSED: dict[str, dict[str, str]] = {
    "embed 1.5": {
        "nanochat": NO_WEIGHTS,
        "nanochat-tied": NO_WEIGHTS,
        "bitnet": HEADS_NORM,
        "bitnet-tied": HEADS_NORM,
        "olmoe": HEADS_NORM,
        "olmoe-tied": HEADS_NORM,
    },
    "head_dim 2": {
        "ministral3-yarn-tied": YARN,
        "cohere-qk-norm": KEY_NORM,
        "glm4_moe": EPS,
        "olmoe": "clip_qkv",
        "deepseek_v2": LATENT,
        "deepseek_v2-lite-tied": LATENT,
        "deepseek_v3": LATENT,
        "deepseek_v3-tied": LATENT,
        "minicpm3": LATENT,
        "minicpm3-untied": LATENT,
    },
    "ffn 2.5": {"bitnet": FFN_NORM, "bitnet-tied": FFN_NORM},
}
"""For each request the variants that cannot have it, and what they say; for all others it is exact."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    @functools.cache
    def build(variant: str) -> Path:
        return models.build(models_more.VARIANTS[variant], tmp_path_factory.mktemp("source") / variant)

    return build


@pytest.fixture(scope="module")
def computed(source: Sources) -> Callable[[str], tuple[torch.Tensor, torch.Tensor]]:
    """`computed(variant)`: what the source's logits are, and how it continues the prompts."""

    @functools.cache
    def run(variant: str) -> tuple[torch.Tensor, torch.Tensor]:
        model = models.load(source(variant))
        return models.logits(model), models.decode(model)

    return run


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("variant", models_more.VARIANTS)
def test_the_clone_is_the_same_function_or_refused(
    variant: str,
    name: str,
    source: Sources,
    computed: Callable[[str], tuple[torch.Tensor, torch.Tensor]],
    tmp_path: Path,
) -> None:
    src, out, request = source(variant), tmp_path / "clone", Request(**REQUESTS[name])
    if variant in REFUSED.get(name, {}):
        with pytest.raises(RequestError, match=REFUSED[name][variant]):
            expand(src, out, request)
        return
    expand(src, out, request)
    logits, decoded = computed(variant)
    model = models.load(out)
    assert models.relative_error(models.logits(model), logits) <= 1e-5
    assert torch.equal(models.decode(model), decoded)
    report = verify(out, weights_only=name != "uneven, noise")
    assert report.passed, report.failures


def wrong(**tensors: Form) -> dict[str, Any]:
    """Another form for modules of the layers; `__` stands for the dots in their names."""
    return {"tensors": {f"model.layers.*.{name.replace('__', '.')}": form for name, form in tensors.items()}}


SHARED_GATE = "model.layers.*.mlp.shared_experts.gate_proj"

MISTAKES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "rotary pairs taken for halves": ("ernie4_5", "head_dim 2", {"rotary": "halves"}),
    "rotary halves taken for pairs": ("smollm3", "head_dim 2", {"rotary": "pairs"}),
    "a constant attention scale taken for a head's": ("granite-tied", "head_dim 2", {"query_scalar": ""}),
    "LayerNorm taken for RMSNorm": ("phimoe", "embed 1.5", {"norm": "rms"}),
    "w taken for (1 + w)": ("jais2-tied", "2×2", {"tensors": {"model.norm": norm("embed", plus_one=True)}}),
    "(1 + w) taken for w": ("nemotron-tied", "2×2", {"tensors": {"model.norm": norm("embed")}}),
    "a gate thought to read a norm": ("exaone4", "embed 1.5", wrong(mlp__gate_proj=linear("ffn", "embed"))),
    "units outside heads": ("deepseek_v3", "2×2", wrong(self_attn__kv_b_proj=linear("nope+value heads", "kv_latent"))),
    "a router that is copied, not shared out": (
        "mixtral",
        "2×2",
        wrong(block_sparse_moe__gate=embedding("experts", "embed")),
    ),
    "shared experts inside a unit": (
        "ernie4_5_moe",
        "2×2",
        {"tensors": in_layers("experts", {SHARED_GATE: optional(linear("moe_ffn shared", "embed"))})},
    ),
}
"""Tables that are nearly right: (variant, a request that tells them from the right one, what is wrong)."""


@pytest.mark.parametrize("variant, name, changes", MISTAKES.values(), ids=list(MISTAKES))
def test_a_wrong_table_is_found_out(
    variant: str, name: str, changes: dict[str, Any], source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src, out = source(variant), tmp_path / "clone"
    model_type = models_more.VARIANTS[variant][0]
    monkeypatch.setitem(FAMILIES, model_type, FAMILIES[model_type].variant(model_type, **changes))
    expand(src, out, Request(**REQUESTS[name]))
    assert models.relative_error(models.logits(models.load(out)), models.logits(models.load(src))) > 1e-3
    assert any(failure.startswith("logits:") for failure in verify(out).failures)


@pytest.mark.parametrize("tie", ["keep", "untie"])
def test_logits_that_are_divided_by_the_width_need_no_factor(tie: str, source: Sources, tmp_path: Path) -> None:
    made = expand(source("minicpm3"), tmp_path / "clone", Request(embed_mult=3, tie_embeddings=tie))
    assert made.head.factor == 1.0
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


def edit(src: Path, out: Path, change: Callable[[dict[str, torch.Tensor]], object], **config: Any) -> Path:
    """A copy of a checkpoint with other tensors and another config."""
    shutil.copytree(src, out)
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    stated = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(stated | config))
    return out


@pytest.mark.parametrize(
    "variant, lost, config, words",
    [
        ("mixtral", "model.layers.1.block_sparse_moe.experts.2.w3.weight", {}, "missing tensors: model.layers.1."),
        ("mixtral", "", {"num_local_experts": 3}, "of 3 experts; too many tensors: .*experts.3"),
        ("mixtral", "", {"num_local_experts": 5}, "of 5 experts; missing tensors: .*experts.4"),
        ("qwen2_moe", "model.layers.0.mlp.up_proj.weight", {}, "missing tensors: model.layers.0.mlp.up_proj.weight"),
        ("qwen2_moe", "model.layers.1.mlp.gate.weight", {}, "missing tensors: model.layers.1.mlp.gate.weight"),
        ("deepseek_v3", "model.layers.1.mlp.gate.e_score_correction_bias", {}, "missing tensors: .*correction_bias"),
        ("apertus", "model.layers.0.mlp.act_fn.beta", {}, "missing tensors: model.layers.0.mlp.act_fn.beta"),
        ("cohere-qk-norm", "model.layers.1.self_attn.k_norm.weight", {}, "missing tensors: .*k_norm.weight"),
    ],
)
def test_a_checkpoint_with_holes_is_refused(
    variant: str, lost: str, config: dict[str, Any], words: str, source: Sources, tmp_path: Path
) -> None:
    src = edit(source(variant), tmp_path / "src", lambda tensors: tensors.pop(lost, None), **config)
    with pytest.raises(CheckpointError, match=words):
        plan(src, embed_mult=2)


@pytest.mark.parametrize("spelling", ["num_experts", "num_local_experts"])
def test_a_key_is_read_and_kept_as_the_file_spells_it(spelling: str, source: Sources, tmp_path: Path) -> None:
    """Qwen 3's mixtures on the Hub say num_experts, transformers now writes num_local_experts."""
    src = edit(source("qwen3_moe"), tmp_path / "src", lambda tensors: tensors)
    text = (src / "config.json").read_text()
    (src / "config.json").write_text(text.replace('"num_local_experts"', f'"{spelling}"'))
    made = expand(src, tmp_path / "clone", Request(embed_mult=2))
    assert [key for key in made.config if key in ("num_experts", "num_local_experts")] == [spelling]
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


@pytest.mark.parametrize("variant, place", [("deepseek_v3", "layers.2"), ("ernie4_5_moe", "mtp_block.0")])
def test_layers_that_predict_further_tokens_are_left_out(
    variant: str, place: str, source: Sources, tmp_path: Path
) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("eh_proj.weight", "mlp.experts.0.up_proj.weight", "shared_head.norm.weight"):
            tensors[f"model.{place}.{name}"] = torch.ones(4)

    src = edit(source(variant), tmp_path / "src", add, num_nextn_predict_layers=1)
    made = expand(src, tmp_path / "clone", Request(embed_mult=2))
    assert len(made.dropped) == 3
    assert made.config["num_nextn_predict_layers"] == 0
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


def test_experts_have_a_multiplier_of_their_own(source: Sources, tmp_path: Path) -> None:
    made = expand(source("qwen2_moe"), tmp_path / "clone", Request(ffn_mult=2, moe_ffn_mult=1.5))
    widths = {key: made.config[key] for key in made.config if key.endswith("intermediate_size")}
    assert widths == {
        "intermediate_size": 160,
        "moe_intermediate_size": 60,
        "shared_expert_intermediate_size": 84,
    }
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    with pytest.raises(RequestError, match="no experts with a width of their own"):
        plan(source("mixtral"), moe_ffn_mult=2)
    with pytest.raises(RequestError, match="--target-params chooses"):
        plan(source("qwen2_moe"), moe_ffn_mult=2, target_params="1M")


def test_a_number_of_parameters_leads_to_a_mixture_of_that_size(source: Sources, tmp_path: Path) -> None:
    made = expand(source("qwen3_moe"), tmp_path / "clone", Request(target_params=400_000, multiple_of=8))
    assert abs(made.parameters()[1].total() / 400_000 - 1) <= 0.02


@pytest.mark.parametrize("variant, growth", [("deepseek_v3", 1), ("ernie4_5_moe", 2), ("ernie4_5_moe-untied", 1)])
def test_the_cache_grows_like_the_keys_that_it_holds(variant: str, growth: int, source: Sources) -> None:
    """DeepSeek caches one latent vector; a single key/value head stays single."""
    before, after = plan(source(variant), embed_mult=2).kv_cache_bytes()
    assert after == growth * before


@pytest.mark.parametrize("variant", ["apertus", "mixtral", "deepseek_v3"])
def test_a_loaded_model_grows_to_the_same_tensors(variant: str, source: Sources, tmp_path: Path) -> None:
    grown = clone_model(models.load(source(variant)), embed_mult=2, ffn_mult=2)
    grown.save_pretrained(tmp_path / "memory")
    expand(source(variant), tmp_path / "disk", Request(embed_mult=2, ffn_mult=2))
    in_memory, on_disk = (load_file(tmp_path / place / "model.safetensors") for place in ("memory", "disk"))
    assert in_memory.keys() == on_disk.keys()
    assert all(torch.equal(in_memory[name], on_disk[name]) for name in on_disk)
