"""The commands as a user meets them: what is on stdout, what is on stderr, and the exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hyperclone_cli import plan
from hyperclone_cli.errors import clone_is_kept
from hyperclone_cli.families import FAMILIES, REFUSED
from hyperclone_cli.growth.strategies import STRATEGIES
from hyperclone_cli.planning.symmetry import advice
from support import models
from support.command_line import as_json, hyperclone
from support.heard import expand_steps

Sources = Callable[[str], Path]


def test_expand_verifies_and_a_broken_clone_exits_4(source: Sources, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    growth = ["--src", source("opt-350m"), "--embed-mult", "2", "--ffn-mult", "2"]
    command = [sys.executable, "-m", "hyperclone_cli", "expand", *growth, "--out", clone, "--json"]
    result = subprocess.run([*map(str, command)], text=True, capture_output=True, check=True)
    found = as_json(result)
    assert result.stderr.splitlines() == expand_steps(source("opt-350m"), clone, 64)
    assert found["verification"]["passed"] is True
    assert found["verification"]["logits"]["relative_error"] <= 1e-5
    assert found["parameters"]["after"]["total"] == sum(
        t.numel() for t in load_file(clone / "model.safetensors").values()
    )

    tensors = load_file(clone / "model.safetensors")
    tensors["model.decoder.layers.0.fc2.weight"] *= 1.01
    save_file(tensors, clone / "model.safetensors", metadata={"format": "pt"})
    result = hyperclone("verify", clone, code=4)
    assert "tensor model.decoder.layers.0.fc2.weight" in result.stdout
    assert "first differ from the source at layer 0" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert as_json(hyperclone("verify", clone, "--weights-only", "--json", code=4))["passed"] is False


def test_without_verification_the_next_command_is_named(source: Sources, tmp_path: Path) -> None:
    result = hyperclone("expand", "--src", source("qwen3"), "--out", tmp_path / "clone", "--no-verify")
    assert "Next: hyperclone verify" in result.stderr
    assert "\x1b" not in result.stdout + result.stderr


def test_plan_tells_what_expand_does(source: Sources, tmp_path: Path) -> None:
    request = ["--src", source("gemma3-gqa"), "--embed-mult", 2, "--ffn-mult", 3, "--dtype", "bfloat16"]
    request += ["--strategy", "symmetric"]
    planned = as_json(hyperclone("plan", *request, "--json"))
    assert list(tmp_path.iterdir()) == []
    written = as_json(hyperclone("expand", *request, "--out", tmp_path / "clone", "--no-verify", "--json"))
    advised = advice(plan(source("gemma3-gqa"), embed_mult=2, ffn_mult=3, strategy="symmetric"))
    assert "equal gradients" in advised
    assert written == planned | {
        "notes": [*planned["notes"], advised],
        "out": str(tmp_path / "clone"),
        "verification": None,
        "url": None,
    }
    tensors = load_file(tmp_path / "clone" / "model.safetensors")
    assert planned["bytes"] == sum(tensor.nbytes for tensor in tensors.values())
    assert planned["config"]["hidden_size"] == {"before": 48, "after": 96}


def test_plan_figures_are_those_of_the_architecture(source: Sources) -> None:
    """Llama, 2 layers, width 48, FFN 80, 4 heads over 2 key/value heads of 12, vocabulary 96, float32, tied."""
    found = as_json(hyperclone("plan", "--src", source("llama-gqa-tied"), "--embed-mult", 2, "--ffn-mult", 2, "--json"))
    assert found["parameters"]["before"] == {
        "embedding": 96 * 48,
        "attention": 2 * (2 * 48 * 48 + 2 * 24 * 48),
        "feed-forward": 2 * 3 * 80 * 48,
        "norms": 5 * 48,
        "total": 96 * 48 + 2 * (2 * 48 * 48 + 2 * 24 * 48) + 2 * 3 * 80 * 48 + 5 * 48,
    }
    assert found["parameters"]["after"]["feed-forward"] == 4 * found["parameters"]["before"]["feed-forward"]
    assert found["kv_cache_bytes_per_token"] == {"before": 2 * 2 * 2 * 12 * 4, "after": 2 * 2 * 4 * 12 * 4}
    assert found["head"] == {"tied": True, "why": "tied: model.norm carries the factor 0.5"}
    assert found["rounded_tensors"] == []


def test_the_cache_of_the_source_is_counted_in_the_sources_dtype(source: Sources) -> None:
    request = ["--src", source("llama-gqa-tied"), "--embed-mult", 2, "--dtype", "bfloat16", "--json"]
    found = as_json(hyperclone("plan", *request))["kv_cache_bytes_per_token"]
    assert found == {"before": 2 * 2 * 2 * 12 * 4, "after": 2 * 2 * 4 * 12 * 2}


def test_plan_names_what_is_rounded(source: Sources) -> None:
    request = ["--src", source("qwen3"), "--ffn-mult", 3, "--strategy", "symmetric"]
    found = as_json(hyperclone("plan", *request, "--json"))
    assert found["rounded_tensors"] == [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(2)]
    assert "model.layers.*.mlp.down_proj.weight" in hyperclone("plan", *request).stdout


@pytest.mark.parametrize(
    "tokens, growth, words",
    [
        ("0.3M", 2, ["Fewer than 3 tokens for each parameter of the clone"]),
        ("1M", 2, []),  # 7 tokens for each of 138,720 parameters
        ("10M", 2, ["More than 20 tokens for each parameter"]),
        ("1M", 3, ["Growth by 2 × was the most reliable", "the residual stream 3 ×"]),
    ],
)
def test_plan_says_what_is_known_of_growth_at_a_budget_of_tokens(
    tokens: str, growth: int, words: list[str], source: Sources
) -> None:
    asked = ["plan", "--src", source("llama-mha"), "--embed-mult", growth, "--tokens", tokens]
    found = as_json(hyperclone(*asked, "--json"))["tokens"]
    assert found["before"] == found["tokens"] / 50_928
    assert len(found["notes"]) == bool(words)
    shown = hyperclone(*asked)
    assert "tokens per parameter" in shown.stdout
    assert all(word in " ".join(shown.stderr.split()) for word in words)


def test_a_number_of_tokens_that_is_none_is_refused(source: Sources) -> None:
    said = hyperclone("plan", "--src", source("llama-mha"), "--tokens", "many", code=2).stderr
    assert "--tokens many: expected a number of tokens such as 1.3B." in said


def test_plan_imports_neither_torch_nor_transformers_nor_what_verifies(source: Sources) -> None:
    code = (
        "import sys; from hyperclone_cli.cli.app import app\n"
        f"try: app(['plan', '--src', {str(source('qwen3'))!r}, '--embed-mult', '2'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers', 'hyperclone_cli.verifier.run'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_families_lists_the_tables() -> None:
    assert set(as_json(hyperclone("families", "--json"))["families"]) == set(FAMILIES)
    assert as_json(hyperclone("families", "--json"))["refused"] == REFUSED
    shown = hyperclone("families").stdout
    assert all(name in shown for name in [*FAMILIES, "t5", "llava", "xglm"])


@pytest.mark.parametrize("command", ["expand", "plan", "verify", "inspect", "push", "families"])
def test_every_command_explains_itself(command: str) -> None:
    assert "Usage: hyperclone" in hyperclone(command, "--help").stdout


@pytest.mark.parametrize("command", ["verify", "inspect", "push"])
def test_the_readme_calls_arguments_as_the_help_does(command: str) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    usage = re.search(rf"Usage: hyperclone {command} \[OPTIONS\] (.*?)\s*$", hyperclone(command, "--help").stdout, re.M)
    assert usage
    assert f"`hyperclone {command} {re.sub('[{}]', '', usage[1])}`" in readme


def test_a_device_that_is_not_there_is_refused(source: Sources, tmp_path: Path) -> None:
    hyperclone("expand", "--src", source("qwen3"), "--out", tmp_path / "clone", "--no-verify")
    assert "--device" in hyperclone("verify", tmp_path / "clone", "--device", "tpu9", code=2).stderr


def completion(*words: str) -> list[str]:
    """What a shell is offered for the last of these words."""
    env = {**os.environ, "_HYPERCLONE_COMPLETE": "complete_bash"}
    env |= {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    return hyperclone(env=env).stdout.split()


def test_a_shell_can_complete_commands_options_and_choices() -> None:
    assert completion("hyperclone", "in") == ["inspect"]
    assert completion("hyperclone", "expand", "--kv") == ["--kv-heads-mult"]
    assert completion("hyperclone", "plan", "--strategy", "") == list(STRATEGIES)
    assert completion("hyperclone", "plan", "--uneven-ratio", "1:0", "--fam") == ["--family"]  # no error, however bad


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_completion_is_shown_and_installed(shell: str, tmp_path: Path) -> None:
    detected = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}  # the shell is named
    command = [sys.executable, "-m", "hyperclone_cli"]
    for option, words in (
        ("--show-completion", "_HYPERCLONE_COMPLETE=complete_"),
        ("--install-completion", "installed"),
    ):
        result = subprocess.run([*command, option, shell], env=os.environ | detected, text=True, capture_output=True)
        assert (result.returncode, result.stderr) == (0, "")
        assert words in result.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "_HYPERCLONE_COMPLETE" in path.read_text()]
    assert hyperclone(env={**os.environ, "_HYPERCLONE_COMPLETE": f"source_{shell}"}).stdout.count("complete_")
    assert "not supported" in hyperclone(env={**os.environ, "_HYPERCLONE_COMPLETE": "source_dos"}, code=1).stderr


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert hyperclone("--version").stdout == f"hyperclone {version('hyperclone-cli')}\n"


def test_any_path_is_shown_as_it_is(source: Sources, tmp_path: Path) -> None:
    out = tmp_path / "run [bold]x[/y] :smile:"
    result = hyperclone("expand", "--src", source("qwen3"), "--out", out, "--no-verify")
    assert str(out) in result.stdout
    assert f"hyperclone verify '{out}'" in result.stderr


def test_non_finite_numbers_are_null_in_json(source: Sources, tmp_path: Path) -> None:
    hyperclone("expand", "--src", source("qwen3"), "--out", tmp_path / "clone", "--no-verify")
    tensors = load_file(tmp_path / "clone" / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "clone" / "model.safetensors", metadata={"format": "pt"})
    result = hyperclone("verify", tmp_path / "clone", "--json", code=4)
    assert json.loads(result.stdout, parse_constant=pytest.fail)["logits"]["relative_error"] is None


def test_an_error_in_the_verification_says_that_the_clone_is_whole(tmp_path: Path) -> None:
    src, clone = models.build("qwen3", tmp_path / "src"), tmp_path / "clone"
    tensors = load_file(src / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    result = hyperclone("expand", "--src", src, "--out", clone, "--embed-mult", 2, "--json", code=3)
    assert "model.norm.weight" in result.stderr
    assert f"The clone is whole: `hyperclone verify {clone}` checks it." in result.stderr
    assert (clone / "hyperclone.json").exists()


def test_so_does_an_interruption() -> None:
    with pytest.raises(KeyboardInterrupt, match="The clone is whole"), clone_is_kept("The clone is whole."):
        raise KeyboardInterrupt


def test_the_strategy_and_the_noise_are_recorded(source: Sources, tmp_path: Path) -> None:
    arguments = ["--embed-mult", 2, "--strategy", "uneven", "--uneven-ratio", "1:3", "--noise-snr-db", 20, "--seed", 5]
    hyperclone("expand", "--src", source("qwen3"), "--out", tmp_path / "clone", *arguments)
    record = json.loads((tmp_path / "clone" / "hyperclone.json").read_text())
    assert record["request"]["mixing"] == {
        "strategy": "uneven", "uneven_ratio": [1, 3], "noise_snr_db": 20.0, "seed": 5,
    }  # fmt: skip
