"""What keeps the code as it is meant to be: layers, light start-up, true defaults."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

from hyperclone_cli.families import FAMILIES, Family

PACKAGE = Path(__file__).parent.parent / "src" / "hyperclone_cli"

LAYERS = [
    ["errors", "axes", "checksums"],
    ["files", "hub_errors"],
    ["families"],
    ["mixing"],
    ["growth", "request"],
    ["alibi", "config", "copies", "heads", "rotary"],
    ["capabilities", "layers", "resolve"],
    ["shape"],
    ["shards"],
    ["rows", "bins", "loaded"],
    ["gguf"],
    ["source"],
    ["hub"],
    ["remote"],
    ["tensors"],
    ["head", "matching"],
    ["planner"],
    ["budget", "likeness", "provenance", "symmetry"],
    ["noise", "journal"],
    ["expander"],
    ["card"],
    ["verification", "integrity"],
    ["publish", "push", "writer"],
    ["clone", "verifier"],
    ["api", "gradients", "inspector"],
    ["memory", "plot", "trial"],
    ["console"],
    ["options"],
    ["cli"],
    ["__main__"],
]


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


def layer(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert all(layer(name) <= layer(own) for name in imported(path))


@pytest.mark.parametrize("arguments", [["--help"], ["families"], ["plan", "--help"], ["inspect", "--help"]])
def test_light_commands_import_neither_torch_nor_transformers(arguments: list[str]) -> None:
    code = (
        "import sys; from hyperclone_cli.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_help_imports_no_more_than_parsing_needs() -> None:
    code = (
        "import sys; from hyperclone_cli.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "ours = {name.split('.')[1] for name in sys.modules if name.startswith('hyperclone_cli.')}\n"
        "assert ours == {'cli', 'errors', 'options'}, ours"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_defaults_are_those_of_transformers(family: Family) -> None:
    """What the table assumes of a key that config.json leaves out; None means that it follows from other keys."""
    config = AutoConfig.for_model(family.model_type)
    config.allow_global_per_layer_attribute_access = True
    heads = getattr(config, "num_attention_heads", 1)
    follows = {
        "num_key_value_heads": heads,
        "head_dim": config.hidden_size // heads,
        "v_head_dim": config.hidden_size // heads,
        "word_embed_proj_dim": config.hidden_size,
    }
    for key, assumed in family.defaults.items():
        expected = follows[key] if assumed is None else assumed
        assert (getattr(config, key, None) or expected) == expected, key
