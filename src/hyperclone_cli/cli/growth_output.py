"""What a plan, a clone and an upload look like."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from rich.filesize import decimal

from hyperclone_cli.checkpoint.object_store import StoreUrl
from hyperclone_cli.cli.console import ERR, OUT, SCHEMA_VERSION, print_json, print_table, show_notes
from hyperclone_cli.cli.report_output import show_report
from hyperclone_cli.errors import first_of
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.planning.symmetry import advice
from hyperclone_cli.planning.tokens import TokenBudget
from hyperclone_cli.verifier.forecast import Forecast
from hyperclone_cli.writing.ranks import Rank, Standing, share_of

if TYPE_CHECKING:
    from hyperclone_cli.hub.upload import Pushed
    from hyperclone_cli.verifier.report import Report
    from hyperclone_cli.writing.run import Written


def show_forecast(forecast: Forecast) -> None:
    """Say how a clone will be verified, before it is written."""
    ERR.print(f"The clone will be verified {forecast}.")


def show_plan(
    plan: Plan,
    forecast: Forecast,
    as_json: bool,
    world_size: int | None = None,
    budget: TokenBudget | None = None,
) -> None:
    """Print what `plan` would write, how it would be verified, and what is known of growth at a budget of tokens."""
    shares = [share_of(plan, Rank(number, world_size)) for number in range(world_size)] if world_size else []
    if as_json:
        ranks = [{"shards": list(share.shards), "bytes": share.nbytes} for share in shares]
        more: dict[str, object] = {"ranks": ranks} if world_size else {}
        more |= {"tokens": asdict(budget)} if budget else {}
        print_json({**plan.as_json(), "verification": asdict(forecast), **more})
        return
    show_notes([*plan.notes, *(budget.notes if budget else ())])
    print_table("config.json", ("key", "before", "after"), _config_rows(plan))
    before, after = plan.parameters()
    rows = [(part, f"{before[part]:,}", f"{after[part]:,}") for part in after]
    total = (sum(before.values()), sum(after.values()))
    rows.append(("total", f"{total[0]:,}", f"{total[1]:,}"))
    active = plan.active_parameters()
    if active != total:
        rows.append(("active for each token", f"{active[0]:,}", f"{active[1]:,}"))
    print_table("parameters", ("part", "before", "after"), rows)
    cache = plan.kv_cache_bytes()
    exact = sum(number for kind, number in plan.kinds.items() if kind.exact)
    rounded = dict.fromkeys(kind.pattern for kind in plan.kinds if not kind.exact)
    left_out: dict[str, list[str]] = defaultdict(list)
    for name, why in plan.dropped.items():
        left_out[why].append(name)
    facts = [
        ("on disk", f"{decimal(plan.nbytes)} in {len(plan.shards)} file(s)"),
        ("KV cache per token", f"{decimal(cache[0])} → {decimal(cache[1])}"),
        ("head", plan.head.why),
        ("verification here", str(forecast)),
        ("exact", f"{exact} of {len(plan.tensors)} tensors"),
        ("rounded once", ", ".join(rounded) or "none"),
        ("not written", "; ".join(f"{first_of(names)} ({why})" for why, names in left_out.items()) or "nothing"),
    ]
    if budget:
        facts.append(("tokens per parameter", f"{budget.before:.3g} → {budget.after:.3g}"))
    if shares:
        files, nbytes = [len(share.shards) for share in shares], [share.nbytes for share in shares]
        each = f"{min(files)} to {max(files)} file(s), {decimal(min(nbytes))} to {decimal(max(nbytes))}"
        facts.insert(1, (f"each of {world_size} ranks", each))
    print_table("", ("", ""), facts)


def _config_rows(plan: Plan) -> list[tuple[str, str, str]]:
    rows = [(key, "–" if old is None else str(old), str(new)) for key, old, new in plan.config_changes()]
    return rows or [("nothing changes", "", "")]


def show_clone(plan: Plan, out: Path | StoreUrl, report: Report | None, pushed: Pushed | None, as_json: bool) -> None:
    """Print what `expand` wrote, its verification if there was one, and where it was pushed."""
    if as_json:
        verification = report.as_json() if report else None
        url = pushed.url if pushed else None
        notes = [*plan.notes, *filter(None, [advice(plan)])]
        print_json({**plan.as_json(), "notes": notes, "out": str(out), "verification": verification, "url": url})
        return
    show_notes(plan.notes)
    before, after = plan.parameters()
    OUT.print(
        f"{out}: {sum(before.values()):,} → {sum(after.values()):,} parameters, {decimal(plan.nbytes)}, {plan.head.why}"
    )
    if report:
        show_report(report, as_json=False)
    else:
        where = quote(str(out)) if isinstance(out, Path) else "a copy of it"
        ERR.print(f"Not verified. Next: hyperclone verify {where}")
    if pushed:
        show_pushed(pushed, as_json=False)
    show_notes(filter(None, [advice(plan)]))


def show_share(written: Written, out: Path | StoreUrl, as_json: bool) -> None:
    """Print what one of several ranks wrote of a clone that it did not publish, and what is still to come."""
    rank, share, standing = written.rank, written.share, written.standing or Standing()
    if as_json:
        which = {"rank": rank.number, "world_size": rank.world_size} if rank else {}
        shards = {"shards": list(share.shards), "bytes": share.nbytes} if share else {"shards": [], "bytes": 0}
        others = {"unfinished_ranks": list(standing.unfinished), "publisher": standing.publisher}
        print_json({"schema_version": SCHEMA_VERSION, **which, **shards, "out": str(out), **others})
        return
    show_notes(written.plan.notes)
    wrote = f"{len(share.shards)} of {len(written.plan.shards)} shards, {decimal(share.nbytes)}" if share else "nothing"
    if standing.unfinished:
        rest = f"not finished: {', '.join(f'rank {number}' for number in standing.unfinished)}"
    elif standing.publisher is not None:
        rest = f"rank {standing.publisher} publishes the clone"
    else:
        rest = "the clone is published"
    OUT.print(f"{out}: {rank} wrote {wrote}; {rest}")


def show_pushed(pushed: Pushed, as_json: bool) -> None:
    """Print where a clone was pushed to, and what was not."""
    if as_json:
        print_json(pushed.as_json())
        return
    OUT.print(f"pushed: {pushed.url}")
    if pushed.left_out:
        ERR.print(
            f"Not uploaded, {decimal(pushed.left_out_bytes)} that resume a training run: {first_of(pushed.left_out)}."
            f" To add them: hf upload {pushed.repo_id} {quote(pushed.clone)} ."
        )
