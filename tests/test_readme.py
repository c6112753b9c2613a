"""What the README tells people to type first, typed against a local Hub."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import generated_docs
import hyperclone_cli
import models
import opt_350m
import readme_table
from hyperclone_cli.cli.app import app
from hyperclone_cli.families import FAMILIES
from local_hub import TOKEN, LocalHub

README = Path(__file__).parent.parent / "README.md"

NEEDED = [
    "LICENSE.md", "README.md", "config.json", "generation_config.json", "merges.txt", "pytorch_model.bin",
    "special_tokens_map.json", "tokenizer_config.json", "vocab.json",
]  # fmt: skip

COMPARE = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
text = AutoTokenizer.from_pretrained("someone/opt-700m")("The harbour wakes before the town does.", return_tensors="pt")
def logits(name):
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
    with torch.no_grad():
        return model.config.hidden_size, model(**text).logits
(small, source), (large, clone) = logits("facebook/opt-350m"), logits("someone/opt-700m")
assert large == 2 * small, (small, large)
print(float((clone - source).norm() / source.norm()))
"""


def commands() -> list[str]:
    """The commands under "Use it" that name facebook/opt-350m and what becomes of it."""
    return re.findall(r"^    hyperclone (.*opt-.*)$", README.read_text(), re.MULTILINE)[:3]


def test_its_three_commands_put_a_model_on_the_hub_that_computes_what_opt_350m_does(tmp_path: Path) -> None:
    assert [command.split()[0] for command in commands()] == ["expand", "verify", "push"]
    with LocalHub() as hub:
        hub.add("facebook/opt-350m", opt_350m.build(tmp_path / "repository"))
        env = hub.environment(tmp_path / "home", TOKEN)
        work = tmp_path / "work"
        work.mkdir()
        said = ""
        for command in commands():
            line = [sys.executable, "-m", "hyperclone_cli", *shlex.split(command)]
            result = subprocess.run(line, cwd=work, env=env, text=True, capture_output=True, timeout=300)
            assert result.returncode == 0, result.stdout + result.stderr
            said += result.stdout + result.stderr
        assert f"pushed: {hub.endpoint}/someone/opt-700m" in said
        fetched = [r.path.rsplit("/", 1)[1] for r in hub.asked("^GET /facebook/opt-350m/resolve/")]
        assert sorted(fetched) == NEEDED
        stranger = hub.environment(tmp_path / "another", TOKEN)
        compared = subprocess.run(
            [sys.executable, "-c", COMPARE], cwd=work, env=stranger, text=True, capture_output=True, timeout=300
        )
        assert compared.returncode == 0, compared.stderr
        assert float(compared.stdout) <= 1e-5
        published = hub.repos["someone/opt-700m"].files()
    clone = {path.name: path.read_bytes() for path in (work / "opt-700m").iterdir()}
    assert published == clone | {".gitattributes": published[".gitattributes"]}
    assert TOKEN not in said
    assert not any(TOKEN.encode() in content for content in clone.values())


def test_expand_can_push_what_it_has_verified(tmp_path: Path) -> None:
    with LocalHub() as hub:
        hub.add("a/llama", models.build("llama-gqa-tied", tmp_path / "repository"))
        line = [sys.executable, "-m", "hyperclone_cli", "expand", "--src", "a/llama", "--ffn-mult", "2"]
        line += ["--out", "clone", "--push-to-hub", "someone/wide", "--token", TOKEN]
        env = hub.environment(tmp_path / "home")
        refused = subprocess.run([*line, "--no-verify"], cwd=tmp_path, env=env, text=True, capture_output=True)
        assert refused.returncode == 2
        assert hub.requests == []
        hub.fail("POST /api/repos/create", times=1, status=403)
        cut = subprocess.run(line, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=300)
        assert cut.returncode == 5, cut.stderr
        assert "hyperclone push clone someone/wide" in cut.stderr
        assert "passed: clone against " in cut.stdout  # what was done is shown
        result = subprocess.run([*line, "--overwrite"], cwd=tmp_path, env=env, text=True, capture_output=True)
        assert result.returncode == 0, result.stderr
        assert f"pushed: {hub.endpoint}/someone/wide\n" in result.stdout
        assert "model.safetensors" in hub.repos["someone/wide"].files()
    assert TOKEN not in cut.stdout + cut.stderr + result.stdout + result.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]


@pytest.mark.parametrize("environment, arguments", [({}, []), ({"HF_TOKEN": TOKEN}, ["--push-to-hub", "a/b/c"])])
def test_expand_refuses_a_push_that_cannot_be_before_it_writes(
    environment: dict[str, str], arguments: list[str], tmp_path: Path
) -> None:
    with LocalHub() as hub:
        line = [sys.executable, "-m", "hyperclone_cli", "expand", "--src", "facebook/opt-350m", "--out", "clone"]
        line += arguments or ["--push-to-hub", "someone/wide"]
        env = hub.environment(tmp_path / "home") | environment
        result = subprocess.run(line, cwd=tmp_path, env=env, text=True, capture_output=True)
        assert result.returncode == 2, result.stderr
        assert hub.requests == []
    assert not (tmp_path / "clone").exists()


def test_its_table_of_architectures_is_that_of_the_tables() -> None:
    readme = readme_table.README.read_text()
    assert readme_table.with_table(readme) == readme, "make readme writes it anew"


def test_every_architecture_names_models_that_have_it() -> None:
    assert [name for name, family in FAMILIES.items() if not family.known_as] == []


@pytest.mark.parametrize("page", generated_docs.PAGES, ids=lambda page: page.name)
def test_a_page_that_is_made_from_the_code_is_as_it_would_be_made_now(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == generated_docs.PAGES[page](), "make docs writes it anew"


def test_the_reference_has_every_option_of_every_command() -> None:
    page = (generated_docs.DOCS / "options.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## hyperclone (\w+)\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL))
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert sections.keys() == commands.keys()
    for name, command in commands.items():
        options = {option for param in command.params for option in param.opts if option.startswith("--")}
        assert {option for option in options - {"--help"} if f"| `{option}` | " not in sections[name]} == set()
        assert f"\n```\nhyperclone {name} " in sections[name]


def test_it_names_every_module() -> None:
    readme, package = readme_table.README.read_text(), Path(hyperclone_cli.__file__).parent
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py", "errors.py"}
    assert {module for module in modules if module not in readme} == set()
