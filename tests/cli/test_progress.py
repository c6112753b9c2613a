"""A long run says what it is doing: to a Progress, on a terminal, and in a log."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from hyperclone_cli import expand, verify
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.inspection.inspector import inspect
from hyperclone_cli.verifier.self_check import check_families
from support import models
from support.command_line import hyperclone
from support.heard import Heard
from support.local_hub import LocalHub

Sources = Callable[[str], Path]


def check_counts(heard: Heard, expected: dict[str, int]) -> None:
    """What has a unit is counted to its end, and nothing else is."""
    assert heard.done == heard.totals == expected
    assert {step for step, unit in heard.units.items() if unit} == expected.keys()


def test_what_can_be_counted_is_counted_to_its_end(source: Sources, tmp_path: Path) -> None:
    clone, heard = tmp_path / "clone", Heard()
    plan = expand(source("llama-gqa-tied"), clone, embed_mult=2, ffn_mult=2, checksum=True, progress=heard)
    check_counts(heard, {f"Writing {clone}": plan.nbytes})

    heard = Heard()
    assert verify(clone, new_tokens=5, progress=heard).passed
    decoded = {f"Decoding 5 prompts with the {model} in float32": 5 for model in ("source", "clone")}
    check_counts(heard, {"Comparing the weights": sum(tensor.elements for tensor in plan.tensors)} | decoded)

    heard = Heard()
    inspect(clone, gradients=True, progress=heard)
    matrices = [tensor for tensor in plan.tensors if len(tensor.growths) == 2]
    check_counts(heard, {f"Comparing the copies in {clone}": len(matrices)})
    assert heard.steps == [
        f"Reading {source('llama-gqa-tied')}",
        f"Comparing the copies in {clone}",
        f"Loading {clone} in float32",
        "Running it forward and backward on 64 tokens",
        "Comparing the gradients of the copies",
    ]


def test_families_that_are_tried_are_named() -> None:
    heard = Heard()
    check_families([FAMILIES["llama"], FAMILIES["opt"]], heard)
    assert heard.steps == ["Growing a tiny llama, 1 of 2", "Growing a tiny opt, 2 of 2"]


def test_what_is_fetched_is_named(tmp_path: Path) -> None:
    with LocalHub() as hub:
        hub.add("a/llama", models.build("llama-gqa-tied", tmp_path / "repository"))
        env = hub.environment(tmp_path / "home")
        planned = hyperclone("plan", "--src", "a/llama", "--ffn-mult", 2, env=env)
        assert planned.stderr == "Fetching the headers of a/llama …\n"
        arguments = ["--src", "a/llama", "--ffn-mult", 2, "--out", tmp_path / "clone", "--no-verify", "--json"]
        expanded = hyperclone("expand", *arguments, env=env)
    steps = ["Fetching a/llama …", "Checking that transformers accepts the clone …", f"Writing {tmp_path / 'clone'} …"]
    assert expanded.stderr.splitlines()[:3] == steps


def on_a_terminal(*arguments: object) -> tuple[str, str]:
    """(stdout, what a terminal of 200 columns gets on stderr) of a command that exits with 0."""
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def listen() -> None:
        try:
            while some := os.read(ours, 65536):
                shown.append(some)
        except OSError:  # how Linux says that the other end is closed
            pass

    thread = threading.Thread(target=listen)
    thread.start()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    command = [sys.executable, "-m", "hyperclone_cli", *map(str, arguments)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=env, text=True, timeout=120)
    os.close(theirs)
    thread.join()
    os.close(ours)
    stderr = b"".join(shown).decode()
    assert result.returncode == 0, stderr
    return result.stdout, stderr


def test_a_terminal_shows_bars_and_times_and_is_left_as_it_was(source: Sources, tmp_path: Path) -> None:
    clone = tmp_path / "[clone]"
    stdout, stderr = on_a_terminal(
        "expand", "--src", source("llama-gqa-tied"), "--embed-mult", 2, "--out", clone, "--json"
    )
    assert json.loads(stdout)["verification"]["passed"] is True
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stderr)
    assert re.search(rf"Writing {re.escape(str(clone))} +━+ .*\d+(\.\d+)?(/| )", plain)
    assert re.search(r"Comparing the weights +━", plain)
    assert re.search(r"Loading the source in float32 +\d:\d\d:\d\d", plain)
    assert re.search(r"Decoding 5 prompts with the clone in float32 +━+ +\d+/16 tokens", plain)
    assert stderr.endswith("\x1b[2K")  # the last line is erased
