"""How similar the copies of a clone are, whether training keeps them equal, and whether the plan foretold it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from hyperclone_cli.cli.inspection_output import EQUAL, show_inspection
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.families.vocabulary import linear, optional
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.inspection.gradients import GradientFigures
from hyperclone_cli.inspection.inspector import Inspection, inspect
from hyperclone_cli.inspection.similarity import rank_fraction
from hyperclone_cli.planning.symmetry import ALL_COPIES, advice, copies_with_equal_gradients
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.command_line import as_json, hyperclone
from support.heard import Heard

Sources = Callable[[str], Path]
MIXINGS = {
    "halving": Mixing("halving"),
    "symmetric": Mixing("symmetric"),
    "diagonal": Mixing("diagonal"),
    "uneven": Mixing("uneven"),
    "noise": Mixing("symmetric", noise_snr_db=10.0),
    "uneven-noise": Mixing("uneven", noise_snr_db=10.0),
}


def request(mixing: str, embed: int = 2, ffn: int = 2) -> Request:
    return Request(embed_mult=embed, ffn_mult=ffn, mixing=MIXINGS[mixing])


def figures(inspection: Inspection, *names: str) -> list[float]:
    """These figures of every part that has them."""
    found = [getattr(layer, name) for layer in inspection.layers for name in names]
    return [figure for figure in found if figure is not None]


def difference(inspection: Inspection) -> float:
    """The largest of any gradient, where some were compared."""
    assert inspection.gradients is not None
    assert inspection.gradients.largest_difference is not None
    return inspection.gradients.largest_difference


WEIGHTS, GRADIENTS = ("outputs", "inputs"), ("gradient_outputs", "gradient_inputs")


@pytest.mark.parametrize("variant", ["llama-gqa-tied", "llama-mha", "opt-350m", "pythia", "gemma3-mqa", "olmo-tied"])
@pytest.mark.parametrize("embed, ffn", [(2, 2), (3, 2), (1, 3)])
def test_the_copies_of_a_symmetric_clone_are_equal_and_get_equal_gradients(
    variant: str, embed: int, ffn: int, source: Sources, tmp_path: Path
) -> None:
    expand(source(variant), tmp_path / "clone", request("symmetric", embed, ffn))
    found = inspect(tmp_path / "clone", gradients=True)
    assert all(figure == pytest.approx(1.0, abs=1e-6) for figure in figures(found, *WEIGHTS))
    assert all(figure == pytest.approx(1.0, abs=1e-5) for figure in figures(found, *GRADIENTS))
    assert difference(found) < EQUAL


@pytest.mark.parametrize(
    "mixing, outputs, inputs",
    [
        ("halving", 0.707, 0.447),
        ("symmetric", 1.0, 1.0),
        ("diagonal", 0.0, 0.0),
        ("uneven", 0.976, 0.944),
        ("noise", 1 / 1.1, 0.9 / 1.1),
    ],
)
def test_the_cosines_of_the_weights_are_those_of_the_strategy(
    mixing: str, outputs: float, inputs: float, source: Sources, tmp_path: Path
) -> None:
    """Of C's rows and of its columns: (1, 0) and (1/2, 1/2) for halving, (1/3, 2/3) and (1/5, 4/5) for uneven.

    Noise of a tenth of the power has opposite signs in the two input copies.
    """
    expand(source("llama-gqa-tied"), tmp_path / "clone", request(mixing))
    for layer in inspect(tmp_path / "clone").layers:
        if layer.layer is not None:
            assert layer.outputs == pytest.approx(outputs, abs=0.02)
            assert layer.inputs == pytest.approx(inputs, abs=0.02)


def test_a_symmetric_clone_has_half_the_rank_that_others_have(source: Sources, tmp_path: Path) -> None:
    for mixing, expected in (("symmetric", 0.5), ("halving", 1.0), ("uneven", 1.0), ("noise", 1.0)):
        expand(source("llama-mha"), tmp_path / mixing, request(mixing))
        layers = [layer for layer in inspect(tmp_path / mixing).layers if layer.part in ("attention", "feed-forward")]
        assert [layer.rank for layer in layers] == [expected] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_rank_fraction_is_the_rank_over_the_smaller_side(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = torch.randn(20, 45, generator=torch.Generator().manual_seed(0)).to(dtype)
    matrix = matrix.repeat(2, 2)
    assert rank_fraction(matrix if shape == (40, 90) else matrix.T) == 0.5
    assert rank_fraction(torch.zeros(shape)) == 0.0


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("variant", ["llama-gqa-tied", "llama-mha", "opt-350m", "olmo-tied"])
@pytest.mark.parametrize("embed, ffn", [(2, 2), (2, 4), (1, 3)])
def test_the_plan_foretells_whether_gradients_are_equal(
    variant: str, embed: int, ffn: int, mixing: str, source: Sources, tmp_path: Path
) -> None:
    plan = expand(source(variant), tmp_path / "clone", request(mixing, embed, ffn))
    assert (copies_with_equal_gradients(plan) == ALL_COPIES) is (
        difference(inspect(tmp_path / "clone", gradients=True)) < EQUAL
    )


@pytest.mark.parametrize("variant, equal", [("llama-mha", False), ("opt-125m", True)])
def test_copies_of_queries_alone_diverge_in_a_larger_head_with_rotary_positions(
    variant: str, equal: bool, source: Sources, tmp_path: Path
) -> None:
    plan = expand(
        source(variant), tmp_path / "clone", Request(embed_mult=2, head_dim_mult=2, mixing=MIXINGS["symmetric"])
    )
    equal_gradients = difference(inspect(tmp_path / "clone", gradients=True)) < EQUAL
    assert (copies_with_equal_gradients(plan) == ALL_COPIES) is equal_gradients is equal
    assert ("All copies except those of queries" in advice(plan)) is not equal


@pytest.mark.parametrize("variant", ["gpt2", "granitemoe", "gpt_oss", "dbrx"])
def test_equal_and_different_copies_are_told_apart_in_transposed_and_fused_tensors(
    variant: str, source: Sources, tmp_path: Path
) -> None:
    for mixing, alike in (("symmetric", True), ("noise", False)):
        expand(source(variant), tmp_path / mixing, request(mixing))
        found = inspect(tmp_path / mixing, gradients=True)
        assert (difference(found) < EQUAL) is alike
        inner = [layer for layer in found.layers if layer.part == "feed-forward"]
        assert len(inner) == 2
        for layer in inner:
            assert layer.outputs is not None
            assert layer.inputs is not None
            assert (min(layer.outputs, layer.inputs) > 0.999999) is alike


@pytest.mark.parametrize(
    "variant", ["mixtral", "mixtral (fused experts)", "qwen3_moe", "deepseek_v3", "jamba", "granitemoe"]
)
def test_the_gradients_of_experts_are_compared_however_these_are_stored(
    variant: str, source: Sources, tmp_path: Path
) -> None:
    """Where only the feed-forward width grows, there is little else to compare."""
    for mixing, equal in (("symmetric", True), ("noise", False)):
        expand(source(variant), tmp_path / mixing, request(mixing, embed=1))
        found = inspect(tmp_path / mixing, gradients=True)
        assert found.notes == ()
        assert all(layer.gradient_outputs is not None for layer in found.layers if layer.outputs is not None)
        assert (difference(found) < EQUAL) is equal


def test_what_transformers_does_not_train_is_not_compared_and_that_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = "model.adapter.weight"
    family = FAMILIES["llama"].variant("llama", tensors={"model.adapter": optional(linear("embed", "ffn"))})
    monkeypatch.setitem(FAMILIES, "llama", family)
    src = models.build("llama-mha", tmp_path / "source")
    expand(src, tmp_path / "clone", request("symmetric"))
    for path, weight in ((src, torch.ones(48, 80)), (tmp_path / "clone", torch.full((96, 160), 0.5))):
        tensors = load_file(path / "model.safetensors") | {extra: weight}
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    found = inspect(tmp_path / "clone", gradients=True)
    assert difference(found) < EQUAL
    assert [note for note in found.notes if "1 of 17 matrices have no gradient" in note and extra in note]


def test_where_no_gradient_was_compared_there_is_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = GradientFigures("random tokens", tokens=64, device="cpu", loss=4.0, largest_difference=None)
    show_inspection(Inspection("clone", "clone", (), nothing), as_json=False)
    said = capsys.readouterr().out
    assert "none could be compared" in said
    assert "gradients are equal up" not in said


@pytest.mark.parametrize(
    "variant, mixing, named",
    [
        ("llama-mha", "symmetric", ["--noise-snr-db 10", "--strategy halving"]),
        ("llama-gqa-tied", "diagonal", ["--noise-snr-db 10", "--strategy halving"]),
        ("llama-gqa-tied", "halving", []),
        ("llama-mha", "halving", []),
        ("llama-gqa-tied", "uneven", []),
        ("llama-mha", "noise", []),
    ],
)
def test_the_advice_names_options_that_make_the_copies_diverge(
    variant: str, mixing: str, named: list[str], source: Sources, tmp_path: Path
) -> None:
    found = advice(expand(source(variant), tmp_path / "clone", request(mixing)))
    assert bool(found) is bool(named)
    assert all(option in found for option in named)


def test_a_copy_has_nothing_to_compare_and_needs_no_advice(source: Sources, tmp_path: Path) -> None:
    plan = expand(source("llama-mha"), tmp_path / "clone", Request())
    found = inspect(tmp_path / "clone", gradients=True)
    assert (found.layers, found.gradients, advice(plan)) == ((), None, "")
    assert "Nothing grew" in found.notes[0]


def train(clone: Path, out: Path, steps: int = 200) -> Path:
    """Train on one set of random batches in float32, without dropout, and save as transformers does."""
    torch.manual_seed(0)
    model: Any = models.load(clone)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = [models.tokens(rows=4, length=8 + number) for number in range(8)]
    for step in range(steps):
        ids = batches[step % len(batches)]
        loss = cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.save_pretrained(out)
    return out


@pytest.mark.parametrize(
    "variant, mixing, diverge",
    [
        ("llama-mha", "symmetric", False),
        ("llama-mha", "uneven", True),
        ("llama-mha", "noise", True),
        ("llama-gqa-tied", "symmetric", False),
        ("llama-gqa-tied", "uneven", True),
        ("llama-gqa-tied", "noise", True),
    ],
)
def test_copies_diverge_in_training_if_their_gradients_differ_and_only_then(
    variant: str, mixing: str, diverge: bool, source: Sources, tmp_path: Path
) -> None:
    """Gradients of input copies are equal as long as the activations are, so they tell when copies have diverged."""
    expand(source(variant), tmp_path / "clone", request(mixing))
    before = inspect(tmp_path / "clone", gradients=True)
    after = inspect(train(tmp_path / "clone", tmp_path / "trained"), clone=tmp_path / "clone", gradients=True)
    assert min(figures(before, "gradient_inputs")) >= 0.999999
    if diverge:
        assert min(figures(before, "gradient_outputs")) < 0.99
        assert max(figures(after, "gradient_inputs")) < 0.99995
        assert min(figures(after, "gradient_inputs")) < 0.999
    else:
        assert min(figures(after, *GRADIENTS)) >= 0.999999
    moved = [abs(a - b) for a, b in zip(figures(after, *WEIGHTS), figures(before, *WEIGHTS), strict=True)]
    if mixing == "symmetric":
        assert min(figures(after, *WEIGHTS)) >= 0.999999
    else:
        assert max(moved) > 0.001


def test_copies_that_read_padding_by_different_noise_diverge(source: Sources, tmp_path: Path) -> None:
    """Their first gradients are equal; once the padding holds something, they are not."""
    plan = expand(source("llama-mha"), tmp_path / "clone", Request(embed_mult=2.5, ffn_mult=2))
    assert copies_with_equal_gradients(plan) == ""
    after = inspect(train(tmp_path / "clone", tmp_path / "trained"), clone=tmp_path / "clone", gradients=True)
    assert min(figures(after, *WEIGHTS)) < 0.9999
    assert min(figures(after, "gradient_inputs")) < 0.999


def test_a_checkpoint_of_another_shape_or_without_a_record_is_refused(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mha"), tmp_path / "clone", request("symmetric"))
    expand(source("llama-mha"), tmp_path / "other", request("symmetric", 3, 3))
    with pytest.raises(CheckpointError, match=r"hyperclone\.json"):
        inspect(source("llama-mha"))
    with pytest.raises(CheckpointError, match=r"expected \[96, 96\], found \[96, 144\]"):
        inspect(tmp_path / "other", clone=tmp_path / "clone")
    with pytest.raises(CheckpointError, match="found none"):
        inspect(source("opt-125m"), clone=tmp_path / "clone")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"gradients": True, "device": "nosuch"}, "--device nosuch: "),
        ({"device": "cpu"}, "--device cpu: without --gradients no model is run"),
    ],
)
def test_a_device_is_refused_before_anything_is_compared(
    options: dict[str, Any], words: str, source: Sources, tmp_path: Path
) -> None:
    expand(source("llama-mha"), tmp_path / "clone", request("symmetric"))
    heard = Heard()
    with pytest.raises(RequestError, match=words):
        inspect(tmp_path / "clone", progress=heard, **options)
    assert heard.steps == []


def test_a_source_that_moved_can_be_named(tmp_path: Path) -> None:
    models.build("llama-mha", tmp_path / "source")
    expand(tmp_path / "source", tmp_path / "clone", request("symmetric"))
    (tmp_path / "source").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError) as refused:
        inspect(tmp_path / "clone")
    assert "--src" in refused.value.hint
    assert inspect(tmp_path / "clone", src=tmp_path / "moved").notes == ()


def test_the_command_prints_a_table_or_json(source: Sources, tmp_path: Path) -> None:
    grown = hyperclone(
        "expand",
        "--src",
        source("llama-mha"),
        "--out",
        tmp_path / "clone",
        "--embed-mult",
        2,
        "--strategy",
        "symmetric",
    )
    assert grown.stderr.count("--noise-snr-db 10") == 1
    picture = tmp_path / "copies.png"
    table = hyperclone("inspect", tmp_path / "clone", "--gradients", "--plot", picture)
    assert table.stdout.count("1.000") >= 2 * (2 + 4)
    assert (
        "gradients are equal up to rounding: an elementwise optimizer such as AdamW keeps the copies equal"
        in table.stdout
    )
    assert table.stderr.splitlines() == [
        f"Reading {source('llama-mha')} …",
        f"Comparing the copies in {tmp_path / 'clone'} …",
        f"Loading {tmp_path / 'clone'} in float32 …",
        "Running it forward and backward on 64 tokens …",
        "Comparing the gradients of the copies …",
    ]
    assert picture.stat().st_size > 0
    found = as_json(hyperclone("inspect", tmp_path / "clone", "--json"))
    assert [(layer["layer"], layer["part"]) for layer in found["layers"]] == [
        (None, "embedding"),
        *[(layer, part) for layer in range(2) for part in ("attention", "feed-forward")],
        (None, "head"),
    ]
    assert found["gradients"] is None
    assert json.loads((tmp_path / "clone" / "hyperclone.json").read_text())["schema_version"] == 1
    hyperclone("inspect", source("llama-mha"), code=3)
    hyperclone("inspect", tmp_path / "clone", "--plot", tmp_path / "absent" / "copies.png", code=2)


def test_on_a_chain_the_copies_of_each_growth_are_told_apart(source: Sources, tmp_path: Path) -> None:
    src = shutil.copytree(source("llama-gqa-tied"), tmp_path / "src")
    expand(src, tmp_path / "first", request("symmetric"))
    expand(tmp_path / "first", tmp_path / "second", Request(embed_mult=2, depth_mult=2, mixing=MIXINGS["noise"]))
    found = inspect(tmp_path / "second")
    of_growth = {
        growth: {(one.layer, one.part): one for one in found.layers if one.growth == growth} for growth in (1, 2)
    }
    assert {layer for layer, _ in of_growth[1]} == {None, 0, 1}
    assert {layer for layer, _ in of_growth[2]} == {None, 0, 1, 2, 3}
    assert [one.outputs for one in of_growth[1].values() if one.outputs is not None] == pytest.approx([1.0] * 5)
    assert of_growth[1][0, "feed-forward"].inputs == pytest.approx(1.0)
    assert of_growth[2][0, "feed-forward"].inputs < 0.99  # type: ignore[operator]
    shown = hyperclone("inspect", tmp_path / "second").stdout.splitlines()
    assert shown[1].split() == ["growth", "layer", "part", "outputs", "inputs", "rank"]
    shutil.rmtree(src)
    found = inspect(tmp_path / "second")
    assert {one.growth for one in found.layers} == {2}
    assert any(f"are not shown: of {src}" in note for note in found.notes)
