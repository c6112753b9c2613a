"""A text with a picture: by the checkpoint's own processor where it has one that works, else with random pixels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from hyperclone_cli.checkpoint import trial
from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.families import find_family
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import memory, verify
from hyperclone_cli.writing.pipeline import expand
from support import wrapped

IMAGE = 88
WORDS = ["<pad>", "<s>", "</s>", "[UNK]", "the", "harbour", "wakes", "does"]


def with_processor(path: Path, features: int = 4, **more: str) -> Path:
    """A LLaVA with a processor that puts so many tokens in the place of a picture."""
    src = wrapped.build("llava", path, vision_feature_select_strategy="default", image_token_index=IMAGE)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    vocabulary |= {f"word{number}": number for number in range(len(WORDS), IMAGE)} | {"<image>": IMAGE}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="<pad>")
    fast.add_tokens(["<image>"], special_tokens=True)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=fast,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=features - 3,
        image_token="<image>",
        **more,
    ).save_pretrained(src)
    return src


def verified(src: Path, tmp_path: Path) -> tuple[str, int, list[str]]:
    """(what the picture was, tokens, notes) of the verification of a clone, which passes."""
    expand(src, tmp_path / "clone", Request(embed_mult=2, ffn_mult=2))
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.picture is not None, report.notes
    assert report.picture.relative_error <= report.picture.tolerance == 1e-5
    return report.picture.input, report.picture.tokens, list(report.notes)


def test_the_processor_prepares_a_picture_and_a_question(tmp_path: Path) -> None:
    what, tokens, notes = verified(with_processor(tmp_path / "src"), tmp_path)
    assert (what, tokens, notes) == ("a picture, by the processor", 4 + 5, [])


def test_pixels_are_random_where_the_model_does_not_run_on_what_the_processor_prepares(tmp_path: Path) -> None:
    what, _, notes = verified(with_processor(tmp_path / "src", features=5), tmp_path)
    assert what == "random pixels"
    assert notes[0].startswith(
        "The source does not run on what its processor prepares (Image features and image tokens"
    )


def test_pixels_are_random_where_the_processor_does_not_load(tmp_path: Path) -> None:
    src = with_processor(tmp_path / "src")
    (src / "processor_config.json").write_text(json.dumps({"processor_class": "LlavaProcessor", "image_processor": 7}))
    what, _, notes = verified(src, tmp_path)
    assert what == "random pixels"
    assert "The processor does not prepare a picture" in notes[0]


def test_a_chat_template_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SECONDS", 2)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{{ a * b }}{% endfor %}{% endfor %}"
    what, _, notes = verified(with_processor(tmp_path / "src", chat_template=endless), tmp_path)
    assert what == "random pixels"
    assert any("too long, or too much memory, for a picture" in note for note in notes), notes


def test_a_model_that_runs_layer_by_layer_sees_the_same_picture(tmp_path: Path) -> None:
    src, clone = wrapped.build("gemma3", tmp_path / "src"), tmp_path / "clone"
    expand(src, clone, Request(embed_mult=2, ffn_mult=2))
    source = open_source(clone)
    least = memory.needs(source, find_family(source.config, source.tensors), 4, 64).layer_by_layer
    report = verify(clone, max_memory=least, page_tokens=64)
    assert [run.mode for run in report.runs if run.model == "clone"] == ["layer by layer"]
    assert report.passed, report.failures
    assert report.picture is not None
    assert report.picture.relative_error <= report.picture.tolerance == 1e-5
