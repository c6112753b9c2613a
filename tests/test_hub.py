"""Models on the Hub as sources: what is fetched, what is not, and what happens when the Hub or the network fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import models
import opt_350m
from command_line import hyperclone
from hyperclone_cli import expand
from local_hub import TOKEN, LocalHub, Request

CONTENT = "^GET /[^/]+/[^/]+/resolve/"
WEIGHTS = CONTENT + r".*\.(safetensors|bin)$"
GROWTH = ("--embed-mult", 2, "--ffn-mult", 2)


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in four shards of 60 kB and less, with files beside it that nobody needs."""
    path = models.build("llama-gqa-tied", tmp_path_factory.mktemp("hub") / "sharded", max_shard_size="60KB")
    (path / "LICENSE").write_text("be kind")
    (path / "README.md").write_text("---\nlicense: mit\n---\n# The small one\n")
    for name in (
        "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "model.fp16.safetensors", "model-Q4.gguf",
        "onnx/model.onnx", "original/consolidated.00.pth", "original/tokenizer.model", "fp16/modeling_mine.py",
    ):  # fmt: skip
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"not needed" * 1000)
    return path


@pytest.fixture(scope="session")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return opt_350m.build(tmp_path_factory.mktemp("opt") / "opt-350m")


@pytest.fixture
def hub(sharded: Path) -> Iterator[LocalHub]:
    """A Hub that holds the sharded Llama as a/llama."""
    with LocalHub() as hub:
        hub.add("a/llama", sharded)
        yield hub


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(hub: LocalHub, tmp_path: Path) -> Run:
    """`run("plan", …)`: the command line as a client of `hub`, in tmp_path, with a cache of its own."""

    def run(
        *arguments: object, code: int = 0, token: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        env = hub.environment(tmp_path / "home", token) | environment
        result = hyperclone(*arguments, code=code, cwd=tmp_path, env=env)
        assert "Traceback" not in result.stderr
        assert TOKEN not in result.stdout + result.stderr
        return result

    return run


def fetched(requests: list[Request]) -> list[str]:
    return sorted(request.path.split("/resolve/")[1].split("/", 1)[1] for request in requests)


def total(requests: list[Request]) -> int:
    return sum(request.sent for request in requests)


def test_expand_fetches_each_needed_file_once_and_nothing_else(
    hub: LocalHub, run: Run, sharded: Path, tmp_path: Path
) -> None:
    run("expand", "--src", "a/llama", *GROWTH, "--out", "clone", "--no-verify")
    shards = [f"model-0000{number}-of-00004.safetensors" for number in range(1, 5)]
    small = ["LICENSE", "README.md", "config.json", "generation_config.json", "model.safetensors.index.json"]
    assert fetched(hub.asked(CONTENT)) == sorted(small + shards)
    expand(sharded, tmp_path / "local", embed_mult=2, ffn_mult=2)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("clone", "local"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_second_run_fetches_nothing(hub: LocalHub, run: Run) -> None:
    run("expand", "--src", "a/llama", *GROWTH, "--out", "clone", "--no-verify")
    hub.requests.clear()
    run("expand", "--src", "a/llama", *GROWTH, "--out", "other", "--no-verify")
    assert [request.path for request in hub.requests] == ["/api/models/a/llama/revision/main"]


def test_the_cache_is_enough_offline(hub: LocalHub, run: Run) -> None:
    run("expand", "--src", "a/llama", *GROWTH, "--out", "clone", "--no-verify")
    hub.requests.clear()
    run("expand", "--src", "a/llama", *GROWTH, "--out", "other", HF_HUB_OFFLINE="1")
    run("plan", "--src", "a/llama", *GROWTH, HF_HUB_OFFLINE="1")
    assert hub.requests == []


def test_the_single_file_is_fetched_where_there_are_shards_too(hub: LocalHub, run: Run) -> None:
    """As transformers reads it."""
    hub.repos["a/llama"].files()["model.safetensors"] = b"".join(
        (hub.repos["a/llama"].files()[f"model-0000{number}-of-00004.safetensors"]) for number in (1,)
    )
    run("expand", "--src", "a/llama", "--out", "clone", "--no-verify", code=3)
    assert fetched(hub.asked(WEIGHTS)) == ["model.safetensors"]


def test_a_plan_reads_headers_and_fetches_no_weights(hub: LocalHub, run: Run, tmp_path: Path) -> None:
    src = models.build(
        "llama-gqa-tied", tmp_path / "wide", max_shard_size="2MB", vocab_size=8000, intermediate_size=8192
    )
    hub.add("a/wide", src)
    planned = json.loads(run("plan", "--src", "a/wide", *GROWTH, "--json").stdout)
    assert planned == json.loads(run("plan", "--src", src, *GROWTH, "--json").stdout)
    asked = hub.asked(WEIGHTS)
    assert set(fetched(hub.asked(CONTENT))) - set(fetched(asked)) == {"config.json", "model.safetensors.index.json"}
    assert len(asked) == len(list(src.glob("*.safetensors"))) > 2
    assert total(asked) <= len(asked) * (1 << 17) < sum(path.stat().st_size for path in src.glob("*.safetensors")) / 4
    assert not list((tmp_path / "home").rglob("model-*.safetensors"))


def test_a_plan_of_safetensors_on_the_hub_imports_neither_torch_nor_transformers(hub: LocalHub, tmp_path: Path) -> None:
    code = (
        "import sys; from hyperclone_cli.cli.app import app\n"
        "try: app(['plan', '--src', 'a/llama', '--embed-mult', '2'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    env = hub.environment(tmp_path / "home")
    subprocess.run([sys.executable, "-c", code], env=env, check=True, stdout=subprocess.DEVNULL)


def test_a_plan_of_a_bin_file_reads_its_pickle_and_no_weights(
    hub: LocalHub, run: Run, opt: Path, tmp_path: Path
) -> None:
    hub.add("facebook/opt-350m", opt)
    planned = json.loads(run("plan", "--src", "facebook/opt-350m", *GROWTH, "--json").stdout)
    assert planned["config"]["hidden_size"] == {"before": 1024, "after": 2048}
    assert planned["head"]["tied"] is True
    assert total(hub.asked(WEIGHTS)) < (opt / "pytorch_model.bin").stat().st_size / 50
    assert not list((tmp_path / "home").rglob("pytorch_model.bin"))


def test_a_plan_of_an_old_bin_file_says_that_it_would_have_to_be_fetched(
    hub: LocalHub, run: Run, opt: Path, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(opt, tmp_path / "old"))
    tensors = torch.load(old / "pytorch_model.bin", weights_only=True)
    torch.save(tensors, old / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    hub.add("a/old", old)
    result = run("plan", "--src", "a/old", *GROWTH, code=2)
    assert f"{(old / 'pytorch_model.bin').stat().st_size:,} bytes" in result.stderr


NOT_IN_FULL = (
    "lm_head.weight is stored apart from the embedding that it is tied to, and was not compared with it in full"
)


@pytest.mark.parametrize(
    "file, vocab, tie, differ, noted",
    [
        ("model.safetensors", 768, True, "nowhere", True),
        ("model.safetensors", 768, True, "at the end", True),
        ("model.safetensors", 768, True, "at the start", False),  # so much is read, and settles it
        ("model.safetensors", 96, True, "nowhere", False),  # read whole
        ("model.safetensors", 768, False, "nowhere", False),
        ("pytorch_model.bin", 96, True, "nowhere", True),
        ("pytorch_model.bin", 96, False, "nowhere", False),
    ],
)
def test_a_plan_says_that_a_stored_head_was_not_compared_in_full(
    file: str, vocab: int, tie: bool, differ: str, noted: bool, hub: LocalHub, run: Run, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    src = models.build("llama-mha", tmp_path / "src", vocab_size=vocab, tie_word_embeddings=tie)
    tensors = load_file(src / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    if differ != "nowhere":
        head[-1 if differ == "at the end" else 0] += 1
    tensors["lm_head.weight"] = head
    (src / "model.safetensors").unlink()
    if file.endswith(".bin"):
        torch.save(tensors, src / file)
    else:
        save_file(tensors, src / file, metadata={"format": "pt"})
    hub.add("a/stored", src)
    notes = json.loads(run("plan", "--src", "a/stored", *GROWTH, "--json").stdout)["notes"]
    assert [note[: len(NOT_IN_FULL)] for note in notes] == [NOT_IN_FULL] * noted


@pytest.mark.parametrize("differ", [False, True], ids=["the same", "another"])
def test_a_plan_looks_whether_a_stored_head_is_the_tied_one(
    differ: bool, hub: LocalHub, run: Run, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    src = models.build("llama-gqa-tied", tmp_path / "src")
    tensors = load_file(src / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * (2 if differ else 1)
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    hub.add("a/stored", src)
    planned = json.loads(run("plan", "--src", "a/stored", *GROWTH, "--json").stdout)
    assert planned == json.loads(run("plan", "--src", src, *GROWTH, "--json").stdout)
    assert planned["head"]["tied"] is not differ


def test_the_commit_is_recorded_and_verified_against_although_the_branch_moves_on(
    hub: LocalHub, run: Run, tmp_path: Path
) -> None:
    repo = hub.repos["a/llama"]
    commit = repo.branches["main"]
    run("expand", "--src", "a/llama", *GROWTH, "--out", "clone", "--no-verify", token=TOKEN)
    record = json.loads((tmp_path / "clone" / "hyperclone.json").read_text())
    assert record["source"] == {"repo_id": "a/llama", "revision": commit}
    repo.commit("main", {"config.json": b"{}"})
    shutil.rmtree(tmp_path / "home")
    result = run("verify", "clone")
    assert result.stdout.endswith("passed: clone against a/llama\n")
    inspected = json.loads(run("inspect", "clone", "--json").stdout)
    assert inspected["notes"] == []


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: LocalHub, run: Run, tmp_path: Path) -> None:
    repo = hub.repos["a/llama"]
    files = dict(repo.files())
    first = repo.branches["main"]
    config = json.loads(files["config.json"]) | {"rms_norm_eps": 0.25}
    second = repo.commit("experiment", files | {"config.json": json.dumps(config).encode()})
    for revision, commit in (("main", first), ("experiment", second), (first, first)):
        out = tmp_path / revision
        run("expand", "--src", "a/llama", "--revision", revision, "--out", out, "--no-verify")
        assert json.loads((out / "hyperclone.json").read_text())["source"]["revision"] == commit
    assert json.loads((tmp_path / "experiment" / "config.json").read_text())["rms_norm_eps"] == 0.25


def test_the_cache_directory_can_be_chosen(run: Run, tmp_path: Path) -> None:
    run("plan", "--src", "a/llama", "--cache-dir", "here")
    assert (tmp_path / "here" / "models--a--llama").is_dir()
    assert not (tmp_path / "home" / "hub").exists()


def test_what_exists_here_is_not_looked_for_on_the_hub(hub: LocalHub, run: Run, sharded: Path, tmp_path: Path) -> None:
    shutil.copytree(sharded, tmp_path / "a" / "llama")
    run("plan", "--src", "a/llama")
    assert hub.requests == []
    refusal = run("plan", "--src", "a/llama", "--revision", "main", code=2)
    assert "which has no revisions" in refusal.stderr


@pytest.mark.parametrize("src", ["./llama", "/no/where", "a/b/c", "../llama", "./model.gguf"])
def test_what_can_only_be_a_path_is_not_looked_for_on_the_hub(src: str, hub: LocalHub, run: Run) -> None:
    said = run("plan", "--src", src, code=2).stderr
    assert f"{src}: no such directory" in said
    assert "a model on the Hub is named org/name" in said
    assert hub.requests == []


@pytest.mark.parametrize("command", [["plan"], ["expand", "--out", "clone"], ["verify"], ["inspect"]])
def test_an_empty_source_is_refused_and_not_taken_for_this_directory(
    command: list[str], hub: LocalHub, run: Run, sharded: Path, tmp_path: Path
) -> None:
    expand(sharded, tmp_path / "here")
    for path in (tmp_path / "here").iterdir():
        path.rename(tmp_path / path.name)
    assert "--src: expected a name, found nothing" in run(*command, "--src", "", code=2).stderr
    assert hub.requests == []


def test_a_request_that_the_config_rules_out_fetches_no_weights(hub: LocalHub, run: Run) -> None:
    result = run("expand", "--src", "a/llama", "--heads-mult", 3, "--kv-heads-mult", 4, "--out", "clone", code=2)
    assert "12 heads over 8 key/value heads" in result.stderr
    assert hub.asked(WEIGHTS) == []


def test_an_unsupported_architecture_fetches_no_weights(hub: LocalHub, run: Run) -> None:
    hub.repos["a/llama"].files()["config.json"] = b'{"model_type": "bert"}'
    assert "bert" in run("expand", "--src", "a/llama", "--out", "clone", code=3).stderr
    assert hub.asked(WEIGHTS) == []


def test_a_place_that_is_taken_is_refused_before_anything_is_asked(hub: LocalHub, run: Run, tmp_path: Path) -> None:
    (tmp_path / "clone" / "mine").mkdir(parents=True)
    assert "already exists" in run("expand", "--src", "a/llama", "--out", "clone", code=2).stderr
    assert hub.requests == []


DAMAGED_INDEX = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors.index.json": b'{"weight_map": {"model.norm.weight": ["model-00001-of-00004.safetensors"]}}',
}

REPOSITORIES: dict[str, tuple[dict[str, bytes], str]] = {
    "no config": ({"model.safetensors": b""}, "a/odd: no config.json"),
    "no weights": ({"config.json": b'{"model_type": "llama"}'}, "It holds no weights"),
    "GGUF alone": ({"config.json": b'{"model_type": "llama"}', "m.gguf": b""}, "It holds m.gguf"),
    "an adapter": ({"adapter_config.json": b"{}"}, "PEFT adapter"),
    "a damaged index": (DAMAGED_INDEX, "model.safetensors.index.json: no weight_map from tensor to file"),
}


@pytest.mark.parametrize("files, words", REPOSITORIES.values(), ids=list(REPOSITORIES))
@pytest.mark.parametrize("command", ["plan", "expand"])
def test_a_repository_that_holds_no_model(
    command: str, files: dict[str, bytes], words: str, hub: LocalHub, run: Run, sharded: Path
) -> None:
    hub.add("a/odd", sharded)
    hub.repos["a/odd"].commit("main", files)
    out = ["--out", "clone"] if command == "expand" else []
    assert words in run(command, "--src", "a/odd", *out, code=3).stderr


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


def test_a_cut_download_goes_on_where_it_stopped(hub: LocalHub, run: Run, tmp_path: Path) -> None:
    """In steps of 10 MiB, as huggingface_hub writes them."""
    src = opt_350m.build(tmp_path / "src", "model.safetensors")
    hub.add("facebook/opt-350m", src)
    hub.fail("GET .*/model.safetensors", times=1, cut=35 << 20)
    run("expand", "--src", "facebook/opt-350m", "--out", "clone", "--no-verify")
    _, rest = hub.asked("GET .*/model.safetensors")
    assert rest.status == 206
    assert rest.sent == (src / "model.safetensors").stat().st_size - (30 << 20)


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
    "a gated model": (["--src", "a/gated"], {}, "a gated model"),
    "a token that is not accepted": (["--src", "a/llama", "--token", "hf_wrong"], {}, "does not accept the token"),
    "no such revision": (["--src", "a/llama", "--revision", "v9"], {}, "no such revision"),
    "offline": (["--src", "a/llama"], {"HF_HUB_OFFLINE": "1"}, "all there is offline"),
    "nobody there": (["--src", "a/llama"], NOBODY, "a/llama: no such directory here, and the Hub cannot be reached: "),
    "a mistyped directory": (["--src", "smoll"], NOBODY, "smoll: no such directory here, and the Hub cannot be"),
}


@pytest.mark.parametrize("arguments, environment, words", UNREACHABLE.values(), ids=list(UNREACHABLE))
def test_what_cannot_be_fetched(
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
    assert result.stderr.startswith(f"Fetching {arguments[1]} …\n")
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


@pytest.mark.parametrize("repo_id", ["a/private", "a/gated"])
def test_a_token_opens_what_is_private_or_gated(repo_id: str, hub: LocalHub, run: Run, sharded: Path) -> None:
    hub.add(repo_id, sharded, private=repo_id == "a/private", gated=repo_id == "a/gated")
    run("plan", "--src", repo_id, "--token", TOKEN)
    run("expand", "--src", repo_id, "--out", "clone", "--no-verify", token=TOKEN)


@pytest.mark.parametrize("token", ["", "hf_secret\nmore", "hf_sécret"])
def test_what_is_no_token_is_refused_and_not_shown(token: str, hub: LocalHub, run: Run) -> None:
    result = run("plan", "--src", "a/llama", "--token", token, code=2)
    assert "no token" in result.stderr
    assert "hf auth login" in result.stderr
    assert "secret" not in result.stderr
    assert hub.requests == []


def test_the_token_is_nowhere_in_the_clone_nor_in_a_traceback(hub: LocalHub, run: Run, tmp_path: Path) -> None:
    result = run("expand", "--src", "a/llama", *GROWTH, "--out", "clone", "--token", TOKEN)
    assert TOKEN not in result.stdout + result.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    hub.fail("GET /api/models", status=500)
    command = [sys.executable, "-m", "hyperclone_cli", "plan", "--src", "a/llama", "--token", TOKEN]
    env = hub.environment(tmp_path / "other") | {"HYPERCLONE_DEBUG": "1"}
    shown = subprocess.run(command, env=env, text=True, capture_output=True, timeout=60)
    assert "Traceback" in shown.stderr
    assert TOKEN not in shown.stderr
