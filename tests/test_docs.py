"""The documentation: links resolve, generated pages are up to date, and nothing that a reader looks for is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

import generated_docs
from generated_docs import DOCS
from hyperclone_cli.cli.app import app
from hyperclone_cli.families import FAMILIES
from test_architecture import LAYERS, PACKAGE

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$|^    [^\n]*$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not link.startswith("https://") and (not target.exists() or (anchor and anchor not in anchors(target))):
            broken.append(link)
    assert broken == []


def test_pages_that_are_shipped_link_to_no_file_that_is_not() -> None:
    links = {page.name: re.findall(r"\]\(([^)\s#]+)", prose(page)) for page in DOCS.glob("*.md")}
    files = {name: [link for link in all_links if not link.startswith("https://")] for name, all_links in links.items()}
    assert {name: found for name, found in files.items() if any("/" in link for link in found)} == {}


@pytest.mark.parametrize("path", generated_docs.PAGES, ids=lambda path: path.name)
def test_generated_pages_are_up_to_date(path: Path) -> None:
    assert path.read_text() == generated_docs.PAGES[path](), "make docs writes it anew"


def test_every_architecture_names_models_that_have_it() -> None:
    assert [name for name, family in FAMILIES.items() if not family.known_as] == []


def test_the_reference_has_every_option_of_every_command_and_an_example() -> None:
    page = (DOCS / "options.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## hyperclone (\w+)\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL))
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert sections.keys() == commands.keys()
    for name, command in commands.items():
        options = {option for param in command.params for option in param.opts if option.startswith("--")}
        assert {option for option in options - {"--help"} if f"| `{option}` | " not in sections[name]} == set()
        assert f"\n```\nhyperclone {name} " in sections[name]


def the_map() -> list[tuple[str, str, str]]:
    """(package, name, phrase) of each line of the map of the code; the package of what stands at its left is empty."""
    (block,) = re.findall(r"<!-- map -->(.*)<!-- /map -->", (DOCS / "design.md").read_text(), re.DOTALL)
    lines, package = [], ""
    for indent, name, phrase in re.findall(r"^ {4}( *)(\S+) +(.*)$", block, re.MULTILINE):
        package = package if indent else name
        lines.append((package if indent else "", name, phrase))
    return lines


def test_the_map_of_the_code_has_a_phrase_for_every_module_and_for_no_other() -> None:
    own = (
        "__init__",
        "axes",
        "vocabulary",
        "layer_rules",
        "positions",
        "routing",
        "upcycling",
        "table",
        "statements",
        "tensor_names",
        "blocks",
    )
    wrappers = ("wrapper", "wrappers", "text_classes", "config_defaults", "tiny_towers")
    answers = ("refused", "coverage", "transformers_faults")
    parts = {f"families/{name}.py" for name in (*own, *wrappers, *answers)}
    modules = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.stat().st_size}
    lineages = {module for module in modules if module.startswith("families/")} - parts
    mapped = [package + name for package, name, _ in the_map() if not name.endswith("/")]
    assert sorted(mapped) == sorted(modules - lineages | {"families/*.py"})
    assert all(phrase for _, _, phrase in the_map())


def test_the_map_of_the_code_is_in_the_order_of_imports() -> None:
    top = [name.rstrip("/").removesuffix(".py") for package, name, _ in the_map() if not package]
    assert [name for name in top if name in LAYERS] == LAYERS
    assert set(top) - set(LAYERS) == {"__init__", "docs"}
