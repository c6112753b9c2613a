"""Sizes that are no multiples, heads, the size of a head: the same function, or a refusal that says why."""

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
import models_fused
from hyperclone_cli.checkpoint.source import Source, open_source
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import STRATEGIES, Mixing
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand

Sources = Callable[[str], Path]

WHOLE_HEADS = "hidden_size is heads × head size"
OWN_KEYS = "every query head has a key and value head of its own"
MULTIPLE = "here a multiple of"
EVEN_HEADS = "a norm spans all heads"
DIVIDES = "transformers wants hidden_size to be a multiple"

SOURCES = {
    "llama": "llama-mha",
    "llama-gqa": "llama-gqa-tied",
    "qwen3": "qwen3",
    "gemma3": "gemma3-gqa",
    "olmo2": "olmo2",
    "pythia": "pythia",
    "opt": "opt-125m",
    "gpt2": "gpt2-untied-n_inner",
}
"""Hidden size 128 and four heads, of 32 units or (Qwen 3, Gemma 3) of 16; the feed-forward width is 80."""

REFUSED: dict[str, dict[str, str]] = {
    "--kv-heads-mult 1 --embed-mult 2": {"pythia": OWN_KEYS, "opt": OWN_KEYS, "gpt2": OWN_KEYS},
    "--head-dim-mult 2": {"pythia": MULTIPLE, "opt": MULTIPLE, "gpt2": MULTIPLE},
    "--head-dim-mult 2 --embed-mult 2": {},
    "--head-dim-mult 3 --embed-mult 3": {},
    "--embed-mult 1.5": {},
    "--embed-mult 2.5 --ffn-mult 2.5": {},
    "--hidden-size 200": {"pythia": MULTIPLE, "opt": MULTIPLE, "gpt2": MULTIPLE},
    "--ffn-mult 2.7": {},
    "--intermediate-size 81": {},
    "--num-heads 6": {
        "llama": DIVIDES,
        "llama-gqa": DIVIDES,
        "gemma3": DIVIDES,
        "olmo2": EVEN_HEADS,
        "pythia": WHOLE_HEADS,
        "opt": WHOLE_HEADS,
        "gpt2": WHOLE_HEADS,
    },
    "--num-heads 6 --hidden-size 192": {"olmo2": EVEN_HEADS},
}
"""For each request the architectures that cannot have it, and what they say; for all others it is exact."""


def options(line: str) -> dict[str, Any]:
    """The options of a command line as keyword arguments of a Request."""
    words = iter(line.replace("--", "").split())
    numbers = ((name, next(words)) for name in words)
    return {name.replace("-", "_"): float(number) if "." in number else int(number) for name, number in numbers}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    @functools.cache
    def build(variant: str) -> Path:
        path = tmp_path_factory.mktemp("source") / variant
        if variant in models_fused.VARIANTS:
            return models.build(models_fused.VARIANTS[variant], path, n_embd=128)
        return models.build(variant, path, hidden_size=128)

    return build


def relative_error(src: Path, clone: Path) -> float:
    return models.relative_error(models.logits(models.load(clone)), models.logits(models.load(src)))


@pytest.mark.parametrize("line", REFUSED)
@pytest.mark.parametrize("name", SOURCES)
def test_every_size_is_the_same_function_or_refused(name: str, line: str, source: Sources, tmp_path: Path) -> None:
    src, out, request = source(SOURCES[name]), tmp_path / "clone", Request(**options(line))
    if name in REFUSED[line]:
        with pytest.raises(RequestError, match=REFUSED[line][name]):
            expand(src, out, request)
        return
    plan = expand(src, out, request)
    for option, axis in (("hidden_size", "embed"), ("intermediate_size", "ffn")):
        assert plan.growths[axis].target == options(line).get(option, plan.growths[axis].target)
    assert relative_error(src, out) <= 1e-5
    report = verify(out, weights_only=True)
    assert report.passed, report.failures


@pytest.mark.parametrize("noise", [None, 10.0])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "variant, line",
    [
        ("llama-mha", "--embed-mult 2.5 --intermediate-size 200 --head-dim-mult 2 --num-heads 5"),
        ("qwen2", "--embed-mult 2.5 --ffn-mult 1.3 --num-heads 9 --num-kv-heads 3"),
        ("gemma2", "--embed-mult 1.5 --ffn-mult 2.5 --head-dim-mult 2 --num-heads 6 --num-kv-heads 3"),
        ("pythia", "--embed-mult 2.5 --ffn-mult 3.3"),
        ("opt-125m", "--embed-mult 2.5 --ffn-mult 3.3"),
    ],
)
def test_strategies_and_noise_hold_for_any_size(
    variant: str, line: str, strategy: str, noise: float | None, source: Sources, tmp_path: Path
) -> None:
    request = Request(**options(line), mixing=Mixing(strategy, noise_snr_db=noise))
    expand(source(variant), tmp_path / "clone", request)
    assert relative_error(source(variant), tmp_path / "clone") <= 1e-5
    report = verify(tmp_path / "clone", weights_only=True)
    assert report.passed, report.failures


@pytest.mark.parametrize("variant", ["llama-gqa-tied", "gemma3-gqa", "olmo2", "pythia", "opt-125m"])
def test_in_bfloat16_any_size_stays_within_twice_the_dtypes_own_error(variant: str, tmp_path: Path) -> None:
    src = models.build(variant, tmp_path / "src", torch.bfloat16, hidden_size=128)
    expand(src, tmp_path / "clone", Request(embed_mult=1.5, ffn_mult=2.5))
    logits = verify(tmp_path / "clone").logits
    assert logits is not None
    assert logits.relative_error <= 2 * logits.floor


@pytest.mark.parametrize(
    "variant, reason",
    [
        ("opt-350m", "norms after the residual sum"),
        ("opt-postnorm", "norms after the residual sum"),
        ("opt-no-final-norm", "reads the stream itself"),
        ("opt-plain-norms", "norms without weights"),
        ("olmo", "its norms have no weights"),
    ],
)
def test_a_stream_that_cannot_be_padded_is_refused(variant: str, reason: str, source: Sources, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=reason):
        expand(source(variant), tmp_path / "clone", Request(embed_mult=1.5))


@pytest.mark.parametrize(
    "variant, changes, reason",
    [
        ("olmo-clip", {}, "clip_qkv"),
        ("llama-mha", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "'yarn'"),
        ("pythia", {"hidden_size": 48}, "pairs do not stay pairs"),  # a quarter of twelve units turns: an odd number
    ],
)
def test_a_head_that_cannot_be_larger_is_refused(
    variant: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    src = models.build(variant, tmp_path / "src", **changes)
    with pytest.raises(RequestError, match=reason):
        expand(src, tmp_path / "clone", Request(embed_mult=2, head_dim_mult=2))


@pytest.mark.parametrize("variant, target", [("llama-gqa-tied", "1M"), ("gemma3-gqa", 600_000), ("pythia", "0.9M")])
def test_a_number_of_parameters_leads_to_the_closest_shape(
    variant: str, target: int | str, source: Sources, tmp_path: Path
) -> None:
    request = Request(target_params=target, multiple_of=8)
    plan = expand(source(variant), tmp_path / "clone", request)
    wanted = request.target_params
    assert isinstance(wanted, int)
    assert abs(models.load(tmp_path / "clone").num_parameters() / wanted - 1) <= 0.02
    assert plan.growths["embed"].target % 32 == 0
    assert plan.growths["ffn"].target % 8 == 0
    assert plan.request.target_params is None  # the record is of the sizes, which make the same clone again
    assert plan.notes[0].startswith(f"--target-params {wanted:,}: hidden_size {plan.growths['embed'].target}")
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


def test_a_tied_head_that_is_stored_twice_is_not_read_for_every_shape_that_is_tried(
    source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = Path(shutil.copytree(source("llama-gqa-tied"), tmp_path / "src"))
    tensors = load_file(src / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    compared: list[str] = []
    same_bytes = Source.same_bytes

    def counted(self: Source, one: str, other: str) -> bool:
        compared.append(one)
        return same_bytes(self, one, other)

    monkeypatch.setattr(Source, "same_bytes", counted)
    plan = make_plan(open_source(src), Request(target_params="1M", multiple_of=8))
    assert set(plan.dropped) == {"lm_head.weight"}
    assert len(compared) == 2  # for the source as it is, and for the shape that was chosen


@pytest.mark.parametrize("variant, target", [("opt-350m", "600k"), ("olmo", "600k"), ("openai-gpt", "300k")])
def test_a_number_of_parameters_leads_to_a_shape_that_the_architecture_can_have(
    variant: str, target: str, tmp_path: Path
) -> None:
    """These cannot be padded, or state no feed-forward width of their own."""
    src = models.build(models_fused.VARIANTS.get(variant, variant), tmp_path / "src")
    plan = make_plan(open_source(src), Request(target_params=target, multiple_of=8))
    growth = plan.growths["embed"]
    assert growth.target > growth.source
    assert not growth.padding


@pytest.mark.parametrize(
    "request_, reason, hint",
    [
        (Request(target_params="10k"), "the smallest shape has", "At least"),
        (Request(target_params="10k", head_dim_mult=2), "the smallest shape has", "At least"),
        (Request(target_params="900T"), "more than any shape", "At most"),
        (Request(target_params="1M", num_heads=7, num_kv_heads=2), "no shape of this architecture", ""),
    ],
)
def test_a_number_of_parameters_that_no_shape_has_is_refused(
    request_: Request, reason: str, hint: str, source: Sources
) -> None:
    with pytest.raises(RequestError, match=reason) as refusal:
        make_plan(open_source(source("llama-gqa-tied")), request_)
    assert refusal.value.hint.startswith(hint)


def test_a_width_that_no_number_of_heads_fits_names_one_that_works(source: Sources, tmp_path: Path) -> None:
    src = source("llama-gqa-tied")
    with pytest.raises(RequestError, match=r"--hidden-size 131: .* multiple of the number of heads") as refusal:
        expand(src, tmp_path / "clone", Request(hidden_size=131))
    width = int(refusal.value.hint.split()[-1].rstrip("."))
    expand(src, tmp_path / "clone", Request(hidden_size=width))
    assert relative_error(src, tmp_path / "clone") <= 1e-5


ROPES: dict[str, dict[str, Any]] = {
    "older key": {"rope_theta": 5e3, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "older key and type": {"rope_theta": 5e3, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "newer key": {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e3, "factor": 4.0}},
    "both, which disagree": {
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 5e3, "factor": 2.0},
        "rope_scaling": {"rope_type": "linear", "rope_theta": 5e3, "factor": 4.0},
    },
}


@pytest.mark.parametrize("line", ["--embed-mult 2", "--head-dim-mult 2"])
@pytest.mark.parametrize("rope", ROPES)
def test_rotary_positions_are_read_as_transformers_reads_them(rope: str, line: str, tmp_path: Path) -> None:
    src = models.build("llama-gqa-tied", tmp_path / "src")
    config = json.loads((src / "config.json").read_text())
    config.pop("rope_parameters")
    (src / "config.json").write_text(json.dumps(config | ROPES[rope]))
    plan = expand(src, tmp_path / "clone", Request(**options(line)))
    assert plan.config.items() >= ROPES[rope].items()
    assert relative_error(src, tmp_path / "clone") <= 1e-5


@pytest.mark.parametrize("part", ["half", [0.5], -1, True])
def test_a_part_of_a_head_that_is_no_number_is_refused(part: object, source: Sources, tmp_path: Path) -> None:
    shutil.copytree(source("pythia"), tmp_path / "src")
    config = json.loads((tmp_path / "src" / "config.json").read_text())
    config["rope_parameters"]["partial_rotary_factor"] = part
    (tmp_path / "src" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="partial_rotary_factor"):
        make_plan(open_source(tmp_path / "src"), Request(embed_mult=2, head_dim_mult=2))


def test_a_scaled_weight_that_overflows_its_own_dtype_is_refused(tmp_path: Path) -> None:
    """The stream's writers are scaled by √1.5 here, and the largest number of float16 is 65,504."""
    model = models.load(models.build("llama-gqa-tied", tmp_path / "src")).half()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = 6e4
    model.save_pretrained(tmp_path / "large")
    with pytest.raises(RequestError, match=r"down_proj.weight: contains numbers too large"):
        expand(tmp_path / "large", tmp_path / "clone", Request(embed_mult=1.5))


@pytest.mark.parametrize(
    "variant, eps",
    [
        ("llama-gqa-tied", {"rms_norm_eps": 0.3}),
        ("qwen3", {"rms_norm_eps": 0.3}),
        ("gemma3-gqa", {"rms_norm_eps": 0.3}),
        ("olmo2", {"rms_norm_eps": 0.3}),
        ("pythia", {"layer_norm_eps": 0.3}),
    ],
)
def test_the_eps_of_a_norm_weighs_as_much_as_before(variant: str, eps: dict[str, Any], tmp_path: Path) -> None:
    """Padding changes what norms divide by; an eps that is large beside the variance shows it."""
    src = models.build(variant, tmp_path / "src", hidden_size=128, **eps)
    head_dim_mult = 1 if variant == "pythia" else 2
    plan = expand(src, tmp_path / "clone", Request(embed_mult=2.25, head_dim_mult=head_dim_mult))
    assert relative_error(src, tmp_path / "clone") <= 1e-5
    assert plan.config.items() >= eps.items()


def test_an_eps_that_no_config_states_weighs_as_much_as_before(tmp_path: Path) -> None:
    """OPT's is 1e-5 in the code: it matters to a residual stream as small as that."""
    model = models.load(models.build("opt-125m", tmp_path / "src", hidden_size=128))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed" in name or "out_proj" in name or "fc2" in name:
                parameter *= 3e-3
    model.save_pretrained(tmp_path / "small")
    expand(tmp_path / "small", tmp_path / "clone", Request(embed_mult=1.5))
    assert relative_error(tmp_path / "small", tmp_path / "clone") <= 1e-5
