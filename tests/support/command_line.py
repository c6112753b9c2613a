"""The command line within the tests' own process, which has imported all that a new one takes seconds to import."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest.mock import patch
from warnings import catch_warnings

import huggingface_hub
import pytest

from hyperclone_cli.__main__ import main

Run = Callable[..., CompletedProcess[str]]
"""A function that runs the command line with its arguments."""


def hyperclone(
    *arguments: object, code: int = 0, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    """What `hyperclone` prints, run with these arguments in `cwd` and with the environment `env`.

    Raises AssertionError if it does not exit with `code`.
    """
    result = run(*arguments, cwd=cwd, env=env)
    assert result.returncode == code, result
    return result


def run(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> CompletedProcess[str]:
    """What `hyperclone` prints and exits with, whatever that is."""
    command = ["hyperclone", *map(str, arguments)]
    out, err = TextIOWrapper(BytesIO(), "utf-8"), TextIOWrapper(BytesIO(), "utf-8")
    with (
        chdir(cwd or Path.cwd()),
        _environment(os.environ if env is None else env),
        patch.object(sys, "argv", command),
        redirect_stdout(out),
        redirect_stderr(err),
        catch_warnings(action="ignore", category=DeprecationWarning),  # as a process of its own does
        pytest.raises(SystemExit) as stop,
    ):
        main()
    code = stop.value.code
    return CompletedProcess(command, code if isinstance(code, int) else 0, _text(out), _text(err))


def as_json(result: CompletedProcess[str]) -> dict[str, Any]:
    """All of stdout as one JSON object."""
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["schema_version"] == 1
    return found


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """`env` as all there is, to the client of the Hub too, which reads it once for all its life."""
    with patch.dict(os.environ, dict(env), clear=True):
        try:
            importlib.reload(huggingface_hub.constants)
            yield
        finally:
            huggingface_hub.close_session()
    importlib.reload(huggingface_hub.constants)


def _text(stream: TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
