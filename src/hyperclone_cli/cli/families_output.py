"""What the architectures look like that are supported, and a check of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from hyperclone_cli.cli.console import OUT, SCHEMA_VERSION, print_json, print_table
from hyperclone_cli.families import Family
from hyperclone_cli.families.coverage import Coverage
from hyperclone_cli.growth.capabilities import capabilities, grown_keys

if TYPE_CHECKING:
    from hyperclone_cli.verifier.self_check import FamilyCheck


def show_families(
    families: Sequence[Family], refused: Mapping[str, str], known: Coverage | None, as_json: bool
) -> None:
    """Print the architectures, from the tables, and those that are `refused`, model_type → reason.

    known  how many of the types that the installed transformers knows these are; None: not asked
    """
    described = [capabilities(family) for family in families]
    if as_json:
        found = {family.name: asdict(capabilities(family)) | {"grows": grown_keys(family)} for family in families}
        printed = {"schema_version": SCHEMA_VERSION, "families": found, "refused": dict(refused)}
        print_json({**printed, "coverage": asdict(known)} if known else printed)
        return
    rows = [
        (found.architecture, found.hidden_size, found.heads, found.feed_forward, found.tied_head, found.layers)
        for found in described
    ]
    print_table("", ("architecture", "hidden size", "heads", "feed-forward", "tied head", "layers"), rows)
    limited = [(found.architecture, found.limits) for found in described if found.limits]
    if limited:
        print_table("limits", ("", ""), limited)
    if refused:
        reasons = dict.fromkeys(refused.values())
        listed = [(", ".join(name for name in refused if refused[name] == why), why) for why in reasons]
        print_table("not supported", ("", ""), listed)
    if known:
        counts = ", ".join(
            f"{len(types)} {answer}" for answer, types in asdict(known).items() if answer != "transformers"
        )
        OUT.print(f"Of the {len(known.all)} causal model types of transformers {known.transformers}: {counts}.")
        if known.unknown:
            OUT.print(f"Unknown: {', '.join(known.unknown)}.")


def show_trials(trials: Mapping[str, FamilyCheck], as_json: bool) -> None:
    """Print how far tiny clones of each architecture are from their sources."""
    from importlib.metadata import version

    if as_json:
        found = {name: trial.as_json() for name, trial in trials.items()}
        print_json({"schema_version": SCHEMA_VERSION, "transformers": version("transformers"), "families": found})
        return
    growths = sorted({growth for trial in trials.values() for growth in trial.errors})
    rows = [
        (
            name,
            *(f"{trial.errors[growth]:.1e}" if growth in trial.errors else "–" for growth in growths),
            _outcome(trial),
        )
        for name, trial in trials.items()
    ]
    title = f"relative logit error with transformers {version('transformers')}"
    columns = (f"{growth}×" if growth.isdecimal() else growth for growth in growths)
    print_table(title, ("architecture", *columns, ""), rows)
    for name, trial in trials.items():
        if trial.failure:
            OUT.print(f"✗ {name}: {trial.failure}")
        if trial.not_run:
            OUT.print(f"– {name}: transformers cannot run the tiny model: {trial.not_run}")


def _outcome(trial: FamilyCheck) -> str:
    if trial.not_run:
        return "not run"
    return "exact" if trial.passed else "FAILED" if trial.failure else "NOT EXACT"
