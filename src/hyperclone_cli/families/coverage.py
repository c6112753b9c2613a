"""How many of the causal language models that the installed transformers knows can be expanded."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from hyperclone_cli.families import FAMILIES, REFUSED

_MAPPING = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
_WIDTHS = ("pads", "ffn", "heads")


@dataclass(frozen=True)
class Coverage:
    """The model types of transformers' causal classes, each in one list.

    exact        the hidden size, the feed-forward width and the heads of every model grow
    conditional  they grow too, but one of them in whole multiples alone, or not at all
    refused      no model grows, for the reason in `REFUSED`
    unknown      none of these: there is neither a table nor a reason
    """

    transformers: str
    exact: tuple[str, ...]
    conditional: tuple[str, ...]
    refused: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.exact, *self.conditional, *self.refused, *self.unknown)


def coverage() -> Coverage:
    """What the tables say of each model type that the installed transformers has a causal class for."""
    found: dict[str, list[str]] = {"exact": [], "conditional": [], "refused": [], "unknown": []}
    for model_type in causal_model_types():
        found[_answer(model_type)].append(model_type)
    return Coverage(version("transformers"), **{answer: tuple(types) for answer, types in found.items()})


def causal_model_types() -> list[str]:
    """The model types that the installed transformers has a causal class for, read from its source, which is not run.

    Importing it takes seconds, and torch.
    """
    package = find_spec("transformers")
    assert package is not None
    assert package.origin is not None
    source = (Path(package.origin).parent / "models/auto/modeling_auto.py").read_text()
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == _MAPPING for target in statement.targets
        ):
            assert isinstance(statement.value, ast.Call)  # OrderedDict([(model_type, class), …])
            return [model_type for model_type, _ in ast.literal_eval(statement.value.args[0])]
    raise AssertionError(_MAPPING)


def _answer(model_type: str) -> str:
    tables = [family for family in FAMILIES.values() if family.model_type == model_type]
    if not tables:
        return "refused" if model_type in REFUSED else "unknown"
    limited = any(limit.growth in _WIDTHS and not limit.when for family in tables for limit in family.limits)
    return "conditional" if limited else "exact"
