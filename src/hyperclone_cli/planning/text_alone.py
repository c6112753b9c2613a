"""`--text-only`: the text model inside a wrapper, written as the causal language model that it is alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families import Family, Match, known_family
from hyperclone_cli.families.vocabulary import drop
from hyperclone_cli.growth.config import targets_of
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.widths import Growth

LEFT_OUT = drop("because --text-only writes the text model alone")

_IN_SECTIONS = ("mrope_section", "mrope_interleaved")
"""Rotary parameters of text with pictures; in text alone all sections turn alike, as without them."""
_OF_OTHERS = ("image_", "video_", "vision_", "audio_")
"""How keys begin that older files of wrappers have among those of the text model."""


def text_alone(source: Source, proposal: Proposal) -> Proposal:
    """The same request, put to the text model inside.

    Raises RequestError where the source is no wrapper, or its text model no causal language model by itself.
    """
    wrapping = proposal.family.wrapping
    if wrapping is None:
        raise RequestError(f"--text-only: {proposal.family.name} is a text model already.", "Leave it out.")
    if reason := wrapping.wrapper.not_alone:
        raise RequestError(f"--text-only: not from {wrapping.wrapper.model_type}, {reason}.", "Leave it out.")
    names = {
        wrapping.alone(match.name) for name in source.tensors for match in proposal.family.tensor_names.matches(name)
    }
    config = {**proposal.config, "model_type": wrapping.text.model_type}
    family = known_family(config, names)
    assert family is not None, wrapping.text.model_type
    # config.json leaves out what is assumed of a text model in this wrapper
    family = replace(family, defaults={**family.defaults, **proposal.family.defaults})
    return replace(proposal, family=family, config=config)


def named_alone(matched: Mapping[str, Match], proposal: Proposal) -> dict[str, Match]:
    """The tensors of a wrapper, matched, under the names of the text model alone; others are left out."""
    wrapping = proposal.family.wrapping
    assert wrapping is not None

    def renamed(match: Match) -> Match:
        if match.form.part in ("tower", "projector"):
            return match._replace(form=LEFT_OUT)
        return match._replace(name=wrapping.alone(match.name), module=wrapping.alone(match.module))

    return {stored: match if match.form.dropped else renamed(match) for stored, match in matched.items()}


def config_alone(
    grown: Mapping[str, Any],
    source: Source,
    proposal: Proposal,
    family: Family,
    growths: Mapping[str, Growth],
    tied: bool,
) -> dict[str, Any]:
    """config.json of the text model alone, from what `grow_config` made of its part of the wrapper's.

    proposal  that to the wrapper
    family    the table of the text model alone
    """
    wrapping = proposal.family.wrapping
    assert wrapping is not None
    wrapper, model_type = wrapping.wrapper, wrapping.text.model_type
    config = {
        key: value
        for key, value in grown.items()
        if not key.startswith(_OF_OTHERS) and key not in (wrapper.config, "architectures", "auto_map")
    }
    if proposal.config["model_type"] != model_type:  # a class of another name, for text without pictures
        for key in ("rope_parameters", "rope_scaling"):
            if isinstance(rope := config.get(key), Mapping):
                config[key] = _without_sections(rope)
        sizes = {key: targets_of(growths).get(axis) for axis, key in family.sizes.items()}
        config = {key: size for key, size in sizes.items() if size} | config
    config |= wrapper.alone.get(model_type, {})
    outside = {key: source.config[key] for key in ("dtype", "torch_dtype") if key in source.config}
    architectures = [wrapper.causal_class(model_type)] if wrapper.causal_class(model_type) else []
    named = {"architectures": architectures} if architectures else {}
    return {**named, **outside, **config, "model_type": model_type, "tie_word_embeddings": tied}


def _without_sections(rope: Mapping[str, Any]) -> dict[str, Any] | None:
    kept = {key: value for key, value in rope.items() if key not in _IN_SECTIONS}
    plain = {key: "default" if value == "mrope" else value for key, value in kept.items()}
    return None if set(plain) <= {"type", "rope_type"} and set(plain.values()) <= {"default"} else plain
