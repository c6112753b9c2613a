"""The plan of a clone: what each of its tensors is, in which file it lies, and what can be told from that."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

from hyperclone_cli.checkpoint.json_config import config_changes
from hyperclone_cli.checkpoint.safetensors_file import ITEM_BYTES
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.families import Family, Match
from hyperclone_cli.families.vocabulary import Role, dimension
from hyperclone_cli.growth.depth import ClonedLayer
from hyperclone_cli.growth.experts import chosen_shares
from hyperclone_cli.growth.layers import kv_shared_layers
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.widths import Growth, grow_axes
from hyperclone_cli.planning.grown_tensor import GrownTensor, TensorKind
from hyperclone_cli.planning.tied_head import Head

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """Everything that will be written.

    source_family  the table of the source, which is not the clone's where a text model is written without its wrapper
    layers         the growths in each layer of the clone, where layers differ; empty where they do not
    order          the layer of the source that each layer of the clone copies, and whether it is new
    shards         file → names of its tensors
    dropped        stored tensors that are not written → why
    """

    source: Source
    source_family: Family
    proposal: Proposal
    growths: Mapping[str, Growth]
    layers: Mapping[int, Mapping[str, Growth]]
    order: tuple[ClonedLayer, ...]
    config: Mapping[str, Any]
    tensors: tuple[GrownTensor, ...]
    shards: Mapping[str, tuple[str, ...]]
    dropped: Mapping[str, str]
    head: Head
    notes: tuple[str, ...]

    @property
    def family(self) -> Family:
        return self.proposal.family

    @property
    def request(self) -> Request:
        return self.proposal.request

    @cached_property
    def kinds(self) -> Counter[TensorKind]:
        """How many tensors there are of each kind."""
        return Counter(tensor.kind for tensor in self.tensors)

    @cached_property
    def _read(self) -> Counter[tuple[TensorKind, tuple[int, ...]]]:
        """How many tensors of the checkpoint there are of each shape, by the kind of what is made from them."""
        first = {
            one.name: (tensor.kind, one.shape) for tensor in reversed(self.tensors) for one in tensor.source.originals
        }
        return Counter(first.values())  # a new head comes last, so that the matrix tied to it is an embedding

    @cached_property
    def named(self) -> Mapping[str, GrownTensor]:
        """The tensors by their names."""
        return {tensor.name: tensor for tensor in self.tensors}

    def match(self, tensor: GrownTensor) -> Match:
        """The place of a tensor in the family's table: of several forms of one name, that with its dimensions."""
        matches = self.family.tensor_names.matches(tensor.name)
        dimensions = len(tensor.growths)
        return next((match for match in matches if match.dimensions == dimensions), matches[0])

    @property
    def nbytes(self) -> int:
        return sum(number * kind.nbytes for kind, number in self.kinds.items())

    @property
    def digest(self) -> str:
        """SHA-256 over the source's config and tensors, in whichever files, the request and the clone's config."""
        decided = {
            "source": [
                [stored.name, stored.dtype, stored.shape]
                for stored in sorted(self.source.tensors.values(), key=attrgetter("name"))
            ],
            "source_config": self.source.config,
            "request": self.request.recorded(),
            "config": self.config,
        }
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()

    def config_changes(self) -> list[tuple[str, Any, Any]]:
        """(key, old value or None, new value) of what the clone's config has otherwise than the source's.

        Where a text model is written without its wrapper, than that part of it.
        """
        before = self.proposal.config if self.request.text_only else self.source.config
        return config_changes(before, self.config)

    def parameters(self) -> tuple[Counter[str], Counter[str]]:
        """Parameters by part of the network, before and after; a tied head counts once."""
        before, after = Counter[str](), Counter[str]()
        for kind, number in self.kinds.items():
            after[kind.part] += number * kind.elements
        for (kind, shape), number in self._read.items():
            before[kind.part] += number * math.prod(shape)
        return before, after

    def active_parameters(self) -> tuple[int, int]:
        """Parameters that compute each token, before and after: of the experts only those that the router chooses."""
        chosen, grown = chosen_shares(self.proposal)
        stored = sum(number * math.prod(shape) for (kind, shape), number in self._read.items() if kind.experts)
        experts = sum(number * kind.elements for kind, number in self.kinds.items() if kind.experts)
        idle = stored * (1 - chosen), experts * (1 - grown)
        before, after = self.parameters()
        return int(before.total() - idle[0]), int(after.total() - idle[1])

    def rounded(self) -> list[str]:
        """Tensors whose numbers are rounded once; all others hold the source's, scaled by powers of two."""
        return [tensor.name for tensor in self.tensors if not tensor.kind.exact]

    def kv_cache_bytes(self) -> tuple[int, int]:
        """Bytes of keys and values that one token adds, in the source and in the clone, each in its own dtype.

        Recurrent layers add none, nor do layers that share the keys and values of an earlier one.
        """
        attention = [kind for kind in self.kinds if kind.part == "attention"]
        layers = {one.layer for one in self.tensors if one.kind.part == "attention" and one.layer is not None}
        shared = kv_shared_layers(self.proposal)
        cached = [
            (grow_axes(dimension(Role.OUT, packed).parts, self.layers.get(layer, self.growths)), self.order[layer].new)
            for layer in layers
            if self.order[layer].source not in shared
            for packed in self.family.cache
        ]
        before = max((ITEM_BYTES[kind.stored.dtype] for kind in attention), default=0)
        after = max((ITEM_BYTES[kind.dtype] for kind in attention), default=0)
        return (
            sum(growth.source for growth, new in cached if not new) * before,
            sum(growth.target for growth, _ in cached) * after,
        )

    def as_json(self) -> dict[str, Any]:
        """The plan as one object."""
        before, after = self.parameters()
        cache = self.kv_cache_bytes()
        return {
            "schema_version": SCHEMA_VERSION,
            "model_type": self.family.model_type,
            "config": {key: {"before": old, "after": new} for key, old, new in self.config_changes()},
            "parameters": {
                "before": {**before, "total": sum(before.values())},
                "after": {**after, "total": sum(after.values())},
            },
            "active_parameters": dict(zip(("before", "after"), self.active_parameters(), strict=True)),
            "bytes": self.nbytes,
            "shards": list(self.shards),
            "kv_cache_bytes_per_token": {"before": cache[0], "after": cache[1]},
            "head": {"tied": self.head.tied, "why": self.head.why},
            "function_preserving": self.request.keeps_function,
            "rounded_tensors": self.rounded(),
            "dropped_tensors": dict(self.dropped),
            "notes": list(self.notes),
            "digest": self.digest,
        }
