"""Clones onto the Hub: what is uploaded, what is refused, and what happens when an upload is cut."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperclone_cli import expand
from support import models
from support.command_line import hyperclone
from support.local_hub import TOKEN, LocalHub, sha256

REPO = "someone/larger"
UPLOAD = "PUT /storage/"
INDEX = "model.safetensors.index.json"
GENERATION = "generation_config.json"


@pytest.fixture(scope="session")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in several shards, with the record of a verification that it passed."""
    place = tmp_path_factory.mktemp("push")
    src = models.build("llama-gqa-tied", place / "src")
    plan = expand(src, place / "clone", embed_mult=2, ffn_mult=2, max_shard_size="150KB")
    files = {name: sha256(content) for name, content in contents(place / "clone").items() if name != "README.md"}
    record = {"schema_version": 1, "plan_digest": plan.digest, "passed": True, "files": files}
    (place / "clone" / "verification.json").write_text(json.dumps(record))
    return place / "clone"


@pytest.fixture
def clone(verified: Path, tmp_path: Path) -> Path:
    """A copy of the test's own, at `clone` in the working directory."""
    return Path(shutil.copytree(verified, tmp_path / "clone"))


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        yield hub


Push = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hyperclone_cli", "push", *map(str, arguments)]


@pytest.fixture
def push(hub: LocalHub, clone: Path) -> Push:
    """`push("clone", …)`: the command as a client of `hub`, logged in, in the directory where `clone` is."""

    def push(
        *arguments: object, code: int = 0, token: str | None = TOKEN, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        env = hub.environment(clone.parent / "home", token) | environment
        result = hyperclone("push", *arguments, code=code, cwd=clone.parent, env=env)
        assert "Traceback" not in result.stderr
        assert TOKEN not in result.stdout + result.stderr
        return result

    return push


def contents(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_clone_is_uploaded_whole_into_a_repository_that_is_made_for_it(
    hub: LocalHub, push: Push, clone: Path
) -> None:
    result = push("clone", REPO)
    assert result.stdout == f"pushed: {hub.endpoint}/{REPO}\n"
    assert result.stderr == ""
    repo = hub.repos[REPO]
    assert not repo.private
    assert repo.files() == contents(clone) | {".gitattributes": repo.files()[".gitattributes"]}
    assert len(repo.commits) == 2  # the one that made it, and ours: nobody sees half a model


def test_hidden_files_stay_here(hub: LocalHub, push: Push, clone: Path) -> None:
    published = {*contents(clone), ".gitattributes"}
    for name in (".hyperclone-partial", ".env", "sub/.secret", ".cache/tokenizer.json"):
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_text("mine")
    push("clone", REPO)
    assert set(hub.repos[REPO].files()) == published


def test_what_resumes_a_training_run_stays_here_and_is_named(hub: LocalHub, push: Push, clone: Path) -> None:
    published = {*contents(clone), ".gitattributes"}
    for name in (
        "optimizer.pt",
        "optimizer_state.safetensors",
        "scheduler.pt",
        "optimizer_0/__0_0.distcp",
        "optimizer_0/.metadata",
    ):
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_bytes(bytes(1000))
    said = push("clone", REPO).stderr
    assert set(hub.repos[REPO].files()) == published
    listed = "optimizer.pt, optimizer_0/__0_0.distcp, optimizer_state.safetensors, scheduler.pt"
    assert f"4.0 kB that resume a training run: {listed}." in said
    assert f"hf upload {REPO} clone ." in said


def test_the_result_is_one_json_object(hub: LocalHub, push: Push) -> None:
    found = json.loads(push("clone", REPO, "--json").stdout)
    assert found == {
        "schema_version": 1,
        "clone": "clone",
        "repo_id": REPO,
        "url": f"{hub.endpoint}/{REPO}",
        "commit": hub.repos[REPO].branches["main"],
        "left_out": [],
        "left_out_bytes": 0,
    }


def test_a_name_without_an_owner_is_the_users(hub: LocalHub, push: Push) -> None:
    assert f"{hub.endpoint}/someone/larger" in push("clone", "larger").stdout


def test_the_repository_may_be_private_and_the_commit_have_a_message(hub: LocalHub, push: Push) -> None:
    push("clone", REPO, "--private", "--commit-message", "Twice as wide", "--token", TOKEN, token=None)
    assert hub.repos[REPO].private
    assert hub.repos[REPO].messages[-1] == "Twice as wide"
    push("clone", REPO, "--private")


def test_private_does_not_mean_a_public_repository_that_is_there(hub: LocalHub, push: Push, clone: Path) -> None:
    hub.add(REPO, clone.parent / "nothing")
    assert "public" in push("clone", REPO, "--private", code=2).stderr
    assert hub.repos[REPO].files() == {}


def test_a_branch_is_made_and_main_left_alone(hub: LocalHub, push: Push, clone: Path) -> None:
    hub.add(REPO, clone.parent / "nothing")
    for _ in range(2):
        result = push("clone", REPO, "--revision", "twice")
    assert result.stdout == f"pushed: {hub.endpoint}/{REPO}/tree/twice\n"
    assert hub.repos[REPO].files() == {}
    assert hub.repos[REPO].files("twice") == contents(clone)


def test_a_pull_request_leaves_main_alone(hub: LocalHub, push: Push, clone: Path) -> None:
    hub.add(REPO, clone.parent / "nothing")
    result = push("clone", REPO, "--create-pr")
    assert result.stdout == f"pushed: {hub.endpoint}/{REPO}/discussions/1\n"
    assert hub.repos[REPO].files() == {}
    assert hub.repos[REPO].files("refs/pr/1") == contents(clone)
    edit("README.md")(clone)
    push("clone", REPO, "--revision", "refs/pr/1")
    assert hub.repos[REPO].files("refs/pr/1") == contents(clone)


def test_weights_that_would_be_loaded_instead_are_removed(hub: LocalHub, push: Push, clone: Path) -> None:
    """Where both are there, transformers loads model.safetensors and not the shards."""
    old = clone.parent / "old"
    old.mkdir()
    kept = {"assets-model.safetensors", "model.gguf", "notes.md"}
    for name in kept | {"model.safetensors", "model-00001-of-00099.safetensors"}:
        (old / name).write_bytes(b"old")
    hub.add(REPO, old)
    push("clone", REPO)
    assert set(hub.repos[REPO].files()) == set(contents(clone)) | kept


def test_pushing_again_uploads_nothing(hub: LocalHub, push: Push) -> None:
    push("clone", REPO)
    commit = hub.repos[REPO].branches["main"]
    hub.requests.clear()
    push("clone", REPO)
    assert hub.asked(UPLOAD) == []
    assert hub.repos[REPO].branches["main"] == commit


def test_an_upload_that_is_killed_halfway_goes_on_when_run_again(hub: LocalHub, clone: Path, tmp_path: Path) -> None:
    last = sorted(clone.glob("*.safetensors"))[-1]
    cut = hub.fail(f"{UPLOAD}{sha256(last.read_bytes())}", cut=last.stat().st_size // 2)
    process = subprocess.Popen(
        command(clone, REPO), env=hub.environment(tmp_path / "home", TOKEN), stderr=subprocess.DEVNULL
    )
    assert cut.reached.wait(60)
    others = sorted(request.path for request in hub.asked(UPLOAD) if request.status == 200)
    process.kill()
    process.wait()
    hub.faults.clear()
    assert set(hub.repos[REPO].files()) == {".gitattributes"}
    stored = set(hub.storage)
    hub.requests.clear()
    env = hub.environment(tmp_path / "home", TOKEN)
    subprocess.run(command(clone, REPO), env=env, check=True, stdout=subprocess.DEVNULL)
    assert set(hub.repos[REPO].files()) == {*contents(clone), ".gitattributes"}
    assert len(hub.asked(UPLOAD)) == len(hub.storage) - len(stored)
    assert not {request.path for request in hub.asked(UPLOAD)} & set(others)


def test_an_upload_that_is_cut_once_is_waited_out(hub: LocalHub, push: Push, clone: Path) -> None:
    hub.fail(UPLOAD, times=1, cut=5000)
    push("clone", REPO)
    assert set(hub.repos[REPO].files()) == {*contents(clone), ".gitattributes"}


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "401": ("POST /api/repos/create", {"status": 401}, "does not accept the token"),
    "403": ("POST /api/repos/create", {"status": 403}, "the token does not allow this"),
    "an upload": (UPLOAD, {"status": 403}, "the token does not allow this"),
    "a commit": ("POST /api/models/.*/commit/", {"status": 500}, "answered HTTP 500"),
    "too many": ("POST /api/models/.*/commit/", {"status": 429}, "too many requests"),
}


@pytest.mark.parametrize("pattern, fault, words", REFUSED.values(), ids=list(REFUSED))
def test_a_fault_is_one_message_that_names_how_to_go_on(
    pattern: str, fault: dict[str, Any], words: str, hub: LocalHub, push: Push
) -> None:
    hub.fail(pattern, **fault)
    result = push("clone", REPO, code=5)
    assert result.stdout == ""
    assert words in result.stderr
    assert f"hyperclone push clone {REPO}" in result.stderr
    assert len(result.stderr.splitlines()) == 2


GOING_ON: list[list[str]] = [
    ["--private", "--commit-message", "Twice as wide; it's new"],
    ["--revision", "twice"],
    ["--create-pr"],
    ["--force", "--token", TOKEN],
]


@pytest.mark.parametrize("options", GOING_ON, ids=" ".join)
def test_the_command_that_goes_on_asks_for_the_same_but_for_the_token(
    options: list[str], hub: LocalHub, push: Push
) -> None:
    hub.fail("POST /api/models/.*/commit/", status=500)
    said = push("clone", REPO, *options, code=5).stderr
    asked = [option for option in options if option not in ("--token", TOKEN)]
    assert shlex.split(said.partition("To go on: ")[2]) == ["hyperclone", "push", "clone", REPO, *asked]


def remove(name: str) -> Callable[[Path], object]:
    return lambda clone: (clone / name).unlink()


def record(**changes: Any) -> Callable[[Path], object]:
    def change(clone: Path) -> None:
        path = clone / "verification.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def flip_a_bit(clone: Path) -> None:
    shard = sorted(clone.glob("*.safetensors"))[1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def edit(name: str) -> Callable[[Path], object]:
    return lambda clone: (clone / name).write_text((clone / name).read_text() + "\n")


def add_a_single_file(clone: Path) -> None:
    """Which transformers loads rather than the shards."""
    shutil.copy(sorted(clone.glob("*.safetensors"))[0], clone / "model.safetensors")


def add(name: str) -> Callable[[Path], object]:
    def change(clone: Path) -> None:
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_text("{}")

    return change


def truncate(clone: Path) -> None:
    shard = sorted(clone.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-7])


UNVERIFIED: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "never verified": (remove("verification.json"), 2, "never verified"),
    "verified before it was written anew": (record(plan_digest="0"), 2, "is not about this clone"),
    "of another version": (record(schema_version=2), 2, "is not about this clone"),
    "failed": (record(passed=False), 4, "failed its verification"),
    "not said to have passed": (record(passed="no"), 4, "failed its verification"),
    "without digests": (record(files=None), 2, "is not about this clone"),
    "another weight": (flip_a_bit, 2, "changed since it was verified: model-00002-of-00006.safetensors"),
    "another config": (edit("config.json"), 2, "changed since it was verified: config.json"),
    "another index": (edit(INDEX), 2, f"changed since it was verified: {INDEX}"),
    "another generation_config": (edit(GENERATION), 2, f"changed since it was verified: {GENERATION}"),
    "another record": (edit("hyperclone.json"), 2, "changed since it was verified: hyperclone.json"),
    "more weights": (add_a_single_file, 2, "changed since it was verified: model.safetensors was not there"),
    "a tokenizer": (add("tokenizer.json"), 2, "changed since it was verified: tokenizer.json was not there"),
    "an adapter": (add("adapter_config.json"), 2, "verified: adapter_config.json was not there"),
    "other weights": (add("pytorch_model.bin"), 2, "verified: pytorch_model.bin was not there"),
    "notes": (add("notes.txt"), 2, "changed since it was verified: notes.txt was not there"),
    "a file in a directory": (add("runs/secrets.pt"), 2, "verified: runs/secrets.pt was not there"),
}


@pytest.mark.parametrize("spoil, code, words", UNVERIFIED.values(), ids=list(UNVERIFIED))
def test_what_was_not_verified_is_pushed_by_force_alone(
    spoil: Callable[[Path], object], code: int, words: str, hub: LocalHub, push: Push, clone: Path
) -> None:
    spoil(clone)
    result = push("clone", REPO, code=code)
    assert words in result.stderr
    assert "hyperclone verify clone" in result.stderr
    assert hub.requests == []
    push("clone", REPO, "--force")
    assert REPO in hub.repos


def test_a_clone_whose_source_is_elsewhere_now_is_verified_against_it_and_pushed(
    hub: LocalHub, push: Push, clone: Path, verified: Path
) -> None:
    add("notes.txt")(clone)
    push("clone", REPO, code=2)
    assert "Name it with --src" in hyperclone("verify", clone, code=3).stderr
    noted = hyperclone("verify", clone, "--src", verified.parent / "src").stderr
    assert "`push` would publish it: notes.txt" in noted
    push("clone", REPO)
    assert "notes.txt" in hub.repos[REPO].files()


def test_the_card_is_the_users_to_edit(hub: LocalHub, push: Push, clone: Path) -> None:
    edit("README.md")(clone)
    push("clone", REPO)
    assert hub.repos[REPO].files()["README.md"] == (clone / "README.md").read_bytes()


def set_files(files: object) -> Callable[[Path], object]:
    def change(clone: Path) -> None:
        path = clone / "hyperclone.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"files": files}))

    return change


UNFINISHED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no record": (remove("hyperclone.json"), "no hyperclone.json"),
    "a missing file": (remove("config.json"), "config.json: missing"),
    "a missing shard": (remove("model-00002-of-00006.safetensors"), "model-00002-of-00006.safetensors: missing"),
    "a truncated shard": (truncate, "truncated"),
    "a damaged record": (lambda clone: (clone / "verification.json").write_text("{"), "verification.json: not valid"),
    "files that are a number": (set_files(3), "hyperclone.json: damaged"),
    "files that are numbers": (set_files([1]), "hyperclone.json: damaged"),
    "a file outside the clone": (set_files(["../secret"]), "file '../secret' is not inside the clone"),
}


@pytest.mark.parametrize("spoil, words", UNFINISHED.values(), ids=list(UNFINISHED))
def test_what_is_no_finished_clone_is_not_pushed(
    spoil: Callable[[Path], object], words: str, hub: LocalHub, push: Push, clone: Path
) -> None:
    spoil(clone)
    assert words in push("clone", REPO, code=3).stderr
    assert hub.requests == []


REQUESTS: dict[str, tuple[list[str], str | None, str]] = {
    "not a name": (["clone", "a/b/c"], TOKEN, "org/name"),
    "a pull request against a branch": (["clone", REPO, "--create-pr", "--revision", "x"], TOKEN, "--create-pr"),
    "not logged in": (["clone", REPO], None, "hf auth login"),
    "nothing": (["nowhere", REPO], TOKEN, "nowhere: no such directory"),
}


@pytest.mark.parametrize("arguments, token, words", REQUESTS.values(), ids=list(REQUESTS))
def test_a_push_that_cannot_be_is_refused_before_anything_is_asked(
    arguments: list[str], token: str | None, words: str, hub: LocalHub, push: Push
) -> None:
    assert words in push(*arguments, code=2, token=token).stderr
    assert hub.requests == []


def test_offline_nothing_is_pushed(push: Push) -> None:
    assert "HF_HUB_OFFLINE is set" in push("clone", REPO, code=5, HF_HUB_OFFLINE="1").stderr
