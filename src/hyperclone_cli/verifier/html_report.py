"""A verification as one HTML page: no scripts, nothing loaded from elsewhere, the same bytes for the same report.

The page is made to be passed on. It therefore shows names without paths, and neither a host nor a clock time: a
time would be the only difference between two reports of the same clone on the same machine.
Whatever comes from the checkpoints (names, config values, tokens) is escaped by the template.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.verifier import report_view
from hyperclone_cli.verifier.layer_chart import layer_chart
from hyperclone_cli.verifier.report import Report, finite
from hyperclone_cli.verifier.verification_record import record_page, replace_file
from hyperclone_cli.writing.clone_files import REPORT_NAME, replacement_of

_TEMPLATE = Path(__file__).with_name("html_report.html.jinja")

FAILURES_SHOWN, FAILURES_AT_MOST = 20, 2000
"""How many failures are shown at once, and how many the page holds. The JSON of `verify` has all of them."""


def check_report(path: Path, clone: Path) -> None:
    """Raise RequestError if the page cannot be written to `path`. Call it before the work; `clone` may not exist yet.

    In the clone's directory the page has one name, by which `push` and later verifications know it.
    """
    if find_spec("matplotlib") is None:
        raise RequestError("--report needs matplotlib.", "Install it: pip install 'hyperclone-cli[plot]'")
    place, home = Path(os.path.realpath(path)), Path(os.path.realpath(clone))
    if place.suffix.lower() not in (".html", ".htm") or os.path.isdir(place):
        raise RequestError(f"--report {path}: expected the name of an .html file.")
    if home in place.parents:
        if place != home / REPORT_NAME:
            raise RequestError(
                f"--report {path}: in the clone's directory the page is called {REPORT_NAME}.",
                f"Use {clone / REPORT_NAME}, or a directory outside the clone.",
            )
        if not home.exists():
            return
    new = place.with_name(replacement_of(place.name))  # which will be written first
    try:
        new.touch()
        new.unlink()
    except OSError as error:
        raise RequestError(f"--report {path}: it cannot be written: {error.strerror or error}.") from None


def write_report(report: Report, path: Path) -> None:
    """Write a verification to `path` as an HTML page. In the clone's directory, the clone's card links it.

    Raises RequestError as `check_report` does, StorageError if the disk fails.
    """
    check_report(path, Path(report.clone))
    text = render(report).encode(errors="backslashreplace")  # config.json may hold half a surrogate pair
    place = Path(os.path.realpath(path))
    try:
        replace_file(place, text)
        if place.parent == Path(os.path.realpath(report.clone)):
            record_page(place.parent, finite(report.as_json()))
    except OSError as error:
        raise StorageError(f"--report {path}: {error.strerror or error}.") from error


def render(report: Report) -> str:
    """The page of a verification."""
    templates = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= {"number": report_view.number, "visible": _visible, "figures": _figures}
    shown = sorted(report.failures, key=report_view.place_in_list)[:FAILURES_AT_MOST]
    without_paths = _without_paths(report)
    return templates.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        background=report.background,
        source=without_paths(report.source) if not report.background else report.background.source.name,
        clone=Path(os.path.abspath(report.clone)).name,
        headline=report_view.headline(report),
        summary=report_view.summary(report),
        checks=report_view.checks(report),
        sizes=report_view.sizes(report.background) if report.background else [],
        growth=report_view.growth(report.background) if report.background else "",
        chart=layer_chart(report.logits) if report.logits else "",
        layers=report_view.layers(report),
        experts=report_view.experts(report),
        prompts=report_view.prompts(report),
        failures=[without_paths(failure) for failure in shown],
        first_failures=FAILURES_SHOWN,
        more_failures=len(report.failures) - len(shown),
        notes=[without_paths(note) for note in report.notes],
    )


def _without_paths(report: Report) -> Callable[[str], str]:
    """A function that replaces the paths of clone, source and home directory in a text by their names."""
    names = {os.path.expanduser("~"): "~"}
    for path in (report.clone, report.source):
        if os.path.exists(path):  # not a model on the Hub
            name = os.path.basename(os.path.abspath(path))
            names |= dict.fromkeys((os.path.abspath(path), os.path.realpath(path)), name)
            names |= {path: name} if os.sep in path else {}
    longest_first = sorted((path for path in names if len(path) > 3), key=len, reverse=True)

    def without_paths(text: str) -> str:
        for path in longest_first:
            text = text.replace(path, names[path])
        return text

    return without_paths


def _figures(text: str) -> list[str]:
    """A text, cut so that every second part is a figure such as 1.2e-06, within which no line must end."""
    return re.split(r"(\d\.\d+e[+-]\d+)", text)


def _visible(text: str) -> str:
    """A text whose line breaks are seen."""
    return text.replace("\n", "↵\n")
