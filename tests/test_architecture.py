"""Imports go one way, and light commands import neither torch nor transformers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "hyperclone_cli"

LAYERS = [
    "errors",
    "progress",
    "progress",
    "families",
    "checkpoint",
    "growth",
    "hub",
    "planning",
    "writing",
    "verifier",
    "inspection",
    "api",
    "cli",
    "__main__",
]
"""Packages and modules, each of which imports only those above it."""


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
        "declared = {'growth', 'growth.option', 'growth.request', 'growth.strategies'}\n"
        "assert ours == {'errors', 'cli', 'cli.app', 'cli.options', *declared}, ours"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
