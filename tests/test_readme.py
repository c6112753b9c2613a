"""What the README tells people to type: its commands, typed against a local Hub, and its Python."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hyperclone_cli.verifier.text import PAGE
from support import models, opt_350m
from support.command_line import hyperclone
from support.local_hub import TOKEN, LocalHub

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
        hub.add("facebook/opt-350m", opt_350m.build(tmp_path / "repository", **opt_350m.QUARTER))
        env = hub.environment(tmp_path / "home", TOKEN)
        work = tmp_path / "work"
        work.mkdir()
        said = ""
        for command in commands():
            result = hyperclone(*shlex.split(command), cwd=work, env=env)
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
        line = ["expand", "--src", "a/llama", "--ffn-mult", "2", "--out", "clone"]
        line += ["--push-to-hub", "someone/wide", "--token", TOKEN]
        env = hub.environment(tmp_path / "home")
        hyperclone(*line, "--no-verify", code=2, cwd=tmp_path, env=env)
        assert hub.requests == []
        hub.fail("POST /api/repos/create", times=1, status=403)
        cut = hyperclone(*line, code=5, cwd=tmp_path, env=env)
        assert "hyperclone push clone someone/wide" in cut.stderr
        assert "passed: clone against " in cut.stdout  # what was done is shown
        result = hyperclone(*line, "--overwrite", cwd=tmp_path, env=env)
        assert f"pushed: {hub.endpoint}/someone/wide\n" in result.stdout
        assert "model.safetensors" in hub.repos["someone/wide"].files()
    assert TOKEN not in cut.stdout + cut.stderr + result.stdout + result.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]


@pytest.mark.parametrize("environment, arguments", [({}, []), ({"HF_TOKEN": TOKEN}, ["--push-to-hub", "a/b/c"])])
def test_expand_refuses_a_push_that_cannot_be_before_it_writes(
    environment: dict[str, str], arguments: list[str], tmp_path: Path
) -> None:
    with LocalHub() as hub:
        line = ["expand", "--src", "facebook/opt-350m", "--out", "clone", *arguments]
        line += [] if arguments else ["--push-to-hub", "someone/wide"]
        hyperclone(*line, code=2, cwd=tmp_path, env=hub.environment(tmp_path / "home") | environment)
        assert hub.requests == []
    assert not (tmp_path / "clone").exists()


def test_its_python_runs_on_a_tiny_model(tmp_path: Path) -> None:
    models.build("opt-350m", tmp_path / "opt-350m", vocab_size=opt_350m.CONFIG["vocab_size"])
    opt_350m.write_tokenizer(tmp_path / "opt-350m")
    (tmp_path / "corpus.txt").write_text(PAGE)
    training, usage = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    training, shortened = re.subn(r"= 1000, 8, 512, ", "= 3, 2, 16, ", training)
    assert shortened == 1
    for code in (usage, training):
        result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True, timeout=300)
        assert result.returncode == 0, result.stderr
    name = "model.decoder.layers.0.fc1.weight"
    clone, trained = (load_file(tmp_path / run / "model.safetensors") for run in ("opt-700m", "opt-700m-trained"))
    assert trained[name].shape == clone[name].shape
    assert not trained[name].equal(clone[name])


def test_it_can_be_read_in_one_sitting() -> None:
    assert len(README.read_bytes()) <= 15_000
