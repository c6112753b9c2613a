"""When the Hub or the network fails: passing faults are waited out, lasting ones are one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.command_line import Run
from support.local_hub import TOKEN, LocalHub

GROWTH = ("--embed-mult", 2, "--ffn-mult", 2)


SHARD = "/a/llama/resolve/.*/model-00002"


PASSING: dict[str, tuple[str, dict[str, Any]]] = {
    "429 once": (f"GET {SHARD}", {"times": 1, "status": 429, "headers": {"Retry-After": "1"}}),
    "500 twice": (f"HEAD {SHARD}", {"times": 2, "status": 500}),
    "a cut connection": (f"GET {SHARD}", {"times": 1, "cut": 30_000}),
}


@pytest.mark.parametrize("pattern, fault", PASSING.values(), ids=list(PASSING))
def test_a_passing_fault_is_waited_out(pattern: str, fault: dict[str, Any], hub: LocalHub, run: Run) -> None:
    struck = hub.fail(pattern, **fault)
    run("expand", "--src", "a/llama", *GROWTH, "--out", "clone", "--no-verify")
    assert struck.reached.is_set()


LASTING: dict[str, tuple[str, dict[str, Any], str]] = {
    "401": ("GET /api/models", {"status": 401}, "the Hub does not accept the token"),
    "403": ("GET /api/models", {"status": 403}, "the token does not allow this"),
    "429": ("GET /api/models", {"status": 429, "headers": {"Retry-After": "7"}}, "again in 7 seconds"),
    "500": ("GET /api/models", {"status": 500}, "answered HTTP 500"),
    "a refused shard": (f"HEAD {SHARD}", {"status": 403}, "the token does not allow this"),
    "a cut connection": ("GET /api/models", {"cut": 20}, "a/llama: "),
    "a wrong ETag": (f"(HEAD|GET) {SHARD}", {"headers": {"ETag": f'"{"0" * 64}"'}}, "arrived damaged"),
    "a wrong size": (f"HEAD {SHARD}", {"headers": {"Content-Length": "12345"}}, "should be of size 12345"),
    "other content": (f"GET {SHARD}", {"content": b"\0" * 60_000}, "should be of size"),
}


@pytest.mark.parametrize("pattern, fault, words", LASTING.values(), ids=list(LASTING))
def test_a_lasting_fault_is_one_message_and_nothing_written(
    pattern: str, fault: dict[str, Any], words: str, hub: LocalHub, run: Run, tmp_path: Path
) -> None:
    hub.fail(pattern, **fault)
    result = run("expand", "--src", "a/llama", *GROWTH, "--out", "clone", code=5, token=TOKEN)
    assert result.stdout == ""
    assert result.stderr.startswith("Fetching a/llama …\nError: a/llama: ")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 3
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}


def test_content_that_is_not_what_was_announced_is_noticed_and_fetched_anew(
    hub: LocalHub, run: Run, sharded: Path
) -> None:
    content = bytearray((sharded / "model-00002-of-00004.safetensors").read_bytes())
    content[-1] ^= 1
    hub.fail(f"GET {SHARD}", content=bytes(content))
    result = run("expand", "--src", "a/llama", *GROWTH, "--out", "clone", code=5)
    assert "model-00002-of-00004.safetensors arrived damaged" in result.stderr
    hub.faults.clear()
    run("expand", "--src", "a/llama", *GROWTH, "--out", "clone", "--no-verify")


NOBODY = {"HF_ENDPOINT": "http://127.0.0.1:9"}


UNREACHABLE: dict[str, tuple[list[str], dict[str, str], str]] = {
    "no such model": (["--src", "a/lama"], {}, "a/lama: not found on the Hub, or private"),
    "a private model": (["--src", "a/private"], {}, "pass --token"),
    "a gated model": (["--src", "a/gated"], {}, "the model is gated"),
    "a token that is not accepted": (["--src", "a/llama", "--token", "hf_wrong"], {}, "does not accept the token"),
    "no such revision": (["--src", "a/llama", "--revision", "v9"], {}, "no such revision"),
    "offline": (["--src", "a/llama"], {"HF_HUB_OFFLINE": "1"}, "all there is offline"),
    "nobody there": (["--src", "a/llama"], NOBODY, "a/llama: no such directory here, and the Hub cannot be reached: "),
    "a mistyped directory": (["--src", "smoll"], NOBODY, "smoll: no such directory here, and the Hub cannot be"),
}


@pytest.mark.parametrize("arguments, environment, words", UNREACHABLE.values(), ids=list(UNREACHABLE))
def test_what_cannot_be_fetched_is_one_message_and_nothing_written(
    arguments: list[str],
    environment: dict[str, str],
    words: str,
    hub: LocalHub,
    run: Run,
    sharded: Path,
    tmp_path: Path,
) -> None:
    hub.add("a/private", sharded, private=True)
    hub.add("a/gated", sharded, gated=True)
    result = run("expand", *arguments, "--out", "clone", code=5, **environment)
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 3
    assert "hf_wrong" not in result.stderr
    assert not (tmp_path / "clone").exists()


def test_a_connection_that_breaks_is_said_to_be_one(hub: LocalHub, run: Run) -> None:
    """The model was found, so that it is no mistyped directory."""
    hub.fail(f"GET {SHARD}", cut=1000)
    said = run("expand", "--src", "a/llama", "--out", "clone", code=5).stderr
    assert "a/llama: the Hub cannot be reached: " in said
    assert "no such directory" not in said
    assert "HF_ENDPOINT" in said
