"""The pages of the documentation that are made from the code: `make docs` writes them, a test compares them."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple
from itertools import starmap
from pathlib import Path
from textwrap import dedent

import config_defaults
import hyperclone_cli
from hyperclone_cli.families import FAMILIES, REFUSED, layer_rules, starcoder2, vocabulary
from hyperclone_cli.families.axes import AXES, Axis
from hyperclone_cli.growth.capabilities import capabilities
from hyperclone_cli.growth.option import flag
from options_reference import options_reference

DOCS = Path(hyperclone_cli.__file__).parent / "docs"
MARK = "<!-- Made by tests/generated_docs.py: `make docs` writes this page. -->\n"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


ARCHITECTURES = """\
# Architectures

hyperclone has {layouts} tables for {types} values of `model_type`. Where checkpoints of one model_type come in several
layouts, each layout has a table, and parentheses name the layout. `hyperclone families` prints what is below;
`hyperclone families --check` grows a tiny random model of each architecture with the installed transformers, and
prints the error. What that release does not know is left out, and what it cannot run is listed with the reason.

## Supported

{supported}

- **hidden size**: *any* width; *whole heads*, a multiple of the head size; or *multiples* of the source's hidden size.
- **heads**: *any* number from the source's up; *divisors* of the hidden size, where transformers insists on that;
  *multiples* of the source's number, where a norm spans all heads; *implied*, hidden size / head size; or *none*.
  Key/value heads may grow by less than query heads.
- **feed-forward**: *any* width; or *implied* by the hidden size, where config.json has no key for it.
- **tied head**: a tied head stays *tied*, where a norm before it can carry the factor that it needs; or becomes
  *untied*, a matrix of its own.
- **layers**: *any* number from the source's up, in any [order](design.md#depth); *whole periods*, where kinds of layers
  follow a period that `config.json` cannot write out as a list; new layers *on top* of the source's alone, or *not on
  top*; or *kept*.

The head size grows in whole multiples, but not with rotary positions of type `yarn`, `dynamic` or `longrope`.
The experts of a mixture grow in width, and in [number](design.md#experts) by whole multiples.
Where layers have widths of their own, all grow in one proportion. Embeddings for single layers keep their width.
A request that breaks one of these rules is refused with the reason and the nearest request that works.

## Limits of single architectures

{limits}

## Refused

{refused}

A name in parentheses is the supported architecture that is nearest to the language model inside.

An architecture that is in neither list is refused too, with the name of the nearest table. Where all of its tensors
fit the table of another architecture, the refusal says so: `--family NAME` uses that table, and the verification
decides whether it was the right one. An architecture that fits no table needs one of its own.

## Add an architecture

An architecture is one table: which widths `config.json` states, and for each module which width it writes and which it
reads. It holds no code. This is the whole of `families/starcoder2.py`:

```python
{example}
```

1. Write the table in `families/`. The fields of `Family` are described in `families/table.py`. `NAME.variant(…)`
   makes a table that differs from another in a few values; `families/blocks.py` has blocks that many tables share.
2. Add the file to the list in `families/__init__.py`.
3. Add a tiny random model of it to the tables of models in `tests/`: the tests then hold its clones against stock
   transformers.
4. Run `hyperclone families --check NAME`, and `make docs` for this page.

Every tensor of a checkpoint must match exactly one line of the table; a tensor that matches none, or a line without
its tensor, is an error that lists the names. `optional` marks modules that only some checkpoints have, `drop` marks
tensors that transformers ignores.

### Axes

An axis is a number of the model's shape, one record in `families/axes.py`:

{axes}

A dimension of a tensor packs axes, written as one string, the outermost first:

```text
{words}
```

### Words for modules

{forms}

### Rules for layers

Where `config.json` tells layers apart by their numbers, a table says how, so that a deeper clone has each layer as it
was. The rules are in `families/layer_rules.py`:

{rules}
"""


def architectures() -> str:
    """What each architecture can grow, which are refused, and how a table is written."""
    found = [capabilities(family) for family in FAMILIES.values()]
    titles = ("architecture", "known as", "hidden size", "heads", "feed-forward", "tied head", "layers")
    limited = [(f"`{one.architecture}`", limit) for one in found for limit in one.limits.split("; ") if limit]
    return MARK + ARCHITECTURES.format(
        layouts=len(FAMILIES),
        types=len({family.model_type for family in FAMILIES.values()}),
        supported=table(titles, [(f"`{row[0]}`", *row[1:-1]) for row in map(astuple, found)]),
        limits=table(("limit", "architectures"), _grouped(limited)),
        refused=table(("reason", "model_type"), _grouped(starmap(_refusal, REFUSED.items()))),
        example=inspect.getsource(starcoder2).strip(),
        axes=table(
            ("axis", "what it is", "how it grows"),
            [(f"`{axis.name}`", axis.what, _how(axis)) for axis in AXES.values()],
        ),
        words=_words(vocabulary.__doc__ or ""),
        forms=table(("form", "meaning"), _forms()),
        rules=table(("rule", "meaning"), [(f"`{rule.__name__}`", _first_line(rule)) for rule in _rules()]),
    )


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(name, reason) pairs as (reason, all names that have it)."""
    names: Mapping[str, list[str]] = defaultdict(list)
    for name, reason in pairs:
        names[reason].append(name)
    return [(reason, ", ".join(having)) for reason, having in names.items()]


def _refusal(model_type: str, reason: str) -> tuple[str, str]:
    """(model_type, reason), with the architecture that a reason ends in, in quotes, moved to the model_type."""
    found = re.fullmatch(r"(.*?); .*'(.*)'", reason)
    return (f"`{model_type}` (`{found[2]}`)", found[1]) if found else (f"`{model_type}`", reason)


def _words(docstring: str) -> str:
    """The indented block of a docstring: one word a line, with its meaning."""
    (block,) = re.findall(r"(?:^    .*\n)+", docstring, re.MULTILINE)
    return dedent(block).rstrip()


def _how(axis: Axis) -> str:
    """How an axis grows, in a few words."""
    product = " × ".join(f"`{factor}`" for factor in axis.factors)
    options = ", ".join(f"`{flag(option)}`" for option in axis.options if option)
    return "; ".join(filter(None, (product, options, axis.follows and f"in proportion to `{axis.follows}`")))


def _forms() -> list[tuple[str, str]]:
    """The functions of the vocabulary that make a form, and the first line of what each says of itself."""
    return [
        (f"`{name}({', '.join(inspect.signature(function).parameters)})`", (function.__doc__ or "").split("\n")[0])
        for name, function in vars(vocabulary).items()
        if inspect.isfunction(function) and "Form" in function.__annotations__.get("return", "")
    ]


def _rules() -> list[type]:
    """The rules by which a config tells layers apart, in the order of their module."""
    return [
        rule for rule in vars(layer_rules).values() if inspect.isclass(rule) and layer_rules.LayerRule in rule.__bases__
    ]


def _first_line(documented: type) -> str:
    return (documented.__doc__ or "").split("\n")[0]


def options() -> str:
    """Every command, every option: type, default, what it does."""
    return MARK + options_reference()


PAGES: Mapping[Path, Callable[[], str]] = {DOCS / "architectures.md": architectures, DOCS / "options.md": options}
"""The file of each page that is made from the code, and what makes its text."""


if __name__ == "__main__":
    config_defaults.FILE.write_text(config_defaults.config_defaults(), encoding="utf-8")
    for path, text in PAGES.items():
        path.write_text(text(), encoding="utf-8")
