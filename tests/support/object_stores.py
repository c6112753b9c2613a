"""Servers on this machine that keep objects in files, each in a process of its own: for stores other than S3, and for
gigabytes, which moto's server (`s3`) copies whole for every range.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BUCKET = "models"
_SECRET = base64.b64encode(b"a key that no message shows, for it is secret").decode()
_ACCOUNT = "stress"


@dataclass(frozen=True)
class Server:
    """A server with one empty bucket.

    environment  what a client finds it by
    secret       the key in it, where the store wants one
    log          where it notes each request
    """

    scheme: str
    environment: Mapping[str, str]
    secret: str
    log: Path

    def url(self, name: str) -> str:
        """Of a prefix in the bucket."""
        return f"{self.scheme}://{BUCKET}/{name}"


@contextmanager
def server(scheme: str) -> Iterator[Server]:
    """Start one for "s3", "gs" or "az", and stop it at the end. Skips the test where Azurite is missing, which is no
    Python package.

    Google's XML API, which the library uses, has the requests of S3 for objects, ranges, lists and parts: for "gs" the
    server is that of S3. What it lacks is the condition by which ranks agree who publishes.
    """
    with tempfile.TemporaryDirectory(prefix="store-") as temporary:
        directory, port = Path(temporary), _free_port()
        url, log = f"http://127.0.0.1:{port}", directory / "log"
        (directory / "data" / BUCKET).mkdir(parents=True)
        process = _start(_azurite(directory, port) if scheme == "az" else _localbucket(directory, port), log, port)
        try:
            if scheme == "az":
                _make_container(url)
            yield Server(scheme, _environment(scheme, url, directory), _SECRET, log)
        finally:
            process.terminate()
            process.wait(60)


def _environment(scheme: str, url: str, directory: Path) -> dict[str, str]:
    if scheme == "s3":
        keys = {"AWS_ACCESS_KEY_ID": "stress", "AWS_SECRET_ACCESS_KEY": _SECRET, "AWS_REGION": "us-east-1"}
        return {**keys, "AWS_ENDPOINT_URL": url, "AWS_DISABLE_BULK_DELETE": "true"}
    if scheme == "gs":
        account = {"gcs_base_url": url, "disable_oauth": True, "client_email": "stress", "private_key": _SECRET}
        (directory / "account.json").write_text(json.dumps(account | {"private_key_id": ""}))
        return {"GOOGLE_SERVICE_ACCOUNT": str(directory / "account.json"), "GOOGLE_ALLOW_HTTP": "true"}
    keys = {"AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": _SECRET}
    return {**keys, "AZURE_STORAGE_ENDPOINT": f"{url}/{_ACCOUNT}", "AZURE_ALLOW_HTTP": "true"}


def _localbucket(directory: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "localbucket", "--port", str(port), str(directory / "data")]


def _azurite(directory: Path, port: int) -> list[str]:
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not installed: npm install --global azurite")
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(directory / "data")]
    return [program, *options, "--skipApiVersionCheck", "--disableTelemetry"]


def _start(command: Sequence[str], log: Path, port: int) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        accounts = {"AZURITE_ACCOUNTS": f"{_ACCOUNT}:{_SECRET}"}
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | accounts)
    while True:
        assert process.poll() is None, log.read_text()
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_container(url: str) -> None:
    """By a request that is signed with the account's key, as Azure documents it."""
    heads = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    resource = f"/{_ACCOUNT}/{_ACCOUNT}/{BUCKET}\nrestype:container"
    signed = "\n".join(["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in heads.items()), resource])
    digest = hmac.new(base64.b64decode(_SECRET), signed.encode(), hashlib.sha256).digest()
    heads["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}"
    target = f"{url}/{_ACCOUNT}/{BUCKET}?restype=container"
    urllib.request.urlopen(urllib.request.Request(target, method="PUT", headers=heads), timeout=60).close()
