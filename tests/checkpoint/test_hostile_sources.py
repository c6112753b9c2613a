"""A source that wants more than to be grown: what leads out of it is refused by name, and nothing is written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from hyperclone_cli import expand, plan
from hyperclone_cli.checkpoint import trial
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.verifier import text
from hyperclone_cli.writing.card import source_metadata
from support import models
from support.command_line import hyperclone

GROWTH = ("--embed-mult", 2, "--ffn-mult", 2)
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.build("llama-gqa-tied", tmp_path_factory.mktemp("sharded") / "src", max_shard_size="60KB")


@pytest.fixture
def src(sharded: Path, tmp_path: Path) -> Path:
    """A sharded checkpoint of the test's own, at `src`, and beside it what is nobody's business: `private`."""
    (tmp_path / "private").mkdir()
    for path in sharded.iterdir():
        shutil.copy(path, tmp_path / "private")
    (tmp_path / "private" / "token").write_text("hf_secret")
    (tmp_path / "private" / "chat.jinja").write_text("hf_secret")
    return Path(shutil.copytree(sharded, tmp_path / "src"))


def link(name: str, to: str) -> Callable[[Path], object]:
    """Replaces a file of the source by a link."""

    def make(src: Path) -> None:
        (src / name).unlink(missing_ok=True)
        (src / name).symlink_to(to)

    return make


def pipe(name: str) -> Callable[[Path], object]:
    def make(src: Path) -> None:
        (src / name).unlink(missing_ok=True)
        os.mkfifo(src / name)

    return make


def listen(src: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        here = os.getcwd()
        os.chdir(src)  # the names of sockets are short
        end.bind("NOTICE")
        os.chdir(here)


def sparse(name: str, size: int) -> Callable[[Path], object]:
    """Makes a file long that takes no room."""

    def make(src: Path) -> None:
        (src / name).touch()
        os.truncate(src / name, size)

    return make


def with_keys(**keys: object) -> Callable[[Path], object]:
    def make(src: Path) -> None:
        (src / "config.json").write_text(json.dumps(json.loads((src / "config.json").read_text()) | keys))

    return make


def link_inside(src: Path) -> None:
    (src / "templates").mkdir()
    (src / "templates" / "chat.jinja").touch()
    link("additional_chat_templates", "templates")(src)


SHARD = "model-00002-of-00004.safetensors"

ENTRIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link to a private file": (link("LICENSE", "/etc/passwd"), "src/LICENSE: expected a file, found a link to /etc"),
    "a relative link": (link("LICENSE", "../private/token"), "private/token, outside the checkpoint"),
    "a link to the environment": (link("NOTICE", "/proc/self/environ"), "src/NOTICE: expected a file, found a link to"),
    "a link through a link": (
        lambda src: (link("aside", "../private")(src), link("LICENSE", "aside/token")(src)),
        "outside the checkpoint",
    ),
    "a link for a config": (link("config.json", "../private/config.json"), "src/config.json: expected a file"),
    "a link for an index": (link(INDEX, f"../private/{INDEX}"), f"src/{INDEX}: expected a file"),
    "a link for a shard": (link(SHARD, f"../private/{SHARD}"), f"src/{SHARD}: expected a file"),
    "a link for the weights": (link("model.safetensors", f"../private/{SHARD}"), "src/model.safetensors: expected a"),
    "a link for a pickle": (link("pytorch_model.bin", "/etc/passwd"), "src/pytorch_model.bin: expected a file"),
    "a link for a tokenizer": (link("tokenizer.json", "../private/token"), "src/tokenizer.json: expected a file"),
    "a link for code": (link("modeling_a.py", "../private/token"), "src/modeling_a.py: expected a file"),
    "a link for a card": (link("README.md", "../private/token"), "src/README.md: expected a file"),
    "a link for a processor": (link("video_preprocessor_config.json", "../private/token"), "expected a file"),
    "a link to a directory": (link("additional_chat_templates", "../private"), "found a link to the directory"),
    "a link to a directory inside": (
        link_inside,
        "src/additional_chat_templates: expected a file, found a link to the directory",
    ),
    "a directory for a licence": (link("LICENSES", "../private"), "src/LICENSES: expected a file, found a link"),
    "a link that leads nowhere": (link("LICENSE", "../gone"), "a link to ../gone, where nothing is"),
    "links that lead to each other": (
        lambda src: (link("LICENSE", "NOTICE")(src), link("NOTICE", "LICENSE")(src)),
        "a link to NOTICE, where nothing is",
    ),
    "a link to a device": (link("LICENSE", "/dev/zero"), "outside the checkpoint"),
    "a pipe": (pipe("LICENSE"), "src/LICENSE: expected a file, found a pipe"),
    "a pipe for a tokenizer": (pipe("tokenizer.json"), "src/tokenizer.json: expected a file, found a pipe"),
    "a pipe for a card": (pipe("README.md"), "src/README.md: expected a file, found a pipe"),
    "a socket": (listen, "src/NOTICE: expected a file, found a socket"),
    "a licence without end": (sparse("LICENSE", 1 << 43), "more than the 268,435,456"),
    "a card without end": (sparse("README.md", 1 << 43), "more than the 268,435,456"),
    "a config without end": (sparse("config.json", 1 << 43), "more than the 67,108,864"),
    "an index without end": (sparse(INDEX, 1 << 43), "more than the 67,108,864"),
    "a deep config": (lambda src: (src / "config.json").write_text("[" * 10**6), "not valid JSON"),
    "a deep index": (lambda src: (src / INDEX).write_text('{"weight_map":' + "[" * 10**6), "not valid JSON"),
    "a long number": (lambda src: (src / "config.json").write_text('{"a": ' + "9" * 10**6), "not valid JSON"),
    "a billion labels": (with_keys(num_labels=10**9), "num_labels 1000000000 is more than any model has"),
    "a billion labels inside": (with_keys(vision_config={"num_labels": 10**9}), "num_labels 1000000000 is more"),
}


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


def tar(path: Path) -> None:
    """As torch saved before 0.1.10."""
    with tarfile.open(path, "w") as archive:
        for name in ("tensors", "storages", "pickle"):
            content = pickle.dumps((0,))
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))


def endless_tensor(path: Path) -> None:
    """Four bytes that are 10^15 numbers, each of them the same."""
    torch.save({"model.norm.weight": torch.zeros(1).expand(10**9, 10**6)}, path)


def endless_key(path: Path) -> None:
    """A key of a few hundred bytes that takes 2^40 steps to hash; given to torch as a class that pickles as it."""

    class Late(dict[Any, int]):
        def __reduce__(self) -> tuple[Any, ...]:
            key: tuple[Any, ...] = ()
            for _ in range(40):
                key = (key, key)
            return OrderedDict, (), None, None, iter([(key, 1)])

    torch.save(Late(), path)


PICKLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "code": (lambda path: torch.save({"a": Evil()}, path), "asks for 'posix.system', which could run code"),
    "code in a plain pickle": (lambda path: path.write_bytes(pickle.dumps(Evil())), "not a PyTorch file"),
    "a tar archive": (tar, "not a PyTorch file"),
    "a program": (lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path), "is compressed"),
    "a key without end": (endless_key, "takes too long to read"),
    "a tensor without end": (endless_tensor, "missing tensors: model.embed_tokens.weight"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("write, words", PICKLES.values(), ids=list(PICKLES))
def test_a_hostile_pickle_is_refused_and_runs_nothing(
    write: Callable[[Path], object], words: str, src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial, "SECONDS", 2)
    for path in src.glob("model*"):
        path.unlink()
    write(src / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=words):
        expand(src, tmp_path / "out", embed_mult=2)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("spoil, words", ENTRIES.values(), ids=list(ENTRIES))
@pytest.mark.parametrize("command", ["expand", "plan"])
def test_what_leads_out_of_a_source_is_refused_by_name(
    command: str, spoil: Callable[[Path], object], words: str, src: Path, tmp_path: Path
) -> None:
    spoil(src)
    before = sorted(tmp_path.rglob("*"))
    out = ["--out", "out"] if command == "expand" else []
    result = hyperclone(command, "--src", "src", *GROWTH, *out, code=3, cwd=tmp_path)
    assert words in result.stderr
    assert "hf_secret" not in result.stderr + result.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_becomes_a_link_later_is_not_copied(src: Path, tmp_path: Path) -> None:
    (src / "LICENSE").write_text("free")
    source = plan(src, embed_mult=2).source
    link("LICENSE", "../private/token")(src)
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        source.copy_side_files(tmp_path / "private")


def test_links_inside_a_source_and_to_it_are_followed(src: Path, tmp_path: Path) -> None:
    (src / "weights").mkdir()
    for shard in src.glob("*.safetensors"):
        shard.rename(src / "weights" / shard.name)
        shard.symlink_to(Path("weights") / shard.name)
    (src / "LICENSE.txt").write_text("free")
    (src / "LICENSE").symlink_to("LICENSE.txt")
    (tmp_path / "link").symlink_to("src")
    expand(tmp_path / "link", tmp_path / "out", embed_mult=2, ffn_mult=2)
    assert (tmp_path / "out" / "LICENSE").read_text() == "free"
    assert not (tmp_path / "out" / "LICENSE").is_symlink()


def test_a_directory_that_only_looks_like_the_hubs_cache_leads_nowhere_else(src: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    snapshot.parent.mkdir(parents=True)
    src.rename(snapshot)
    (tmp_path / "models--a--b" / "blobs").symlink_to(tmp_path / "private")
    link("LICENSE", "../../blobs/token")(snapshot)
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        plan(snapshot, embed_mult=2)


def test_code_that_is_copied_is_named_before_it_is(src: Path) -> None:
    for name in ("modeling_a.py", "setup.py"):
        (src / name).write_text("raise SystemExit")
    note = "Code, copied to the clone and published with it, but never run: modeling_a.py, setup.py."
    assert note in plan(src, embed_mult=2).notes


LOOP = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
NESTED = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
TOKENIZERS: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "a template without end": ({"chat_template": LOOP}, {}, "takes too long, or too much memory"),
    "a template that fills memory": ({"chat_template": "{{ 'a' * 10**10 }}"}, {}, "takes too long, or too much"),
    "a template that asks for the machine": (
        {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
        {},
        "does not load (access to attribute '__class__' of 'str' object is unsafe.)",
    ),
    "a template that includes a file": (
        {"chat_template": "{% include '/etc/passwd' %}"},
        {},
        "does not load (no loader",
    ),
    "code": ({"auto_map": {"AutoTokenizer": ["a.A", None]}, "tokenizer_class": "A"}, {}, "code of its own"),
    "a vocabulary elsewhere": ({"vocab_file": "/etc/passwd"}, {}, "a file outside the checkpoint, /etc/passwd"),
    "a regular expression without end": ({}, {"pre_tokenizer": NESTED}, "takes too long, or too much memory"),
    "one without faults": ({}, {}, ""),
}


@pytest.mark.parametrize("config, fields, words", TOKENIZERS.values(), ids=list(TOKENIZERS))
def test_a_hostile_tokenizer_is_not_used(
    config: dict[str, object],
    fields: dict[str, object],
    words: str,
    src: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = Tokenizer(WordLevel({"the": 3, "[UNK]": 4}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(src)
    for name, changes in (("tokenizer_config.json", config), ("tokenizer.json", fields)):
        (src / name).write_text(json.dumps(json.loads((src / name).read_text()) | changes))
    monkeypatch.setattr(trial, "SECONDS", 2)
    monkeypatch.setattr(text, "PAGE", "the " + "x" * 60)
    found, note = text.load_tokenizer(src, 96)
    assert words in note
    assert bool(found) == (words == "")


def test_a_card_of_megabytes_is_not_parsed(src: Path) -> None:
    (src / "README.md").write_text("---\nlicense: mit\na: [" + "x," * 10**6 + "]\n---\n")
    assert source_metadata(plan(src, embed_mult=2).source) == {}
