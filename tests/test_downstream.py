"""The downstream tasks: documents are made of held-out files alone, and a clone answers as its source does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.convergence.corpus import read_texts, train_tokenizer
from benchmarks.downstream import LONGEST, cloze, next_word, passages, split, write_documents
from hyperclone_cli import expand

Documents = dict[str, list[dict[str, Any]]]


def read(files: dict[str, Path]) -> Documents:
    return {task: [json.loads(line) for line in file.read_text().splitlines()] for task, file in files.items()}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return read(write_documents(tmp_path_factory.mktemp("documents"), 200))


def test_there_are_as_many_documents_of_each_task_as_are_asked_for(documents: Documents) -> None:
    assert {task: len(found) for task, found in documents.items()} == {"cloze": 200, "next_word": 200}


def test_documents_are_the_same_every_time_and_fewer_are_the_first_of_more(
    documents: Documents, tmp_path: Path
) -> None:
    assert read(write_documents(tmp_path, 200)) == documents
    fewer = read(write_documents(tmp_path, 40))
    assert fewer["next_word"] == documents["next_word"][:40]
    assert fewer["cloze"] == documents["cloze"][:20] + documents["cloze"][100:120]


def test_the_true_line_is_from_the_held_out_file_of_its_context_and_the_others_differ(documents: Documents) -> None:
    files = [text.replace("\\", "") for text in read_texts("stdlib", None)[1]]  # docstrings escape quotes
    for document in documents["cloze"]:
        true = document["lines"][document["answer"]]
        lines = [line.strip().replace("\\", "") for line in (*document["context"].splitlines(), true)]
        assert any(all(line in text for line in lines) for text in files), document
        assert len({line.strip() for line in document["lines"]}) == 4
        assert len({len(line) - len(line.lstrip()) for line in document["lines"]}) == 1
        assert len(document["context"]) + 1 + len(true) <= LONGEST


def test_the_true_line_is_at_every_place_about_as_often(documents: Documents) -> None:
    places = [document["answer"] for document in documents["cloze"]]
    assert all(30 < places.count(place) < 70 for place in range(4))


def test_a_source_is_split_into_code_and_docstrings() -> None:
    text = '"""One."""\nclass A:\n    """Two,\n    three."""\n\n    x = 1  # four\n'
    code, docstrings = split(text)
    assert [line for line in code if line] == ["class A:", "    x = 1  # four"]
    assert docstrings == [["One."], ["Two,", "three."]]


def test_passages_are_whole_lines_without_common_indentation() -> None:
    lines = [f"    line {number}: {'x' * 60}" if number != 1 else "" for number in range(5)]
    assert list(passages(lines)) == [
        "\n".join(f"line {number}: {'x' * 60}" for number in (0, 2)),
        "\n".join(f"line {number}: {'x' * 60}" for number in (3, 4)),
    ]
    assert list(passages(["too short"])) == []


def test_a_line_that_fits_anywhere_is_not_asked_for() -> None:
    found = cloze([f"if {'a' * 20}:\n    else_it_is_{letter} = True" for letter in "abcde"] + ["if x:\n    y()\nelse:"])
    assert len(found) == 5
    assert not any("else:" in line for document in found for line in document["lines"])


@pytest.mark.parametrize(
    "passage, expected",
    [
        ("Return the first\nof the words.", {"context": "Return the first\nof the", "word": " words"}),
        ("See the page (of words)", {"context": "See the page (of", "word": " words"}),
        ("It ends with a number: 17", None),
        ("It ends with code, f(x)", None),
    ],
)
def test_the_word_that_is_asked_for(passage: str, expected: dict[str, str] | None) -> None:
    assert next_word([passage]) == ([expected] if expected else [])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Llama as the benchmark of training leaves it, a tokenizer.json beside its weights, and a clone of it."""
    source, clone = (tmp_path_factory.mktemp("models") / name for name in ("source", "clone"))
    tokenizer = train_tokenizer(read_texts("stdlib", 300_000)[0], 320)
    config = LlamaConfig(
        vocab_size=320, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=96, tie_word_embeddings=True, initializer_range=0.2, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(source)
    tokenizer.save(str(source / "tokenizer.json"))
    expand(source, clone, embed_mult=2, ffn_mult=2)
    return source, clone


def benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.downstream", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.stress
def test_a_clone_answers_as_its_source_does(pair: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    result = benchmark(*pair, "--documents", 24, "--work", tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    source, clone = json.loads(result.stdout)["models"].values()
    documents = read({task: tmp_path / f"{task}.jsonl" for task in source})
    for task in documents:
        assert source[task]["documents"] == clone[task]["documents"] == 24
        assert source[task]["choices"] == clone[task]["choices"]
        for likelihoods in zip(source[task]["likelihoods"], clone[task]["likelihoods"], strict=True):
            torch.testing.assert_close(*map(torch.tensor, likelihoods), atol=1e-3, rtol=0)
    answers = [document["answer"] for document in documents["cloze"]]
    for metric in ("acc", "acc_norm"):  # what the harness counts is what is called a choice
        chosen = source["cloze"]["choices"][metric]
        assert source["cloze"]["metrics"][metric][0] == pytest.approx(fmean(map(int.__eq__, chosen, answers)))
    assert 0 < source["cloze"]["shortened"] < 24


@pytest.mark.stress
def test_log_likelihoods_are_those_of_transformers(pair: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    result = benchmark(pair[0], "--documents", 4, "--work", tmp_path, "--json")
    (found,) = json.loads(result.stdout)["models"].values()
    model = AutoModelForCausalLM.from_pretrained(pair[0], dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(pair[0] / "tokenizer.json"))
    for document, likelihoods in zip(
        read({"next_word": tmp_path / "next_word.jsonl"})["next_word"], found["next_word"]["likelihoods"], strict=True
    ):
        context, whole = (
            tokenizer.encode(text) for text in (document["context"], document["context"] + document["word"])
        )
        ids = torch.tensor([whole[-97:]])  # the last one is not read
        with torch.no_grad():
            scores = model(ids[:, :-1]).logits.log_softmax(-1)[0].gather(1, ids[0, 1:, None])
        assert likelihoods == [pytest.approx(float(scores[len(context) - len(whole) :].sum()), abs=1e-4)]


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    result = benchmark(tmp_path / "nothing", "--work", tmp_path)
    assert result.returncode == 2
    assert "nothing: no config.json" in result.stderr
