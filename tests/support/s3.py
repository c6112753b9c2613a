"""An S3 server on this machine, in a process of its own: moto's, which keeps objects in memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hyperclone_cli.checkpoint.object_store import Objects, StoreUrl

BUCKET = "models"
_AUTHORIZATION = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"


@dataclass(frozen=True)
class Server:
    """A server with one empty bucket.

    environment  what a client finds it by
    log          where it notes each request
    """

    environment: dict[str, str]
    log: Path

    def requests(self) -> list[str]:
        """What was asked for so far, such as "GET /models/qwen3/config.json"."""
        return re.findall(r'"(?:\x1b\[\d+m)*([A-Z]+ [^ "]+)', self.log.read_text())


@contextmanager
def server() -> Iterator[Server]:
    """Start it, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="s3-") as directory:
        log = Path(directory) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", "import moto.server; moto.server.main(['-H', '127.0.0.1', '-p', '0'])"],
                stdout=file,
                stderr=file,
                env={**os.environ, "NO_COLOR": "1"},
            )
        try:
            while not (found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                time.sleep(0.02)
            make = urllib.request.Request(
                f"{found[1]}/{BUCKET}", method="PUT", headers={"Authorization": _AUTHORIZATION}
            )
            urllib.request.urlopen(make, timeout=60).close()
            keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
            yield Server({**keys, "AWS_ENDPOINT_URL": found[1]}, log)
        finally:
            process.terminate()
            process.wait(60)


def put(directory: Path, url: str) -> None:
    """Upload the files of a directory."""
    objects = Objects(StoreUrl(url))
    for path in directory.rglob("*"):
        if path.is_file():
            objects.write(str(path.relative_to(directory)), path.read_bytes())


def contents(url: str) -> dict[str, bytes]:
    """Name → bytes of every object below a prefix."""
    objects = Objects(StoreUrl(url))
    return {name: bytes(objects.read(name)) for name in objects.list()}
