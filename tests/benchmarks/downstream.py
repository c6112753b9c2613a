"""Downstream tasks beside losses, by the lm-evaluation-harness: what do models answer, and a clone as its source does?

    python -m benchmarks.downstream MODEL [MODEL …]        (with tests/ on PYTHONPATH; `make downstream` does it)

cloze      some lines of code or prose, and four lines of which one is the next
next_word  some lines of prose without their last word

Both are made of the files of Python's own library that benchmarks.convergence holds out: nothing is downloaded.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import logging
import os
import platform
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.convergence.corpus import read_texts

SHORTEST, LONGEST = 80, 160
"""Characters of a passage: of some 70 tokens where the vocabulary is small, it fits into a context of 128."""

SHORTEST_LINE, LONGEST_LINE = 16, 80
"""Characters of the lines to choose from: of shorter ones too many fit anywhere, like `else:`."""

RESAMPLES = 1000
"""For the standard error of the perplexity; those of the other metrics are by formula."""

TASKS: dict[str, dict[str, Any]] = {
    "cloze": {
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "lines",
        "doc_to_target": "answer",
        "target_delimiter": "\n",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "next_word": {
        "output_type": "loglikelihood",
        "doc_to_text": "context",
        "doc_to_target": "word",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
}
"""Task → its configuration for the harness. `doc_to_…` are keys of a document."""

Document = dict[str, Any]


def write_documents(directory: Path, number: int) -> dict[str, Path]:
    """Write `number` documents of each task, or as many as there are, as JSON lines. Task → file.

    Half of the cloze is code. The same library gives the same documents.
    """
    code: set[str] = set()
    prose: set[str] = set()
    for text in read_texts("stdlib", None)[1]:
        lines, docstrings = split(text)
        code.update(passages(lines))
        prose.update(passage for docstring in docstrings for passage in passages(docstring))
    documents = {
        "cloze": cloze(code)[: number - number // 2] + cloze(prose)[: number // 2],
        "next_word": next_word(prose)[:number],
    }
    directory.mkdir(parents=True, exist_ok=True)
    files = {task: directory / f"{task}.jsonl" for task in TASKS}
    for task, file in files.items():
        file.write_text("".join(json.dumps(document) + "\n" for document in documents[task]), encoding="utf-8")
    return files


def split(text: str) -> tuple[list[str], list[list[str]]]:
    """The lines of a Python file without its docstrings, and those of each docstring."""
    lines, docstrings = text.splitlines(), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                docstrings.append(docstring.splitlines())
                for number in range(node.body[0].lineno - 1, node.body[0].end_lineno or 0):
                    lines[number] = ""
    return lines, docstrings


def passages(lines: Iterable[str]) -> Iterator[str]:
    """Consecutive lines, as many as fit, without blank ones and the indentation that they share."""
    passage: list[str] = []
    for line in (*filter(str.strip, lines), None):
        if line is None or len("\n".join((*passage, line))) > LONGEST:
            found = textwrap.dedent("\n".join(passage))
            if SHORTEST <= len(found) <= LONGEST:
                yield found
            passage = []
        if line is not None:
            passage.append(line)


def by_hash(texts: Iterable[str]) -> list[str]:
    """An order that is as good as random, and in which a text that is new moves no other one."""
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())


def cloze(found: Iterable[str]) -> list[Document]:
    """The last line of each passage, among three that other passages end with, indented as it is."""
    pairs = [(context, line) for context, _, line in (passage.rpartition("\n") for passage in by_hash(found))]
    pairs = [(context, line) for context, line in pairs if context and SHORTEST_LINE <= len(line) <= LONGEST_LINE]
    ends = sorted({line.strip() for _, line in pairs})
    documents = []
    for context, line in pairs:
        random, true = Random(context), line.strip()
        others = [end for end in random.sample(ends, 4) if end != true][:3]
        lines = random.sample([true, *others], 4)
        indent = line.removesuffix(true)
        documents.append({"context": context, "lines": [indent + one for one in lines], "answer": lines.index(true)})
    return documents


def next_word(found: Iterable[str]) -> list[Document]:
    """The last word of each passage, with the space before it; what follows it is left out."""
    matches = [re.fullmatch(r"(.*\S)( [A-Za-z]{3,})[^\w\s]*", passage, re.DOTALL) for passage in by_hash(found)]
    return [{"context": match[1], "word": match[2]} for match in matches if match]


@dataclass(frozen=True)
class Answers:
    """What a model answers in one task.

    documents    how many there are
    shortened    how many are longer than the model's context: the harness leaves out what they begin with
    metrics      metric → value, standard error
    likelihoods  document → log-likelihoods in nats: of each line, or of the word
    choices      metric → document → which line, or whether the word, is taken for the true one; none for the perplexity
    """

    documents: int
    shortened: int
    metrics: dict[str, tuple[float, float]]
    likelihoods: list[list[float]]
    choices: dict[str, list[int]]


def answer(model: Path, files: dict[str, Path], batch: int) -> dict[str, Answers]:
    """Task → what the model in that directory answers, in float32, on a GPU if there is one.

    Raises SystemExit if the lines to choose from may be longer than its context.
    """
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    if tokenizer.eos_token is None:  # a tokenizer.json by itself does not say which it is
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(loaded.config.eos_token_id)
    harness = HFLM(loaded.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer=tokenizer, batch_size=batch)
    if harness.max_length <= LONGEST_LINE:
        raise SystemExit(f"{model}: a context of {harness.max_length} tokens. The tasks need {LONGEST_LINE + 1}.")
    tasks = TaskManager(include_defaults=False).load([configuration(task, file) for task, file in files.items()])
    with redirect_stdout(sys.stderr):  # the harness prints
        found = lm_eval.evaluate(harness, tasks, bootstrap_iters=RESAMPLES)
    return {
        task: gather(
            task,
            found["results"][task],
            found["samples"][task],
            lambda text: len(harness.tok_encode(text)),
            harness.max_length,
        )
        for task in files
    }


def configuration(task: str, file: Path) -> dict[str, Any]:
    """A task for the harness; its cache of the documents lies beside them."""
    data = {"data_files": {"test": str(file)}, "cache_dir": str(file.parent / "cache")}
    return {"task": task, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test", **TASKS[task]}


def gather(
    task: str, results: dict[str, Any], samples: list[dict[str, Any]], tokens: Callable[[str], int], context: int
) -> Answers:
    """The answers in a task, of what the harness returns for it.

    tokens   how many a text has
    context  how many the model takes
    """
    responses = [sample["filtered_resps"] for sample in samples]
    likelihoods = [[likelihood for likelihood, _ in response] for response in responses]
    if task == "cloze":
        lines = [sample["doc"]["lines"] for sample in samples]
        choices = {"acc": [likeliest(of_lines) for of_lines in likelihoods]}
        choices["acc_norm"] = [
            likeliest([likelihood / len(line) for likelihood, line in zip(*pair, strict=True)])
            for pair in zip(likelihoods, lines, strict=True)
        ]
    else:
        choices = {"acc": [int(greedy) for ((_, greedy),) in responses]}
    longest = [max(tokens("".join(request)) for request in sample["arguments"]) for sample in samples]
    metrics = [metric["metric"] for metric in TASKS[task]["metric_list"]]
    return Answers(
        documents=len(samples),
        shortened=sum(length > context + 1 for length in longest),  # the last token is not read
        metrics={name: (results[f"{name},none"], results[f"{name}_stderr,none"]) for name in metrics},
        likelihoods=likelihoods,
        choices=choices,
    )


def likeliest(values: list[float]) -> int:
    """Where the largest is."""
    return values.index(max(values))


def compare(first: Answers, other: Answers) -> tuple[dict[str, int], float]:
    """Metric → documents whose answers differ, and how far the log-likelihoods are apart at most, in nats.

    An answer can differ without a fault only where two are less than twice that apart.
    """
    differing = {
        metric: sum(own != choice for own, choice in zip(other.choices[metric], choices, strict=True))
        for metric, choices in first.choices.items()
    }
    pairs = zip(chain(*first.likelihoods), chain(*other.likelihoods), strict=True)
    return differing, max(abs(one - another) for one, another in pairs)


def table(answers: dict[str, dict[str, Answers]]) -> Table:
    """A row for each model, task and metric."""
    rows = Table("model", "task", "documents", "metric", "value", "answers that differ", "log-likelihoods apart, nats")
    first = next(iter(answers.values()))
    for model, tasks in answers.items():
        for task, found in tasks.items():
            differing, apart = compare(first[task], found)
            documents = f"{found.documents}, {found.shortened} shortened" if found.shortened else str(found.documents)
            for metric, (value, error) in found.metrics.items():
                digits = ".3f" if metric in found.choices else ".4g"
                others = ("", "") if found is first[task] else (str(differing.get(metric, "")), f"{apart:.1e}")
                rows.add_row(model, task, documents, metric, f"{value:{digits}} ± {error:{digits}}", *others)
        rows.add_section()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="+", type=Path, metavar="MODEL", help="the first is what others are held against"
    )
    parser.add_argument("--documents", type=int, default=200, help="of each task; 200")
    parser.add_argument("--work", type=Path, default=Path("demo/downstream"), help="where the documents are written")
    parser.add_argument("--batch", type=int, default=16, help="documents at a time; 16")
    parser.add_argument("--json", action="store_true", help="print one object instead of the table")
    given = parser.parse_args()
    for model in given.models:
        if not (model / "config.json").is_file():
            parser.error(f"{model}: no config.json")
    if not find_spec("lm_eval"):
        parser.error("the lm-evaluation-harness is not installed: pip install --editable '.[downstream]'")
    # read when libraries are imported; the last keeps the harness from starting processes for its bootstrap
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "DISABLE_MULTIPROC": "1"}
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    files = write_documents(given.work, given.documents)
    answers = {str(model): answer(model, files, given.batch) for model in given.models}
    if given.json:
        libraries = {name: version(name) for name in ("lm_eval", "torch", "transformers")}
        machine = {"python": platform.python_version(), **libraries}
        models = {model: {task: asdict(found) for task, found in tasks.items()} for model, tasks in answers.items()}
        print(json.dumps({"schema_version": 1, "machine": machine, "models": models}))
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(table(answers))


if __name__ == "__main__":
    main()
