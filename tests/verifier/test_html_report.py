"""The page of a verification: what it says, what it must not say, and where it may be written."""

from __future__ import annotations

import json
import re
import resource
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from importlib.util import find_spec
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import Report, html_report, layer_chart, report_view, verify
from hyperclone_cli.verifier.report import (
    Background,
    Continuation,
    GenerationFigures,
    LogitFigures,
    ModelSizes,
    WeightFigures,
)
from hyperclone_cli.verifier.verification_record import check_verified
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.command_line import hyperclone
from test_architecture import PACKAGE

Sources = Callable[[str], Path]

LOGITS = LogitFigures(
    tokens=486,
    text="a page of English",
    dtype="float32",
    device="cpu",
    relative_error=1.24e-6,
    tolerance=1.76e-2,
    floor=1.76e-2,
    floor_dtype="bfloat16",
    max_abs_difference=5.5e-5,
    kl_divergence=5.8e-12,
    top1_agreement=1.0,
    perplexity_source=40.164,
    perplexity_clone=40.1641,
    layers=(("the embeddings", 0.0), ("layer 0", 3.4e-7), ("layer 1 or the final norm", 7.9e-7)),
)
MADE = (
    Continuation((5, 6), (7, 8, 9), (7, 8, 9), "Hello!", (" I", " am", "\nhere"), (" I", " am", "\nhere")),
    Continuation((6,), (7, 8, 9), (7, 4, 9), "Why?", (" I", " am", " x"), (" I", " was", " x")),
)
REPORT = Report(
    clone="clone",
    source="org/source",
    notes=("A note.",),
    weights=WeightFigures(272, 481_366_656, 0.0, "model.norm.weight", {}),
    logits=LOGITS,
    generation=GenerationFigures(2, (2, 1), 3, 1, 1, (), 3),
    continuations=MADE,
    background=Background(
        source=ModelSizes("org/source", {"embedding": 10, "attention": 20}, 60, 1152),
        clone=ModelSizes("clone", {"embedding": 20, "attention": 80}, 200, 2304),
        config=(("hidden_size", 48, 96), ("scale", None, 2.0)),
        command="hyperclone expand --src org/source --embed-mult 2 --out clone",
        environment={"hyperclone": "0.1.0", "device": "cpu"},
    ),
)
FAILED = replace(
    REPORT,
    failures=(
        "tensor model.layers.1.mlp.up_proj.weight is missing",
        "logits: relative error 2.7e-01 exceeds 1.8e-02; the copies first differ from the source at layer 1",
        "greedy decoding: prompt 2 differs from the source at token 2",
    ),
    logits=replace(LOGITS, relative_error=0.27, layers=(("the embeddings", 0.0), ("layer 0", 1e-7), ("layer 1", 0.3))),
    generation=replace(REPORT.generation, ties=0, parted=((1, 1),)) if REPORT.generation else None,
)


class Page(HTMLParser):
    """A page, taken apart by a parser: its elements, their attributes, and what is read."""

    VOID = ("meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.text = ""
        self.marked: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "mark":
            self.marked.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " " * (tag in ("td", "th"))

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "mark" in self.open:
            self.marked[-1] += data


def page(report: Report) -> Page:
    return Page(html_report.render(report))


VERDICTS: dict[str, tuple[Report, str, str]] = {
    "all": (REPORT, "Passed", "off by a relative error of 1.2e-06, where at most 1.8e-02 passes."),
    "weights only": (
        replace(REPORT, logits=None, generation=None, continuations=()),
        "Passed, weights only",
        "No model was run",
    ),
    "outputs only": (
        replace(REPORT, weights=None),
        "Passed, outputs only",
        "Config, files and weights were not compared",
    ),
    "failed": (FAILED, "Failed", "differs in: weights, logits, greedy decoding; the copies first differ at layer 1."),
    "could not be run": (
        replace(FAILED, failures=("/x/clone: transformers cannot load it",), logits=None, generation=None),
        "Failed",
        "differs in: running the models.",
    ),
}


@pytest.mark.parametrize("report, headline, words", VERDICTS.values(), ids=list(VERDICTS))
def test_the_verdict_says_what_was_compared(report: Report, headline: str, words: str) -> None:
    text = page(report).text
    assert f"{headline}: clone against org/source" in text
    assert words in text
    assert f"\n{headline}\n" in text


def test_a_page_shows_every_figure() -> None:
    text = " ".join(page(REPORT).text.split())
    for words in (
        "1.24e-06", "1.76e-02", "5.50e-05", "5.80e-12", "100.00%", "40.1640", "40.1641", "bfloat16", "481,366,656",
        "hidden_size 48 96 2 ×", "scale – 2.0", "parameters 30 100 3.333 ×", "1,152 2,304", "--embed-mult 2",
        "hyperclone 0.1.0", "A note.", "layer 1 or the final norm 7.9e-07", "the embeddings 0.0e+00 exact",
    ):  # fmt: skip
        assert words in text


def test_tokens_that_differ_are_marked_and_near_ties_are_not_called_failures() -> None:
    shown = page(REPORT)
    assert shown.marked == ["marked", " am", " was"]
    assert "✓ passed" in shown.text
    assert "✗" not in shown.text
    assert " I am↵\nhere" in shown.text
    assert "✗ the continuations differ" in page(FAILED).text


def test_near_ties_of_a_clone_that_failed_decide_nothing() -> None:
    report = replace(FAILED, failures=FAILED.failures[:2], generation=REPORT.generation)
    assert "– undecided \ngreedy decoding" in page(report).text


def test_without_a_tokenizer_the_ids_are_shown() -> None:
    bare = [replace(made, prompt="", source_texts=(), clone_texts=()) for made in MADE]
    shown = page(replace(REPORT, continuations=tuple(bare)))
    assert shown.marked == ["marked", "8 ", "4 "]
    assert "7 8 9" in shown.text
    assert "there is no tokenizer" in shown.text


HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}{% raw %}\"' onload='x"


def infect(value: Any) -> Any:
    """The same value with HOSTILE in front of every text in it."""
    if isinstance(value, str):
        return HOSTILE + value
    if isinstance(value, tuple | list):
        return type(value)(map(infect, value))
    if isinstance(value, dict):
        return {infect(key): infect(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: infect(getattr(value, field.name)) for field in fields(value)})
    return value


@pytest.mark.parametrize("report", [REPORT, FAILED], ids=["passed", "failed"])
def test_nothing_of_a_checkpoint_becomes_part_of_the_pages_code(report: Report) -> None:
    forged = infect(report)
    short = tuple(
        (f"<i>{number}", error) for number, (_, error) in enumerate(LOGITS.layers)
    )  # the chart has little room
    forged = replace(forged, logits=replace(forged.logits, floor_dtype="<b>&", layers=short))
    clean, infected = page(report), page(forged)
    assert infected.tags == clean.tags
    assert not {"script", "img", "link", "iframe", "object"} & infected.tags
    assert {name for name, _ in infected.attributes} == {name for name, _ in clean.attributes}
    assert not [name for name, _ in infected.attributes if name.startswith("on")]
    assert infected.text.count("<script>alert(1)</script>") > 20
    assert "{{ 7*7 }}" in infected.text


def test_half_a_surrogate_pair_in_a_config_is_written_all_the_same(tmp_path: Path) -> None:
    assert REPORT.background is not None
    odd = replace(REPORT.background, config=(("\ud800", None, "\u202ehtml"),))
    html_report.write_report(replace(REPORT, background=odd), tmp_path / "page.html")
    assert "\\ud800" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_page_asks_for_nothing_from_elsewhere() -> None:
    shown = page(FAILED)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in shown.attributes
    links = [value for name, value in shown.attributes if name in ("href", "src", "xlink:href")]
    assert links  # the marks of the chart are defined once
    assert all(link.startswith("#") for link in links)
    text = html_report.render(FAILED)
    assert "@import" not in text
    assert "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize("count", [21, 5000])
def test_a_long_list_of_failures_is_folded_and_bounded(count: int) -> None:
    text = page(replace(FAILED, failures=tuple(f"tensor number {n}. is missing" for n in range(count)))).text
    assert text.index("tensor number 9.") < text.index("tensor number 10.")
    first, folded = text.split(f"{min(count, 2000) - 20:,} more", 1)
    assert first.count("is missing") == 20
    assert folded.count("is missing") == min(count, 2000) - 20
    assert ("and 3,000 more" in folded) is (count == 5000)
    assert f"{count:,} failures" in text


@pytest.mark.parametrize(
    "errors, relative_error, floor",
    [
        ([0.0] * 3, 0.0, 0.0),
        ([1e-7, inf, nan], inf, 1e-2),
        ([1e-30, 1e30], 1e-6, 1e-5),
        ([i * 1e-8 for i in range(81)], 1e-6, 1e-5),
    ],
    ids=["exact", "not finite", "far apart", "80 layers"],
)
def test_the_chart_has_a_mark_for_every_output(errors: list[float], relative_error: float, floor: float) -> None:
    layers = tuple((f"layer {number}", error) for number, error in enumerate(errors))
    figures = replace(LOGITS, layers=layers, relative_error=relative_error, floor=floor)
    svg = layer_chart.layer_chart(figures)
    assert svg == layer_chart.layer_chart(figures)
    marks = re.findall(r'<g id="mark-\d+">.*?style="fill: var\(--(\w+)\); stroke: var\(--(\w+)\)[;"]', svg, re.DOTALL)
    colours = ["good" if error <= figures.tolerance else "bad" for error in [*errors, relative_error]]
    fills = [colour if error else "paper" for colour, error in zip(colours, [*errors, relative_error], strict=True)]
    assert marks == list(zip(fills, colours, strict=True))
    assert "#0000" not in svg
    assert ">logits</text>" in svg


@pytest.mark.parametrize("count", [1, 2, 14, 20, 21, 22, 82, 127, 500])
def test_the_horizontal_axis_is_not_crowded(count: int) -> None:
    places = layer_chart._ticks(count)
    assert places == sorted(set(places))
    assert places[-1] == count - 1
    assert len(places) <= 21
    assert places[0] == 0
    assert all(b - a >= count / 40 for a, b in pairwise(places))


REFUSED: dict[str, tuple[str, str]] = {
    "another kind of file": ("page.txt", "expected the name of an .html file"),
    "a directory": ("is-one.html", "expected the name of an .html file"),
    "in a directory that is not there": ("absent/page.html", "No such file"),
    "in a file": ("file/page.html", "Not a directory"),
    "a name that is too long": ("x" * 300 + ".html", "too long"),
    "another name in the clone": ("clone/page.html", r"is called verification\.html"),
    "a file of the clone": ("clone/LICENSE.html", r"is called verification\.html"),
    "deep in the clone": ("clone/run/verification.html", r"is called verification\.html"),
    "another name in the clone, by another way": ("other/../clone/page.html", r"is called verification\.html"),
}


@pytest.mark.parametrize("name, words", REFUSED.values(), ids=list(REFUSED))
def test_a_page_that_cannot_be_written_is_refused(name: str, words: str, tmp_path: Path) -> None:
    for directory in ("is-one.html", "other", "clone/run"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=words):
        html_report.check_report(tmp_path / name, tmp_path / "clone")
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".new"]


def test_without_matplotlib_it_is_refused_and_the_extra_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_report, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    with pytest.raises(RequestError) as refused:
        html_report.check_report(tmp_path / "page.html", tmp_path)
    assert "pip install 'hyperclone-cli[plot]'" in refused.value.hint


def test_a_page_in_a_clone_that_is_not_written_yet_may_be_asked_for(tmp_path: Path) -> None:
    html_report.check_report(tmp_path / "clone" / "verification.html", tmp_path / "clone")


def test_a_refusal_comes_before_anything_is_computed_or_written(source: Sources, tmp_path: Path) -> None:
    request = ("expand", "--src", source("llama-mqa"), "--ffn-mult", 2, "--out", tmp_path / "clone")
    refused = hyperclone(*request, "--report", tmp_path / "page.txt", code=2)
    assert "…" not in refused.stderr
    assert "leave --no-verify out" in hyperclone(*request, "--no-verify", "--report", "x.html", code=2).stderr
    assert not list(tmp_path.iterdir())
    refused = hyperclone("verify", tmp_path / "clone", "--report", tmp_path / "absent" / "page.html", code=2)
    assert "…" not in refused.stderr


@pytest.fixture(scope="module")
def expanded(source: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone that `expand --report` verified. Tests of it run in turn."""
    clone = tmp_path_factory.mktemp("private") / "clone"
    line = ("expand", "--src", source("llama-gqa-tied"), "--embed-mult", 2, "--ffn-mult", 2, "--out", clone)
    hyperclone(*line, "--report", clone / "verification.html")
    return clone


def test_a_page_names_no_host_and_no_path(expanded: Path, source: Sources) -> None:
    text = (expanded / "verification.html").read_text()
    found = page(verify(expanded, weights_only=True))  # notes that nothing is recorded in the clone
    assert "Nothing is recorded in clone:" in found.text
    for private in (str(expanded.parent), str(source("llama-gqa-tied").parent), socket.gethostname()):
        assert private not in text
        assert private not in found.text
    for words in ("Passed", "llama-gqa-tied", sys.version.split()[0], torch.__version__, "there is no tokenizer"):
        assert words in text


def test_the_page_in_a_clone_is_linked_pushed_and_no_stranger(expanded: Path) -> None:
    assert "(verification.html)" in (expanded / "README.md").read_text()
    check_verified(expanded)
    first = (expanded / "verification.html").read_bytes()
    report = verify(expanded)
    assert report.notes == ()
    html_report.write_report(report, expanded / "verification.html")
    assert (expanded / "verification.html").read_bytes() == first
    check_verified(expanded)


def test_a_page_of_an_earlier_verification_is_neither_linked_nor_pushed(expanded: Path) -> None:
    html_report.write_report(verify(expanded, weights_only=True), expanded / "verification.html")
    with pytest.raises(RequestError, match=r"verification\.html: this page is not that of the clone's last"):
        check_verified(expanded)
    report = verify(expanded)
    assert "verification.html" not in (expanded / "README.md").read_text()
    with pytest.raises(RequestError, match=r"verification\.html: this page is not that of the clone's last"):
        check_verified(expanded)
    html_report.write_report(report, expanded / "verification.html")
    check_verified(expanded)
    (expanded / "verification.html").write_text("forged")
    with pytest.raises(RequestError, match=r"verification\.html: this page is not that of the clone's last"):
        check_verified(expanded)
    (expanded / "verification.html").unlink()
    assert verify(expanded).passed
    check_verified(expanded)


def test_a_page_elsewhere_leaves_the_clone_alone(expanded: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in expanded.iterdir()}
    hyperclone("verify", expanded, "--weights-only", "--report", tmp_path / "page.html")
    assert {path.name: path.read_bytes() for path in expanded.iterdir()} == before
    assert "Passed, weights only" in (tmp_path / "page.html").read_text()


def test_a_failed_clone_gets_its_page_too(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mqa"), tmp_path / "clone", Request(ffn_mult=2))
    config = json.loads((tmp_path / "clone" / "config.json").read_text())
    (tmp_path / "clone" / "config.json").write_text(json.dumps(config | {"<i>key": "<b>"}))
    hyperclone("verify", tmp_path / "clone", "--weights-only", "--report", tmp_path / "page.html", code=4)
    shown = Page((tmp_path / "page.html").read_text())
    assert "differs in: config and files." in shown.text
    assert "config.json: <i>key should be 'absent', found '<b>'" in shown.text


def test_a_disk_that_fails_is_one_error_and_the_old_page_stays(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    layer_chart.layer_chart(LOGITS)  # matplotlib writes a cache of fonts once
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # Python ignores the signal, so that writing fails
    try:
        with pytest.raises(StorageError, match=r"page\.html: File too large"):
            html_report.write_report(REPORT, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"page.html": "old"}


def test_the_template_is_part_of_the_wheel() -> None:
    """Hatch puts every file of the package into it, but for those that git ignores."""
    root = PACKAGE.parent.parent
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["src/hyperclone_cli"]}
    assert PACKAGE in html_report._TEMPLATE.parents
    ignored = [line.strip() for line in (root / ".gitignore").read_text().splitlines()]
    assert not [pattern for pattern in ignored if html_report._TEMPLATE.match(pattern.strip("/") or "#")]


def test_importing_the_verifier_imports_neither_jinja_nor_matplotlib() -> None:
    code = (
        "import sys; from hyperclone_cli.verifier import verify\nassert not {'jinja2', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kind_of_failure_belongs_to_a_comparison(tmp_path: Path) -> None:
    """What the messages begin with is agreed upon by those who write them and CHECKS."""
    clone, src = tmp_path / "clone", models.build("llama-mqa", tmp_path / "src")
    expand(src, clone, Request(ffn_mult=2))

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].roll(1)
        tensors["lm_head.weight"] = tensors["lm_head.weight"].roll(1, 0)
        tensors["stray"] = torch.zeros(3)

    wrong = models.edited(clone, tmp_path / "wrong", change, rms_norm_eps=0.1)
    (wrong / "generation_config.json").write_text("{}")
    found = report_view.checks(verify(wrong))
    assert [check.name for check in found] == [name for name in report_view.CHECKS if name != "picture"]
    assert [check.status for check in found] == [*["failed"] * 4, "undecided"]
