"""Models on the Hub as sources: what is fetched, what is not, and what is recorded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli import expand
from support import models, opt_350m, quantised
from support.command_line import Run
from support.local_hub import CONTENT, TOKEN, WEIGHTS, LocalHub, fetched, sent_bytes

GROWTH = ("--embed-mult", 2, "--ffn-mult", 2)


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


def test_a_snapshot_in_the_hubs_cache_is_all_links_into_its_blobs(run: Run, tmp_path: Path) -> None:
    run("expand", "--src", "a/llama", *GROWTH, "--out", "named", "--no-verify")
    (snapshot,) = (tmp_path / "home").glob("hub/models--a--llama/snapshots/*")
    assert all(path.is_symlink() for path in snapshot.rglob("*") if path.is_file())
    run("expand", "--src", snapshot, *GROWTH, "--out", "path", "--no-verify")
    names = ("model.safetensors", "LICENSE")
    assert [(tmp_path / "named" / name).read_bytes() for name in names] == [
        (tmp_path / "path" / name).read_bytes() for name in names
    ]


def test_a_scheme_that_is_not_read_is_refused_before_weights_are_fetched(
    hub: LocalHub, run: Run, sharded: Path, tmp_path: Path
) -> None:
    src = tmp_path / "aqlm"
    src.mkdir()
    config = json.loads((sharded / "config.json").read_text()) | {"quantization_config": {"quant_method": "aqlm"}}
    (src / "config.json").write_text(json.dumps(config))
    filler = {"model.embed_tokens.weight": torch.zeros(4000, 100)}
    codes = {"model.layers.0.mlp.up_proj.codes": torch.zeros(4, 4, 2, dtype=torch.int8)}
    save_file(filler | codes, src / "model.safetensors")
    hub.add("a/aqlm", src)
    result = run("expand", "--src", "a/aqlm", *GROWTH, "--out", "clone", code=3)
    assert "quantised (quant_method 'aqlm') in a way that cannot be undone" in result.stderr
    assert sent_bytes(hub.asked(WEIGHTS)) < (src / "model.safetensors").stat().st_size / 4


def test_four_bits_of_bitsandbytes_are_expanded_though_headers_do_not_make_a_plan(
    hub: LocalHub, run: Run, tmp_path: Path
) -> None:
    plain = models.build("llama-gqa-tied", tmp_path / "plain", torch.bfloat16)
    src = quantised.nf4(plain, tmp_path / "src")
    hub.add("a/nf4", src)
    refused = run("plan", "--src", "a/nf4", *GROWTH, code=2)
    assert "hf download a/nf4" in refused.stderr
    run("expand", "--src", "a/nf4", *GROWTH, "--out", "clone", "--no-verify")
    expand(src, tmp_path / "local", embed_mult=2, ffn_mult=2)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("clone", "local"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_single_file_is_fetched_where_there_are_shards_too(hub: LocalHub, run: Run) -> None:
    """As transformers reads it."""
    hub.repos["a/llama"].files()["model.safetensors"] = b"".join(
        (hub.repos["a/llama"].files()[f"model-0000{number}-of-00004.safetensors"]) for number in (1,)
    )
    run("expand", "--src", "a/llama", "--out", "clone", "--no-verify", code=3)
    assert fetched(hub.asked(WEIGHTS)) == ["model.safetensors"]


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
    assert "is no model on the Hub, and has no revisions" in refusal.stderr


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
    "a damaged index": (DAMAGED_INDEX, "model.safetensors.index.json: no weight_map from tensor names to file names"),
}


@pytest.mark.parametrize("files, words", REPOSITORIES.values(), ids=list(REPOSITORIES))
@pytest.mark.parametrize("command", ["plan", "expand"])
def test_a_repository_that_holds_no_model_is_refused(
    command: str, files: dict[str, bytes], words: str, hub: LocalHub, run: Run, sharded: Path
) -> None:
    hub.add("a/odd", sharded)
    hub.repos["a/odd"].commit("main", files)
    out = ["--out", "clone"] if command == "expand" else []
    assert words in run(command, "--src", "a/odd", *out, code=3).stderr


def test_a_cut_download_goes_on_where_it_stopped(hub: LocalHub, run: Run, tmp_path: Path) -> None:
    """In steps of 10 MiB, as huggingface_hub writes them."""
    src = opt_350m.build(tmp_path / "src", "model.safetensors")
    hub.add("facebook/opt-350m", src)
    hub.fail("GET .*/model.safetensors", times=1, cut=35 << 20)
    run("expand", "--src", "facebook/opt-350m", "--out", "clone", "--no-verify")
    _, rest = hub.asked("GET .*/model.safetensors")
    assert rest.status == 206
    assert rest.sent == (src / "model.safetensors").stat().st_size - (30 << 20)


@pytest.mark.parametrize("repo_id", ["a/private", "a/gated"])
def test_a_token_opens_what_is_private_or_gated(repo_id: str, hub: LocalHub, run: Run, sharded: Path) -> None:
    hub.add(repo_id, sharded, private=repo_id == "a/private", gated=repo_id == "a/gated")
    run("plan", "--src", repo_id, "--token", TOKEN)
    run("expand", "--src", repo_id, "--out", "clone", "--no-verify", token=TOKEN)


@pytest.mark.parametrize("token", ["", "hf_secret\nmore", "hf_sécret"])
def test_what_is_no_token_is_refused_and_not_shown(token: str, hub: LocalHub, run: Run) -> None:
    result = run("plan", "--src", "a/llama", "--token", token, code=2)
    assert "expected a token" in result.stderr
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
