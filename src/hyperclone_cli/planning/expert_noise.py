"""Noise that cancels over the copies of an expert: each writes something else, and their sum is what it was.

The copies of an expert have equal weights in every token that chooses it, so noise in their last matrices that sums to
zero over the copies adds nothing to the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.checkpoint.views import Balanced
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import Match
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.widths import Growth


def with_noise(
    tensors: Mapping[str, StoredTensor], matched: Mapping[str, Match], proposal: Proposal, experts: Growth
) -> tuple[Mapping[str, StoredTensor], Mapping[str, Match]]:
    """The source's tensors and their places, with the last matrices of experts once for each of the copies to be made.

    As they are where experts of a mixture do not grow, or no noise is asked for.
    Raises RequestError for quantised experts in one tensor, whose rows are not read one by one.
    """
    mixing = proposal.request.mixing
    if mixing.noise_snr_db is None or proposal.upcycling or not experts.grows:
        return tensors, matched
    found, places = dict(tensors), dict(matched)
    copies = experts.target // experts.source
    for name, match in matched.items():
        if not match.of_experts or match.form.kind != "linear" or "embed" not in match.form.written:
            continue
        if match.parameter == "bias":
            continue
        stored, form = found.pop(name), replace(match.form, single=True)
        places.pop(name)
        if match.form.stacked and stored.packed:
            raise RequestError(
                f"tensor {name}: noise for copies of experts that are quantised in one tensor.",
                "Leave --noise-snr-db out.",
            )
        rows = prod(stored.shape[:-1])
        flat = stored._replace(shape=(rows, stored.shape[-1]))
        for copy in range(1 if match.form.stacked else copies):
            numbers = range(copies) if match.form.stacked else range(copy, copy + 1)
            *outer, expert = match.indices
            indices = match.indices if match.form.stacked else (*outer, expert + copy * experts.source)
            place = match._replace(form=form, indices=indices, name=match.numbered(*indices))
            noisy = Balanced((flat,), False, mixing.seed, name, numbers, copies, mixing.noise_snr_db)
            shape = (stored.shape[0] * len(numbers), *stored.shape[1:])
            # in float32, so that the sum of noise and weight is rounded once, to the clone's dtype
            view = StoredTensor(place.name, "F32", shape, stored.path, 0, packed=noisy)
            found[place.name], places[place.name] = view, place
    return found, places
