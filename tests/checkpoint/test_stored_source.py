"""A checkpoint in an object store is read as one on the disk is: the same plan, the same bytes, the same refusals."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from safetensors.torch import load_file, save_file

from hyperclone_cli import plan
from hyperclone_cli.checkpoint import object_store, stored_source
from hyperclone_cli.checkpoint.object_store import Objects, StoreUrl
from hyperclone_cli.checkpoint.stored_source import open_stored
from hyperclone_cli.errors import CheckpointError, HypercloneError, RequestError, StorageError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.options import Writing
from hyperclone_cli.writing.pipeline import expand
from support import faults, models, quantised, s3
from support.command_line import hyperclone
from support.heard import Heard

Sources = Callable[[str], Path]
DOUBLE = Request(embed_mult=2, ffn_mult=2)
URL = f"s3://{s3.BUCKET}/sources"


@pytest.fixture(scope="module")
def server() -> Iterator[s3.Server]:
    with s3.server() as running:
        yield running


@pytest.fixture(autouse=True)
def _environment(server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


def stored(directory: Path) -> str:
    """The URL of a copy of a directory, under its name."""
    s3.put(directory, f"{URL}/{directory.name}")
    return f"{URL}/{directory.name}"


@pytest.mark.parametrize("variant", ["qwen3", "gpt2"])
@pytest.mark.parametrize("chunk_bytes", [50_000, 8 << 20])
def test_the_clone_of_a_stored_source_is_that_of_its_copy_on_disk(
    variant: str, chunk_bytes: int, source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_source, "_CHUNK_BYTES", chunk_bytes)
    src = source(variant)
    url = stored(src)
    expand(url, tmp_path / "clone", DOUBLE, Writing(threads=3))
    expand(src, tmp_path / "whole", DOUBLE)
    found, whole = (faults.contents(tmp_path / name) for name in ("clone", "whole"))
    assert json.loads(found["hyperclone.json"])["source"] == {"url": url}
    for files in (found, whole):
        files["hyperclone.json"] = json.dumps(json.loads(files["hyperclone.json"]) | {"source": ""}).encode()
    assert found == whole


def test_shards_and_a_head_that_is_stored_twice(source: Sources, tmp_path: Path) -> None:
    src = tmp_path / "twice"
    shutil.copytree(source("qwen3"), src)
    tensors = load_file(src / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    (src / "model.safetensors").unlink()
    weight_map = {}
    for number, name in enumerate(tensors, 1):
        weight_map[name] = f"model-{number:05}-of-{len(tensors):05}.safetensors"
        save_file({name: tensors[name]}, src / weight_map[name], {"format": "pt"})
    (src / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert plan(stored(src), DOUBLE).as_json() == plan(src, DOUBLE).as_json()
    tensors["lm_head.weight"][0, 0] += 1
    save_file({"lm_head.weight": tensors["lm_head.weight"]}, src / weight_map["lm_head.weight"], {"format": "pt"})
    assert plan(stored(src), DOUBLE).as_json() == plan(src, DOUBLE).as_json()
    assert plan(src, DOUBLE).head.tied is False


def test_a_quantised_source_whose_shapes_lie_among_the_weights(source: Sources, tmp_path: Path) -> None:
    src = quantised.nf4(source("qwen3"), tmp_path / "nf4")
    assert plan(stored(src), DOUBLE).as_json() == plan(src, DOUBLE).as_json()


def test_a_clone_is_verified_against_the_stored_source_that_it_recorded(source: Sources, tmp_path: Path) -> None:
    hyperclone(
        "expand", "--src", stored(source("qwen3")), "--out", tmp_path / "clone", "--embed-mult", 2, "--no-verify"
    )
    report = verify(tmp_path / "clone", page_tokens=8)
    assert report.passed
    assert report.source == f"{URL}/qwen3"


def test_each_byte_is_fetched_about_once(source: Sources, server: s3.Server, tmp_path: Path) -> None:
    url = stored(source("qwen3"))
    before = len(server.requests())
    expand(url, tmp_path / "clone", replace(DOUBLE, max_shard_size="60KB"))
    made = server.requests()[before:]
    assert sum(request.endswith("qwen3/model.safetensors") for request in made) == 2  # its header, and one chunk
    assert all(request.startswith(("GET", "HEAD")) for request in made)


def test_nothing_is_left_of_the_copy(source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opened = open_stored(StoreUrl(stored(source("qwen3"))))
    assert opened.path.is_dir()
    del opened
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url, error, words",
    [
        ("ftp://models/llama", RequestError, "ftp:// is not supported"),
        ("s3://models", RequestError, "expected a bucket and a prefix"),
        ("s3:///llama", RequestError, "expected a bucket and a prefix"),
        ("s3://key:secret@models/llama", RequestError, "s3://models/llama: expected a bucket and a prefix, found cred"),
        ("az://models/llama?sig=secret", RequestError, "az://models/llama: expected a bucket and a prefix, found cred"),
        (f"{URL}/nothing", CheckpointError, "nothing is there"),
        ("s3://no-such-bucket/llama", (StorageError, CheckpointError), "no-such-bucket"),
    ],
)
def test_what_names_no_checkpoint_is_refused(url: str, error: type[HypercloneError], words: str) -> None:
    with pytest.raises(error, match=words) as refusal:
        plan(url)
    assert "secret" not in str(refusal.value) + refusal.value.hint


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda objects: objects.delete(["config.json"]), r"{url}/config\.json: no such file"),
        (lambda objects: objects.delete(["model.safetensors"]), r"{url}: neither model\.safetensors nor"),
        (
            lambda objects: objects.write("model.safetensors", bytes(objects.read("model.safetensors"))[:-1]),
            r"{url}/model\.safetensors: truncated",
        ),
        (lambda objects: objects.write("model.safetensors", b""), r"{url}/model\.safetensors: truncated"),
        (
            lambda objects: objects.write("model.safetensors", b"\xff" * 100),
            r"{url}/model\.safetensors: not a safetensors",
        ),
        (lambda objects: objects.write("config.json", b"{"), r"{url}/config\.json: not valid JSON"),
    ],
)
def test_what_is_damaged_is_named_by_its_url(
    damage: Callable[[Objects], None], words: str, source: Sources, tmp_path: Path
) -> None:
    shutil.copytree(source("qwen3"), tmp_path / "damaged")
    url = stored(tmp_path / "damaged")
    damage(Objects(StoreUrl(url)))
    with pytest.raises(CheckpointError, match=words.format(url=url)):
        plan(url)


def test_a_source_that_changes_while_it_is_read_makes_no_clone(source: Sources, tmp_path: Path) -> None:
    url = stored(source("qwen3"))
    other = models.build("qwen3", tmp_path / "other", seed=1)  # the same bytes within a second are no change to S3
    heard = Heard(lambda *_: s3.put(other, url))
    with pytest.raises(StorageError, match=r"model\.safetensors changed while it was read"):
        expand(url, tmp_path / "clone", DOUBLE, progress=heard)
    assert not (tmp_path / "clone").exists()


def test_what_the_library_says_is_shown_without_a_signature() -> None:
    error = Exception("Error performing GET https://a.blob/x?sv=1&sig=secret in 2s\n\nDebug source: secret")
    assert object_store._said(error) == "Error performing GET https://a.blob/x in 2s"


class Refusing(BaseHTTPRequestHandler):
    """A store, and the machine's service of roles, that refuse everything."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is noted."""


@pytest.mark.parametrize("given, words", [(True, "access was refused"), (False, "no credentials were found")])
def test_whoever_is_refused_is_told_to_give_credentials(
    given: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as refusing:
        Thread(target=refusing.serve_forever).start()
        url = f"http://127.0.0.1:{refusing.server_port}"
        for name in ("AWS_ENDPOINT_URL", "AWS_METADATA_ENDPOINT"):
            monkeypatch.setenv(name, url)
        if not given:
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")
            monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        failed = hyperclone("plan", "--src", f"{URL}/qwen3", code=5)
        refusing.shutdown()
    assert f"{URL}/qwen3: {words}" in failed.stderr
    assert "Give credentials in the environment" in failed.stderr


def test_a_url_has_no_revision() -> None:
    result = hyperclone("plan", "--src", f"{URL}/qwen3", "--revision", "main", code=2)
    assert "has no revisions" in result.stderr


def test_without_the_library_a_url_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(RequestError, match="need obstore") as refusal:
        plan(f"{URL}/qwen3")
    assert "hyperclone-cli[cloud]" in refusal.value.hint
