"""Text that every machine has: Python's own sources, as tokens. Whole files are held out for validation."""

from __future__ import annotations

import hashlib
import os
import site
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings"}
"""Tests are not installed everywhere; encodings are a hundred tables that are nearly alike."""

HELD_OUT = 20
"""One file in so many is held out."""

END = "<|endoftext|>"

BATCH = 256
"""Texts encoded together: an encoding takes a hundred times the memory of its ids."""


@dataclass(frozen=True)
class Corpus:
    """Token ids of the files, one after the other, an end of text after each. `digest` is that of their text."""

    train: torch.Tensor
    held_out: torch.Tensor
    tokenizer: Path
    digest: str

    @property
    def vocab_size(self) -> int:
        return int(Tokenizer.from_file(str(self.tokenizer)).get_vocab_size())

    def order(self, steps: int, batch: int, length: int, seed: int) -> torch.Tensor:
        """Where the sequences of every step start, (steps, batch): the same for a seed."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(len(self.train) - length, (steps, batch), generator=generator)

    def windows(self, starts: torch.Tensor, length: int) -> torch.Tensor:
        """The training sequences that begin at `starts` (batch,): (batch, length + 1), the last token a target."""
        return self.train[starts[:, None] + torch.arange(length + 1)].long()

    def validation(self, windows: int, length: int) -> torch.Tensor:
        """Held-out sequences at even distances, (windows, length + 1)."""
        starts = torch.linspace(0, len(self.held_out) - length - 1, windows).long()
        return self.held_out[starts[:, None] + torch.arange(length + 1)].long()


def prepare(directory: Path, kind: str, vocab_size: int, max_bytes: int | None, tokenizer: Path | None) -> Corpus:
    """The corpus, read from `directory`, or made and kept there. A BPE tokenizer is trained unless one is given."""
    stored, made = directory / "tokens.safetensors", directory / "tokenizer.json"
    if not stored.exists():
        directory.mkdir(parents=True, exist_ok=True)
        train, held_out = read_texts(kind, max_bytes)
        if tokenizer is None:
            train_tokenizer(train, vocab_size).save(str(made))
        else:
            made.write_bytes(tokenizer.read_bytes())
        words = Tokenizer.from_file(str(made))
        tensors = {"train": encode(words, train), "held_out": encode(words, held_out)}
        digest = hashlib.sha256("\0".join(train + held_out).encode()).hexdigest()
        partial = directory / "partial"
        save_file(tensors, partial, {"digest": digest})
        os.replace(partial, stored)
    with safe_open(stored, "pt") as file:
        return Corpus(file.get_tensor("train"), file.get_tensor("held_out"), made, file.metadata()["digest"])


def read_texts(kind: str, max_bytes: int | None) -> tuple[list[str], list[str]]:
    """The texts to train on, and those held out, in the order of their paths' hashes, which also choose.

    kind       "stdlib", Python's own library, or "installed", packages too
    max_bytes  ends the reading
    """
    roots = [sysconfig.get_path("stdlib"), *(site.getsitepackages() if kind == "installed" else [])]
    paths = [path for root in roots for path in sources(Path(root))]
    train: list[str] = []
    held_out: list[str] = []
    nbytes = 0
    for digest, path in sorted(paths):
        if max_bytes is None or nbytes < max_bytes:
            text = path.read_text(encoding="utf-8", errors="replace")
            nbytes += len(text)
            (train if int.from_bytes(digest) % HELD_OUT else held_out).append(text)
    return train, held_out


def sources(root: Path) -> Iterator[tuple[bytes, Path]]:
    """Every Python file below `root`, with the hash of its path there."""
    for place, directories, names in os.walk(root):
        directories[:] = set(directories) - LEFT_OUT
        for path in (Path(place) / name for name in names if name.endswith(".py")):
            yield hashlib.sha256(path.relative_to(root).as_posix().encode()).digest(), path


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of `vocab_size` words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids of all texts, an end of text after each, int32."""
    end = tokenizer.token_to_id(END)
    rows = []
    for start in range(0, len(texts), BATCH):
        for encoded in tokenizer.encode_batch_fast(texts[start : start + BATCH]):
            rows.append(torch.tensor([*encoded.ids, end], dtype=torch.int32))
    return torch.cat(rows)
