"""What the page of a verification shows, as words and rows: verdict, comparisons, sizes, layers, continuations."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.filesize import decimal

from hyperclone_cli.verifier.report import Background, Continuation, Report

CHECKS: dict[str, tuple[str, ...]] = {
    "config and files": ("config.json", "file "),
    "weights": ("tensor ", "lineage: "),
    "loading": ("loading: ",),
    "logits": ("logits: ",),
    "picture": ("picture: ",),
    "greedy decoding": ("greedy decoding: ",),
}
"""What is compared → how the messages of its failures begin."""

_LONGEST = 160
"""Characters of a value of config.json."""


@dataclass(frozen=True)
class Check:
    """One comparison. `status` is "passed", "failed", "undecided" or "not compared".

    Decoding is undecided where a clone that failed parts from the source at a near tie: its errors make ties of much.
    """

    name: str
    status: str
    what: str


@dataclass(frozen=True)
class Piece:
    """Neighbouring tokens of a continuation, all of which differ from the other model's or none does."""

    text: str
    tokens: tuple[int, ...]
    differs: bool


def headline(report: Report) -> str:
    if report.failures:
        return "Failed"
    if report.by_request:
        return "Not function-preserving, by request"
    if report.logits is None:
        return "Passed, weights only"
    return "Passed" if report.weights is not None else "Passed, outputs only"


def summary(report: Report) -> str:
    """What the verdict means, and what it does not."""
    if report.by_request and not report.failures:
        return (
            f"Every weight is as planned. The clone is {report.by_request}: it does not compute what its source does."
        )
    if report.failures:
        failed = [check.name for check in checks(report) if check.status == "failed"]
        bad = (
            f"; the copies first differ at {report.logits.first_bad_layer}"
            if report.logits and "logits" in failed
            else ""
        )
        return f"This clone is not what its source and its plan say. It differs in: {', '.join(failed)}{bad}."
    if report.logits is None:
        return "Every weight adds up to the source's. No model was run, so what they compute was not compared."
    error = f"its logits are off by a relative error of {report.logits.relative_error:.1e}"
    passes = f"at most {report.logits.tolerance:.1e} passes"
    unknown = "" if report.weights else " Config, files and weights were not compared, for want of hyperclone.json."
    return f"The clone computes what its source computes: {error}, where {passes}.{unknown}"


def checks(report: Report) -> list[Check]:
    """Every comparison, and what failed without being one of them."""
    weights, logits, picture, made = report.weights, report.logits, report.picture, report.generation
    hashed = f", SHA-256 of {report.hashed} files" if report.hashed is not None else ""
    whats = {
        "config and files": weights and f"as the plan and the source have them{hashed}",
        "weights": weights and f"{weights.tensors:,} tensors, {weights.elements:,} weights",
        "loading": logits and "by stock transformers, with no tensor missing, unexpected or mismatched",
        "logits": logits and f"{logits.text}, {logits.tokens} tokens, {logits.dtype}, {logits.device}",
        "picture": picture and f"{picture.input}, {picture.tokens} tokens",
        "greedy decoding": made and f"{made.identical} of {made.prompts} prompts identical",
    }
    found = []
    rest = list(report.failures)
    for name, beginnings in CHECKS.items():
        failed = [failure for failure in rest if failure.startswith(beginnings)]
        rest = [failure for failure in rest if not failure.startswith(beginnings)]
        if failed:
            found.append(Check(name, "failed", f"{len(failed):,} {'failure' if len(failed) == 1 else 'failures'}"))
        elif name != "picture" or picture:  # most models take none
            found.append(Check(name, "passed" if whats[name] else "not compared", whats[name] or ""))
    if made and made.ties and found[-1].status == "passed":  # the last check is the decoding
        ties = f"{whats['greedy decoding']}, {made.ties} part where the source has a near tie"
        status = "undecided" if any(check.status == "failed" for check in found) else "passed"
        found[-1] = Check("greedy decoding", status, ties)
    if rest:
        found.append(Check("running the models", "failed", "the clone could not be run"))
    return found


def place_in_list(failure: str) -> tuple[bool, str]:
    """A key to sort by: tensors, which can be many, come last, and layer 10 after layer 2."""
    is_tensor = failure.startswith(CHECKS["weights"])
    return is_tensor, re.sub(r"\d+", lambda number: number[0].zfill(9), failure) if is_tensor else ""


def growth(background: Background) -> str:
    source, clone = background.source, background.clone
    parameters = " → ".join(f"{sum(model.parameters.values()):,}" for model in (source, clone))
    stored = " → ".join(decimal(model.weight_bytes) for model in (source, clone))
    return f"{parameters} parameters, {stored} of weights"


def sizes(background: Background) -> list[tuple[str, ...]]:
    """(what, in the source, in the clone, factor) of every size; what config.json says comes first."""
    source, clone = background.source, background.clone
    rows: list[tuple[str, ...]] = [
        (key, _short(old), _short(new), _times(old, new)) for key, old, new in background.config
    ]
    for part in clone.parameters if len(clone.parameters) > 1 else ():
        pair = source.parameters.get(part, 0), clone.parameters[part]
        rows.append((f"parameters: {part}", *map(number, pair), _times(*pair)))
    totals = sum(source.parameters.values()), sum(clone.parameters.values())
    rows.append(("parameters", *map(number, totals), _times(*totals)))
    stored = source.weight_bytes, clone.weight_bytes
    rows.append(("weights, bytes", *map(_bytes, stored), _times(*stored)))
    caches = source.kv_cache_bytes_per_token, clone.kv_cache_bytes_per_token
    if None not in caches:
        rows.append(("KV cache, bytes per token", *map(number, caches), _times(*caches)))
    return rows


def layers(report: Report) -> list[dict[str, Any]]:
    """Of each layer: name, error of the worst copy, digits that agree, and whether that passes."""
    if report.logits is None:
        return []
    return [
        {"name": name, "error": error, "digits": _digits(error), "passed": error <= report.logits.tolerance}
        for name, error in report.logits.layers
    ]


def experts(report: Report) -> list[dict[str, Any]]:
    """Of each layer with experts: its name, the least and the most part of the choices, and each over the most."""
    found = []
    for name, counts in report.routing:
        total, most = max(1, sum(counts)), max(1, *counts)
        bars = [count / most for count in counts]
        found.append({"name": name, "least": min(counts) / total, "most": max(counts) / total, "bars": bars})
    return found


def _digits(error: float) -> float:
    """Decimal digits that agree: 0 for an error of its own size and more, at most 16."""
    if not math.isfinite(error):
        return 0.0
    return 16.0 if error <= 1e-16 else max(0.0, -math.log10(error))


def prompts(report: Report) -> list[dict[str, Any]]:
    """Of each prompt: its text or tokens, what became of it, and both continuations in pieces."""
    differing = {prompt for prompt, _ in report.generation.parted} if report.generation else set()
    return [
        {
            "prompt": made.prompt or " ".join(map(str, made.prompt_tokens)),
            "text": bool(made.prompt),
            "tokens": len(made.prompt_tokens),
            "verdict": "differs" if number in differing else "identical" if _equal(made) else "tie",
            "source": _pieces(made.source_tokens, made.source_texts, made.clone_tokens),
            "clone": _pieces(made.clone_tokens, made.clone_texts, made.source_tokens),
        }
        for number, made in enumerate(report.continuations)
    ]


def _equal(made: Continuation) -> bool:
    return made.source_tokens == made.clone_tokens


def _pieces(tokens: tuple[int, ...], texts: tuple[str, ...], others: tuple[int, ...]) -> list[Piece]:
    """A continuation, split where tokens begin or cease to differ from the `others`; ids stand for missing texts."""
    parts = texts or tuple(f"{token} " for token in tokens)
    marked = [(text, token, token != other) for text, token, other in zip(parts, tokens, others, strict=True)]
    return [
        Piece("".join(text for text, _, _ in run), tuple(token for _, token, _ in run), differs)
        for differs, group in groupby(marked, key=lambda item: item[2])
        for run in [list(group)]
    ]


def number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _bytes(count: int) -> str:
    return f"{decimal(count)} ({count:,})"


def _short(value: object) -> str:
    """A value of config.json, cut if it is long; an en dash for None."""
    text = "–" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def _times(before: object, after: object) -> str:
    numbers = [value for value in (before, after) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < 2 or not numbers[0] or not all(abs(value) < 1e15 for value in numbers):
        return ""
    return f"{numbers[1] / numbers[0]:.4g} ×"
