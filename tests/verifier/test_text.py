"""The text that logits are compared on: a page of English, or random tokens where the tokenizer cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.verifier.text import continuations
from hyperclone_cli.writing.pipeline import expand
from support import models

DOUBLE = Request(embed_mult=2, ffn_mult=2)


WORDS = {"the": 3, "What": 4, "sea": 5, "[UNK]": 95}


TOKENIZERS: dict[str, tuple[dict[str, int], str | None, str | None, str]] = {
    "no tokens at all": ({}, None, None, "makes no tokens of English"),
    "a token that the model lacks": (WORDS | {"[UNK]": 96}, "[UNK]", None, "makes token 96, the vocabulary has 96"),
    "a chat template that fails": (WORDS, "[UNK]", "{{ raise_exception('no') }}", "does not load (no)"),
    "one that can be used": (WORDS, "[UNK]", None, ""),
}


@pytest.mark.parametrize("vocab, unknown, template, words", TOKENIZERS.values(), ids=list(TOKENIZERS))
def test_a_tokenizer_that_cannot_be_used_is_noted_and_random_tokens_taken(
    vocab: dict[str, int], unknown: str | None, template: str | None, words: str, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as tokenizer_models
    from transformers import PreTrainedTokenizerFast

    src = models.build("qwen3", tmp_path / "src")
    tokenizer = Tokenizer(tokenizer_models.WordLevel(vocab, unk_token=unknown) if unknown else tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template).save_pretrained(src)
    expand(src, tmp_path / "clone", DOUBLE)
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.logits is not None
    assert report.logits.text == ("random tokens" if words else "a page of English")
    assert [words in note for note in report.notes] == [True] * bool(words)


def test_a_tokenizer_that_does_not_load_is_noted(tmp_path: Path) -> None:
    src = models.build("qwen3", tmp_path / "src")
    (src / "tokenizer.json").write_text("{}")
    expand(src, tmp_path / "clone", DOUBLE)
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert any("tokenizer" in note for note in report.notes)


@pytest.mark.parametrize(
    "tokens, texts",
    [
        ([72, 105, 33], ("H", "i", "!")),
        ([0xE2, 0x86, 0x92, 33], ("", "", "→", "!")),
        ([33, 0xE2, 0x86], ("!", "", "\ufffd")),
        ([], ()),
    ],
)
def test_the_texts_of_tokens_make_the_continuation(tokens: list[int], texts: tuple[str, ...]) -> None:
    class Bytes:
        """A tokenizer of bytes."""

        def decode(self, ids: list[int], **_: bool) -> str:
            return bytes(ids).decode(errors="replace")

    (found,) = continuations(Bytes(), [[65]], [tokens], [tokens])
    assert (found.prompt, found.source_texts, found.clone_texts) == ("A", texts, texts)
    assert found.source_tokens == tuple(tokens)


def test_a_tokenizer_that_cannot_decode_leaves_the_ids() -> None:
    (found,) = continuations(object(), [[5, 6]], [[7]], [[8]])
    assert (found.prompt_tokens, found.source_tokens, found.clone_tokens) == ((5, 6), (7,), (8,))
    assert (found.prompt, found.source_texts) == ("", ())
