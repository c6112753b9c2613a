"""Sizes that are no multiples of the source's: the same function, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import STRATEGIES, Mixing
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models

Sources = Callable[[str], Path]

WHOLE_HEADS = "hidden_size is heads × head size"
OWN_KEYS = "every query head has a key and value head of its own"
MULTIPLE = "here a multiple of"
EVEN_HEADS = "a norm spans all heads"
DIVIDES = "transformers requires hidden_size to be a multiple"

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


@pytest.fixture
def source(wide_source: Sources) -> Sources:
    return wide_source


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
    assert models.logit_error(src, out) <= 1e-5
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
    assert models.logit_error(source(variant), tmp_path / "clone") <= 1e-5
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


def test_a_width_that_no_number_of_heads_fits_names_one_that_works(source: Sources, tmp_path: Path) -> None:
    src = source("llama-gqa-tied")
    with pytest.raises(RequestError, match=r"--hidden-size 131: .* multiple of the number of heads") as refusal:
        expand(src, tmp_path / "clone", Request(hidden_size=131))
    width = int(refusal.value.hint.split()[-1].rstrip("."))
    expand(src, tmp_path / "clone", Request(hidden_size=width))
    assert models.logit_error(src, tmp_path / "clone") <= 1e-5


def test_a_scaled_weight_that_overflows_its_own_dtype_is_refused(tmp_path: Path) -> None:
    """The stream's writers are scaled by √1.5 here, and the largest number of float16 is 65,504."""
    model = models.load(models.build("llama-gqa-tied", tmp_path / "src")).half()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = 6e4
    model.save_pretrained(tmp_path / "large")
    with pytest.raises(RequestError, match=r"down_proj.weight: holds numbers too large"):
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
    assert models.logit_error(src, tmp_path / "clone") <= 1e-5
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
    assert models.logit_error(tmp_path / "small", tmp_path / "clone") <= 1e-5
