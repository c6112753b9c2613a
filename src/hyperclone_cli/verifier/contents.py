"""What a verification reads of a clone's files: their digests, config, side files and weights."""

from __future__ import annotations

from pathlib import Path

from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.verifier.file_comparison import compare_config, compare_files
from hyperclone_cli.verifier.report import PartialReport
from hyperclone_cli.verifier.verification_record import file_digests, hashed_files
from hyperclone_cli.writing.integrity import finiteness_note
from hyperclone_cli.writing.ray_cluster import Do


def digests(clone: Path, do: Do | None) -> dict[str, str]:
    """Name → SHA-256 of the clone's files, read by a cluster if there is one."""
    if do is None:
        return file_digests(clone)
    from hyperclone_cli.verifier.on_ray import hash_on_ray

    return hash_on_ray(clone, hashed_files(clone), do)


def compare_contents(plan: Plan, clone: Source, partial: PartialReport, progress: Progress, do: Do | None) -> None:
    """Compare the clone's config, side files and weights with the plan's; the weights by a cluster if there is one."""
    from hyperclone_cli.verifier.on_ray import compare_on_ray
    from hyperclone_cli.verifier.weights import compare_weights

    partial.failures += compare_config(plan.config, clone.config)
    compare_files(plan, clone.path, partial)
    progress.step("Comparing the weights", "weights")
    advance = progress.advance
    partial.weights = compare_on_ray(plan, clone, do, advance) if do else compare_weights(plan, clone, advance)
    partial.failures += [f"tensor {name} {what}" for name, what in partial.weights.bad.items()]
    partial.notes += filter(None, [finiteness_note(partial.weights.not_finite)])
