"""One run of `expand`: what was asked for, the plan that it leads to, and what has been written at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from hyperclone_cli import __version__
from hyperclone_cli.checkpoint.quantised.unpack import quantisation
from hyperclone_cli.checkpoint.source import Fingerprint, Place, Source
from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.families import find_family
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.resolve import resolve
from hyperclone_cli.growth.upcycling import as_mixture
from hyperclone_cli.hub.download import Access, open_checkpoint
from hyperclone_cli.hub.remote_headers import open_headers
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.writing.budget import Budget, plan_budget
from hyperclone_cli.writing.card import command
from hyperclone_cli.writing.integrity import finiteness_note
from hyperclone_cli.writing.journal import Journal, RunKey
from hyperclone_cli.writing.options import Writing
from hyperclone_cli.writing.ranks import Rank, Standing

if TYPE_CHECKING:
    from hyperclone_cli.writing.training_state import TrainingState


@dataclass(frozen=True)
class Run:
    """What was asked for, and of which process.

    src      as the user named the source; `place` is where that is
    rank     None if this process is the only one
    planned  called with the plan before anything is written
    """

    src: str | Path
    place: Place
    request: Request
    writing: Writing
    access: Access
    rank: Rank | None
    progress: Progress
    planned: Callable[[Plan], None]

    def plan(self, check_room: Callable[[Plan], None]) -> Plan:
        """The plan, of which transformers is to be asked next.

        check_room  called with it: raises StorageError if there is no room for the clone

        Raises RequestError or CheckpointError, if the config alone rules it out before gigabytes are fetched.
        """
        source = open_checkpoint(self.place, self.access, self.progress, self.request.dtype, self._check_config)
        plan = make_plan(source, self.request)
        check_room(plan)
        self.progress.step("Checking that transformers accepts the clone")
        return plan

    def _check_config(self, config: Mapping[str, Any]) -> None:
        family = find_family(config, instead=self.request.family)
        if self.request.target_params is None:
            resolve(as_mixture(Proposal.of(self.request, family, config)))
        if quantisation(config):  # whether it is one that is read, the headers tell
            with suppress(RequestError):  # of files whose headers cannot be read apart
                open_headers(self.place, self.access, Progress(), self.request.dtype)

    def budget(self, part: Plan) -> Budget:
        """Threads and blocks for what this process writes."""
        return plan_budget(part.kinds, self.writing.threads, self.writing.max_memory)

    def key(self, plan: Plan, out: object, state: TrainingState | None = None) -> RunKey:
        """What identifies the run that writes the clone of `plan` to `out`."""
        typed = command(plan.request, str(self.src), self.access.revision, str(out))
        typed += " --optimizer" if state else ""
        which = f"{plan.digest} and its optimizer" if state else plan.digest
        return RunKey(typed, which, _fingerprint(plan.source, state), f"hyperclone {__version__}")


@dataclass(frozen=True)
class Written:
    """What a process has written of a clone.

    share     the plan of this rank's shards alone
    standing  how far the ranks are; None where the clone was published before this rank began
    """

    plan: Plan
    rank: Rank | None = None
    share: Plan | None = None
    standing: Standing | None = None

    @property
    def published(self) -> bool:
        """Whether this process published the clone, and so has it in hand."""
        return self.rank is None or (self.standing is not None and self.standing.publisher == self.rank.number)


def check_unchanged(source: Source, key: RunKey, state: TrainingState | None = None) -> None:
    """Raise StorageError if the source is not any more what it was when the run began."""
    now = _fingerprint(source, state)
    changed = [name for name, found in key.source.items() if now.get(name) != found]
    if changed:
        raise StorageError(
            f"{source.path}: {changed[0]} changed while it was read.",
            "Run the command again with --restart once the source is complete.",
        )


def _fingerprint(source: Source, state: TrainingState | None) -> Fingerprint:
    return source.fingerprint() | (state.optimizer.fingerprint() if state else {})


def with_notes(plan: Plan, part: Plan, journal: Journal, non_finite: Iterable[str]) -> Plan:
    """The plan with notes on what an earlier run had written of this process's `part`, and on NaN in the source."""
    written = frozenset[str]().union(*journal.done.values())
    done = [tensor for tensor in part.tensors if tensor.name in written]
    kept = decimal(sum(tensor.nbytes for tensor in done))
    resumed = f"An earlier run had written {kept} in {len(done)} of {len(part.tensors)} tensors." if done else ""
    return replace(plan, notes=(*plan.notes, *filter(None, [resumed, finiteness_note(non_finite)])))
