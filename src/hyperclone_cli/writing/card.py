"""README.md of a clone: the model card that the Hub shows, with the figures of the last verification."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperclone_cli import __version__
from hyperclone_cli.checkpoint.gguf import is_gguf
from hyperclone_cli.checkpoint.source import Origin, Source
from hyperclone_cli.growth.option import options_of
from hyperclone_cli.growth.recipe import Recipe
from hyperclone_cli.growth.request import Request
from hyperclone_cli.hub.download import origin_of
from hyperclone_cli.planning.notes import kept_note
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.planning.recipe import recipe_of
from hyperclone_cli.planning.symmetry import advice
from hyperclone_cli.writing.clone_files import CARD_NAME
from hyperclone_cli.writing.provenance import earlier_growths

_BEGIN, _END = "<!-- hyperclone: verification -->", "<!-- /hyperclone: verification -->"
"""The text between these is replaced by every verification; the rest of the card never changes."""

_COPIED_METADATA = ("license", "license_name", "license_link", "language")
"""Metadata of the source's own card that is true of the clone too."""

_MOST_CARD_BYTES = 1 << 20
"""Of a card whose YAML is read: to parse a megabyte of it takes some seconds."""

_NEVER_VERIFIED = "None: the clone is {}. `hyperclone verify` compares its weights with the plan."

_TEMPLATE = Path(__file__).with_name("card_template.md")


def model_card(plan: Plan) -> str:
    """The card of a clone that is not verified yet. It depends on the plan alone, not on where the clone is."""
    from huggingface_hub import ModelCard, ModelCardData

    origin = origin_of(plan.source)
    repo_id = origin.repo_id if origin else None
    place = Path(os.path.abspath(plan.source.path))  # links not resolved: the name that the user gave
    source = repo_id or (place.stem if is_gguf(place) else place.name)
    carried = source_metadata(plan.source)
    growths = _growths(plan)
    data = ModelCardData(
        base_model=repo_id,
        base_model_relation="finetune" if repo_id else None,  # the nearest of the Hub's relations
        library_name="transformers",
        pipeline_tag="image-text-to-text" if plan.family.wrapping else "text-generation",
        tags=["hyperclone", "model-growth"],
        **carried,
    )
    before, after = (sum(part.values()) for part in plan.parameters())
    card: Any = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        source=source,
        before=f"{before:,}",
        after=f"{after:,}",
        sizes=_sizes(plan),
        command=commands(growths),
        lineage=" → ".join(f"`{name}`" for _, name, _ in growths) if len(growths) > 1 else "",
        version=__version__,
        head=f"Its head is {plan.head.why}.",
        kept=kept_note(plan.source_family, plan.request, plan.tensors),
        auto_class="AutoModelForImageTextToText" if plan.family.wrapping else "AutoModelForCausalLM",
        verification=_marked(
            "Not verified yet: `hyperclone verify` does it."
            if plan.request.keeps_function
            else _NEVER_VERIFIED.format(plan.request.by_request)
        ),
        made=_made_of(plan),
        keeps_function=plan.request.keeps_function,
        advice=advice(plan),
        rates=_rates(recipe_of(plan)),
        licence=_licence(source, carried.get("license_name") or carried.get("license")),
    )
    return f"{card}\n"


def with_figures(card: str, verification: Mapping[str, Any], page: str = "") -> str:
    """The card with the figures of a verification; unchanged if the marks around their place are missing.

    page  name of the file beside the card that shows the verification in full
    """
    before, begin, rest = card.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        return card
    link = f"\n\n[The verification in full]({page})" if page else ""
    text = _marked(_figures(verification) + link)
    return before + (text.replace("\n", "\r\n") if "\r\n" in card else text) + after


def source_metadata(source: Source) -> dict[str, Any]:
    """Licence and languages from the source's own card; empty if there is no readable card."""
    from huggingface_hub import metadata_load

    path = source.path / CARD_NAME
    try:
        readable = path.is_file() and path.stat().st_size <= _MOST_CARD_BYTES
        stated = (metadata_load(path) or {}) if readable else {}
    except Exception:  # YAML written by hand: an error in it does not affect the clone
        return {}
    texts = {
        key: [value] if isinstance(value, str) else value for key, value in stated.items() if key in _COPIED_METADATA
    }
    return {
        key: stated[key]
        for key in _COPIED_METADATA
        if isinstance(texts.get(key), list) and all(isinstance(text, str) for text in texts[key])
    }


def named(source: Source) -> tuple[str, str | None]:
    """(name, revision) of a source for `--src`: its id and commit on the Hub, or the last part of its path."""
    origin, place = origin_of(source), Path(os.path.abspath(source.path))
    if origin and (source.origin or place.name == origin.revision):  # not something inside a repository
        return origin.repo_id, origin.revision
    return place.name, None


def command(request: Request, src: str, revision: str | None = None, out: str = "clone") -> str:
    """The command line that makes this clone of `src`: every option of `request` that is not the default."""
    words = ["hyperclone", "expand", "--src", src, *(["--revision", revision] if revision else [])]
    for declared in (request, request.mixing):
        for option in options_of(type(declared)):
            value = getattr(declared, option.name)
            if value != option.default:
                words += [option.flag] if value is True else [option.flag, option.format(value)]
    return shlex.join([*words, "--out", out])


def commands(growths: Sequence[tuple[Request, str, str | None]]) -> str:
    """The command lines of growths that follow one another, one a line: (request, name and revision of the source)."""
    outs = [*(name for _, name, _ in growths[1:]), "clone"]
    return "\n".join(command(*growth, out) for growth, out in zip(growths, outs, strict=False))


def _growths(plan: Plan) -> list[tuple[Request, str, str | None]]:
    """All growths that made the clone of a plan, the first one first, as `commands` takes them."""
    earlier = [
        (
            one.request,
            *((one.source.repo_id, one.source.revision) if isinstance(one.source, Origin) else (one.source.name, None)),
        )
        for one in reversed(earlier_growths(plan.source))
    ]
    return [*earlier, (plan.request, *named(plan.source))]


def _sizes(plan: Plan) -> list[tuple[str, str, str]]:
    before, after = (sum(part.values()) for part in plan.parameters())
    active = plan.active_parameters()
    cache = plan.kv_cache_bytes()
    changes = plan.config_changes()
    return [
        *((f"`{key}`", "–" if old is None else f"`{old}`", f"`{new}`") for key, old, new in changes),
        ("parameters", f"{before:,}", f"{after:,}"),
        *([("active for each token", f"{active[0]:,}", f"{active[1]:,}")] if active != (before, after) else []),
        ("KV cache, bytes per token", f"{cache[0]:,}", f"{cache[1]:,}"),
    ]


def _made_of(plan: Plan) -> str:
    """What the clone is made of, and whether it computes the same."""
    new = sum(layer.new for layer in plan.order)
    experts = plan.request.num_experts is not None
    widths = any(growth.grows for axis, growth in plan.growths.items() if axis not in ("layers", "experts"))
    made = ["its widths are made of copies"] if widths or not (new or experts) else []
    if experts and plan.proposal.upcycling:
        made.append("each of its experts is the feed-forward or a part of it, chosen by a random router")
    elif experts:
        made.append("its experts are copies, chosen together")
    if new and plan.request.keeps_function:
        made.append(f"new layers, {new} in number, add nothing until training")
    elif new:
        made.append(f"new layers, {new} in number, are plain copies of others")
    if not plan.request.keeps_function:
        what = f"**It is {plan.request.by_request}**: it does not compute what the smaller model does."
        return f"{' and '.join(made)}. {what}"
    return f"{' and '.join(made)}, arranged so that the larger model\ncomputes the same function as the smaller one."


def _rates(recipe: Recipe) -> str:
    """The peak rates of a recipe, that of the most kinds of tensors first."""
    kinds = Counter(line.rate for line in recipe.tensors).most_common()
    whole, of = (1.0, " over the source's") if recipe.source_rate is None else (recipe.source_rate, "")
    listed = ", ".join(f"{rate * whole:.3g} for {number} kinds of tensors" for rate, number in kinds)
    return f"peak rates{of} ({listed})"


def _licence(source: str, stated: str | list[str] | None) -> str:
    if not stated:
        return f"That of `{source}`, whose card does not state it."
    return f"That of `{source}`: {stated if isinstance(stated, str) else ', '.join(stated)}."


def _marked(text: str) -> str:
    return f"{_BEGIN}\n{text}\n{_END}"


def _figures(verification: Mapping[str, Any]) -> str:
    rows = []
    if weights := verification["weights"]:
        rows.append(("weights compared", f"{weights['elements']:,}, largest relative error {_short(weights['worst'])}"))
    if logits := verification["logits"]:
        rows += [
            ("compared on", f"{logits['text']}, {logits['tokens']} tokens, {logits['dtype']}, {logits['device']}"),
            (
                "relative error of the logits",
                f"{_short(logits['relative_error'])} (passes up to {_short(logits['tolerance'])})",
            ),
            (f"error that {logits['floor_dtype']} makes in the source", _short(logits["floor"])),
            ("mean KL divergence", f"{_short(logits['kl_divergence'])} nats"),
            ("same most likely token", f"{logits['top1_agreement']:.2%}"),
            ("perplexity", _pair(logits["perplexity_source"], logits["perplexity_clone"])),
        ]
    if picture := verification.get("picture"):
        figure = f"{_short(picture['relative_error'])} (passes up to {_short(picture['tolerance'])})"
        rows.append((f"the same after {picture['input']}, {picture['tokens']} tokens", figure))
    if made := verification["generation"]:
        rows.append(("greedy decoding", f"{made['identical']} of {made['prompts']} prompts identical"))
    if exact := verification["before_rounding"]:
        figure = f"{_short(exact['relative_error'])} (passes up to {_short(exact['tolerance'])})"
        rows.append(("error of the clone before rounding, in float32", figure))
    verdict = "Passed" if verification["passed"] else "**FAILED: this is not the source's function**"
    table = "\n".join(f"| {what} | {figure} |" for what, figure in rows)
    return f"{verdict}, by `hyperclone verify` against the source:\n\n| | |\n|---|---|\n{table}"


def _short(number: float | None) -> str:
    return "not finite" if number is None else f"{number:.1e}"


def _pair(*perplexities: float | None) -> str:
    source, clone = ("not finite" if number is None else f"{number:.4f}" for number in perplexities)
    return f"source {source}, clone {clone}"


def write_card(directory: Path, plan: Plan) -> None:
    """Write a clone's card into its directory."""
    text = model_card(plan)  # may contain half a surrogate pair, which JSON allows
    (directory / CARD_NAME).write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
