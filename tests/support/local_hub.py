"""A Hub on loopback: the endpoints that the real `huggingface_hub` client uses to download and upload.

    with LocalHub() as hub:
        hub.add("facebook/opt-350m", directory)
        subprocess.run(..., env=hub.environment(home))

Everything is in memory. The client is the real one and knows of this server by HF_ENDPOINT alone. Every request is
kept in `hub.requests`, and `hub.fail` makes those that it names go wrong.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_localTokenThatNobodyMaySee"
LFS_BYTES = 4096
"""Files of at least this size go to large file storage, as weights do on the real Hub."""

CONTENT = "^GET /[^/]+/[^/]+/resolve/"
WEIGHTS = CONTENT + r".*\.(safetensors|bin)$"
"""What `LocalHub.asked` takes for requests for files, and for weights among them."""


@dataclass
class Repo:
    """A repository: its commits (sha → path → content) and where its branches stand."""

    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str = "") -> str:
        stamp = f"{len(self.commits)} {sorted((path, sha256(content)) for path, content in files.items())}"
        sha = hashlib.sha1(stamp.encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        self.messages.append(message)
        return sha

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]


@dataclass
class Request:
    """What the client asked, and how many bytes of content the answer carried."""

    method: str
    path: str
    authorised: bool
    status: int = 0
    sent: int = 0
    received: int = 0


@dataclass
class Fault:
    """What goes wrong with requests whose "METHOD /path" matches `pattern`, `times` times.

    status   answer this instead
    cut      close the connection after so many bytes of the body, ours or the client's
    headers  add these to the answer, or replace them
    content  serve this instead
    reached  set as soon as the fault has struck
    """

    pattern: str
    times: float
    status: int | None = None
    cut: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    reached: threading.Event = field(default_factory=threading.Event)


def fetched(requests: list[Request]) -> list[str]:
    """The names of the files that were asked for."""
    return sorted(request.path.split("/resolve/")[1].split("/", 1)[1] for request in requests)


def sent_bytes(requests: list[Request]) -> int:
    """The bytes with which all were answered."""
    return sum(request.sent for request in requests)


class LocalHub:
    """The server and what it holds. Serves from `with` until the block ends."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.storage: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, repo_id: str, directory: Path, private: bool = False, gated: bool = False) -> str:
        """Make a repository of a directory's files; returns its commit."""
        files = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        self.repos[repo_id] = Repo(private, gated)
        return self.repos[repo_id].commit("main", files)

    def fail(self, pattern: str, times: float = float("inf"), **what: Any) -> Fault:
        """Let requests whose "METHOD /path" matches `pattern` go wrong, see Fault."""
        self.faults.append(Fault(pattern, times, **what))
        return self.faults[-1]

    def asked(self, pattern: str) -> list[Request]:
        """The requests whose "METHOD /path" matches `pattern`."""
        return [request for request in self.requests if re.search(pattern, f"{request.method} {request.path}")]

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment for a client that knows this Hub alone and keeps its cache under `home`."""
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        own["HF_HUB_DISABLE_TELEMETRY"] = "1"  # or the client asks which agents there are
        return inherited | own | {"COLUMNS": "100", "NO_COLOR": "1"} | ({"HF_TOKEN": token} if token else {})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def describe(path: str, content: bytes) -> dict[str, Any]:
    """A file as the tree endpoint lists it."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_blob(content)}
    if len(content) >= LFS_BYTES:
        entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
    return entry


class _Answer(Exception):
    """What to answer instead of going on."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        names = {"X-Error-Code": code, "X-Error-Message": message} if code or message else {}
        self.status, self.headers, self.message = status, {**names, **headers}, message


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the client was killed, as some tests do
            self.close_connection = True

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self.url = urlsplit(self.path)
        self.query = parse_qs(self.url.query)
        self.seen = Request(self.command, self.path, "Authorization" in self.headers)
        self.hub.requests.append(self.seen)
        self.fault = self._strike()
        try:
            if self.fault.cut is not None and self.command in ("PUT", "POST"):
                self.rfile.read(self.fault.cut)
                raise ConnectionResetError
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.seen.received = len(self.body)
            if self.fault.status is not None:
                raise _Answer(self.fault.status)
            self._route()
        except _Answer as answer:
            content = json.dumps({"error": answer.message or "as the test wanted it"}).encode()
            self._send(answer.status, content, {"Content-Type": "application/json", **answer.headers})
        except ConnectionError:
            self.close_connection = True
        finally:
            self.fault.reached.set()

    def _strike(self) -> Fault:
        line = f"{self.command} {unquote(self.url.path)}"
        for fault in self.hub.faults:
            if fault.times > 0 and re.search(fault.pattern, line):
                fault.times -= 1
                return fault
        return Fault("", 0)

    def _send(self, status: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.seen.status = status
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **(headers or {}), **self.fault.headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.seen.sent = len(content) if self.fault.cut is None else min(self.fault.cut, len(content))
            self.wfile.write(content[: self.seen.sent])
            if self.seen.sent < len(content):
                raise ConnectionResetError

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _route(self) -> None:
        path = unquote(self.url.path)
        for pattern, answer in (
            (r"/api/repos/create", self._create_repo),
            (r"/api/validate-yaml", lambda: self._json({"errors": [], "warnings": []})),
            (r"/storage/(\w{64})", self._store),
            (r"/storage/(\w{64})/verify", self._verify_stored),
            (r"/(.+)\.git/info/lfs/objects/batch", self._lfs_batch),
            (r"/api/models/(.+?)/tree/((?:refs/pr/)?[^/]+)/?(.*)", self._tree),
            (r"/api/models/(.+?)/paths-info/(.+)", self._paths_info),
            (r"/api/models/(.+?)/preupload/(.+)", self._preupload),
            (r"/api/models/(.+?)/commit/(.+)", self._commit),
            (r"/api/models/(.+?)/branch/(.+)", self._create_branch),
            (r"/api/models/(.+?)/revision/(.+)", self._info),
            (r"/api/models/([^/]+(?:/[^/]+)?)", self._info),
            (r"/(.+?)/resolve/((?:refs/pr/)?[^/]+)/(.+)", self._resolve),
        ):
            if found := re.fullmatch(pattern, path):
                return answer(*found.groups())
        raise _Answer(404, message=f"no endpoint {path}")

    def _repo(self, repo_id: str, write: bool = False, content: bool = False) -> Repo:
        repo = self.hub.repos.get(repo_id)
        token = self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            raise _Answer(401, message="Invalid credentials in Authorization header")
        if repo is None or (repo.private and not token):
            # the real Hub tells strangers 401 for both, and those who are known 404
            raise _Answer(404 if token else 401, "RepoNotFound", "Repository not found")
        if content and repo.gated and not token:
            raise _Answer(403, "GatedRepo", f"Access to model {repo_id} is restricted")
        if write and not token:
            raise _Answer(401, message="Unauthorized")
        return repo

    def _files(self, repo_id: str, revision: str, content: bool = False) -> tuple[str, dict[str, bytes]]:
        repo = self._repo(repo_id, content=content)
        sha = repo.resolve(revision)
        if sha is None:
            raise _Answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, repo.commits[sha]

    def _info(self, repo_id: str, revision: str = "main") -> None:
        sha, files = self._files(repo_id, revision)
        siblings = [{"rfilename": path} for path in files]
        private = self.hub.repos[repo_id].private
        self._json({"_id": "0", "id": repo_id, "sha": sha, "private": private, "siblings": siblings, "tags": []})

    def _tree(self, repo_id: str, revision: str, folder: str) -> None:
        _, files = self._files(repo_id, revision)
        under = [path for path in files if not folder or path.startswith(f"{folder}/")]
        if folder and not under:
            raise _Answer(404, "EntryNotFound", f"{folder} does not exist")
        self._json([describe(path, files[path]) for path in under])

    def _paths_info(self, repo_id: str, revision: str) -> None:
        _, files = self._files(repo_id, revision)
        if self.headers["Content-Type"].startswith("application/json"):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        self._json([describe(path, files[path]) for path in paths if path in files])

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        sha, files = self._files(repo_id, revision, content=True)
        commit = {"X-Repo-Commit": sha}
        if path not in files:
            raise _Answer(404, "EntryNotFound", f"{path} does not exist", **commit)
        content = files[path] if self.fault.content is None else self.fault.content
        large = len(files[path]) >= LFS_BYTES
        headers = {**commit, "ETag": f'"{sha256(files[path]) if large else git_blob(files[path])}"'}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(found[1]), min(int(found[2] or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            self._send(206, content[start:stop], headers)
        else:
            self._send(200, content, {**headers, "Accept-Ranges": "bytes"})

    def _create_repo(self) -> None:
        asked = json.loads(self.body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Answer(401, message="Invalid username or password.")
        repo_id = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        url = f"{self.hub.endpoint}/{repo_id}"
        if repo_id in self.hub.repos:
            return self._json({"error": "You already created this model repo", "url": url}, status=409)
        self.hub.repos[repo_id] = Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        self.hub.repos[repo_id].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return self._json({"url": url, "id": repo_id, "name": repo_id})

    def _create_branch(self, repo_id: str, branch: str) -> None:
        repo = self._repo(repo_id, write=True)
        if branch in repo.branches:
            raise _Answer(409, message="Reference already exists")
        repo.branches[branch] = repo.branches["main"]
        self._json({})

    def _preupload(self, repo_id: str, revision: str) -> None:
        self._repo(repo_id, write=True)
        _, present = self._files(repo_id, revision)
        self._json({"files": [self._upload_mode(file, present) for file in json.loads(self.body)["files"]]})

    @staticmethod
    def _upload_mode(file: dict[str, Any], present: Mapping[str, bytes]) -> dict[str, Any]:
        path = file["path"]
        mode: dict[str, Any] = {"path": path, "shouldIgnore": False}
        mode["uploadMode"] = "lfs" if file["size"] >= LFS_BYTES else "regular"
        if path in present:
            content = present[path]
            mode["oid"] = sha256(content) if len(content) >= LFS_BYTES else git_blob(content)
        return mode

    def _lfs_batch(self, repo_id: str) -> None:
        self._repo(repo_id, write=True)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            place = {"href": f"{self.hub.endpoint}/storage/{asked['oid']}"}
            check = {"href": f"{place['href']}/verify"}
            actions = {} if asked["oid"] in self.hub.storage else {"actions": {"upload": place, "verify": check}}
            objects.append({"oid": asked["oid"], "size": asked["size"], **actions})
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str) -> None:
        if sha256(self.body) != oid:
            raise _Answer(400, message="the content is not what was announced")
        self.hub.storage[oid] = self.body
        self._send(200)

    def _verify_stored(self, oid: str) -> None:
        if oid not in self.hub.storage:
            raise _Answer(404, message="no such object")
        self._json({})

    def _commit(self, repo_id: str, branch: str) -> None:
        repo = self._repo(repo_id, write=True)
        if branch not in repo.branches:
            raise _Answer(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        files, message = dict(repo.files(branch)), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.storage[value["oid"]]
            else:
                assert key == "deletedFile", key
                del files[value["path"]]
        request = "create_pr" in self.query
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
        sha = repo.commit(f"refs/pr/{number}" if request else branch, files, message)
        pull = {"pullRequestUrl": f"{self.hub.endpoint}/{repo_id}/discussions/{number}"} if request else {}
        url = f"{self.hub.endpoint}/{repo_id}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": url, **pull})
