"""Imports go one way, and light commands import neither torch nor transformers."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from support.command_line import hyperclone

PACKAGE = Path(__file__).parent.parent / "src" / "hyperclone_cli"

LAYERS = [
    "errors",
    "progress",
    "families",
    "checkpoint",
    "growth",
    "hub",
    "planning",
    "writing",
    "verifier",
    "inspection",
    "training",
    "api",
    "cli",
    "__main__",
]
"""Packages and modules, each of which imports only those above it."""


NOT_IMPORTED = {
    "": {"accelerate"},  # transformers places models with it, and reads weights layer by layer
    "gguf": {"gguf"},  # transformers reads GGUF files through it
    "downstream": {"lm_eval"},  # a benchmark runs its tasks by it
}
"""Extra → packages that are declared for what others import; "" stands for what is always installed."""


def test_what_is_declared_is_what_is_imported() -> None:
    project = tomllib.loads((PACKAGE.parent.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    groups = {"": project["dependencies"], **{name: extras[name] for name in extras.keys() - {"dev"}}}
    declared = {
        extra: {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in group}
        for extra, group in groups.items()
    }
    assert {extra: names for extra, names in NOT_IMPORTED.items() if not names <= declared[extra]} == {}
    expected = {name for extra in declared for name in declared[extra] - NOT_IMPORTED.get(extra, set())}
    assert {name for path in PACKAGE.rglob("*.py") for name in modules(path)} - STANDARD == expected


def modules(path: Path) -> set[str]:
    """The first name of every module that a module imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[0] for name in names}


STANDARD = {*sys.stdlib_module_names, "hyperclone_cli"}


def imported(path: Path) -> set[str]:
    """The first name below `hyperclone_cli` of everything that a module imports."""
    modules = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "hyperclone_cli":
            modules += [f"hyperclone_cli.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.append(node.module)
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    return {module.split(".")[1] for module in modules if module.startswith("hyperclone_cli.")} - {"__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert all(LAYERS.index(name) <= LAYERS.index(own) for name in imported(path))


@pytest.mark.parametrize("arguments", [["--help"], ["families"], ["plan", "--help"], ["inspect", "--help"]])
def test_light_commands_import_neither_torch_nor_transformers(arguments: list[str]) -> None:
    code = (
        "import sys; from hyperclone_cli.cli.app import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_help_imports_no_more_than_parsing_needs() -> None:
    code = (
        "import sys; from hyperclone_cli.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "ours = {name[15:] for name in sys.modules if name.startswith('hyperclone_cli.')}\n"
        "commands = {f'cli.{name}' for name in ('app', 'checking', 'growing', 'options', 'publishing')}\n"
        "declared = {f'growth.{name}' for name in ('numbers', 'option', 'request', 'strategies')}\n"
        "declared |= {'growth', 'writing', 'writing.options'}\n"
        "assert ours == {'errors', 'cli', *commands, *declared}, ours"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_one_machine_and_its_disk_need_no_library_of_clusters_or_stores(
    source: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ray", "obstore"):
        monkeypatch.setitem(sys.modules, name, None)  # whoever imports it now fails
    hyperclone("plan", "--src", source("qwen3"), "--embed-mult", 2)
    hyperclone("expand", "--src", source("qwen3"), "--out", tmp_path / "clone", "--embed-mult", 2, "--checksum")
    hyperclone("verify", tmp_path / "clone", "--weights-only", "--checksum")


def test_make_says_what_it_installs_and_pip_says_nothing_but_errors() -> None:
    """Pip warns at length of places in a user's configuration that it does not find."""
    command = ["make", "--dry-run", "--always-make", "demo", "real", "convergence", "downstream"]
    result = subprocess.run(command, cwd=PACKAGE.parent.parent, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    installs = [number for number, line in enumerate(lines) if "/pip " in line]
    assert len(installs) == 4
    for number in installs:
        assert " install --quiet --quiet " in lines[number]
        assert lines[number - 1].startswith("echo ")
