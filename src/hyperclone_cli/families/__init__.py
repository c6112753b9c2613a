"""The architectures: data only, one lineage a file.

`FAMILIES` maps a family's name to the table that describes its checkpoints: the `model_type` from
config.json, and where checkpoints of one model_type come in several layouts, the layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families.refused import REFUSED
from hyperclone_cli.families.statements import Limit, PerLayer, Stated
from hyperclone_cli.families.table import Family, stated_value
from hyperclone_cli.families.tensor_names import Match
from hyperclone_cli.families.wrapper import Wrapper, as_named
from hyperclone_cli.families.wrappers import WRAPPERS

__all__ = [
    "FAMILIES", "REFUSED", "Family", "Limit", "Match", "PerLayer", "Stated",
    "families_named", "find_family", "known_family", "stated_value",
]  # fmt: skip

_LINEAGES = (
    *("llama", "ungated", "exaone", "cohere", "gemma", "gemma3n", "gemma4", "olmo", "nanochat", "opt"),
    *("gpt_neox", "phi", "starcoder2", "stablelm", "glm", "diffllama", "doge", "modernbert_decoder", "hrm_text"),
    # fused or transposed tensors
    *("persimmon", "bloom", "falcon", "gptj", "gpt_neo", "gpt2", "openai_gpt", "biogpt"),
    # mixtures of experts, and latent attention; `fused` comes first, for its tables are told apart by tensor names
    *("fused", "mixtral", "qwen_moe", "granite_moe", "gpt_oss", "dbrx", "deepseek", "latent_attention", "llama4"),
    *("minimax", "hunyuan", "solar_open", "axk", "hy_v4", "afmoe", "kolibri", "aria", "cohere_moe", "granite_swa"),
    *("flint", "beam", "sparse_attention", "minimax_m3", "sarvam_moe", "jetmoe", "mimo_v2_flash", "laguna"),
    *("longcat_flash", "deepseek_v4", "dots3_note", "inkling", "inkling2", "zaya", "qwen4_exp", "dory"),
    # recurrent and convolutional layers
    *(
        "lfm2",
        "lfm3",
        "nemotron_h",
        "jamba",
        "recurrent_gemma",
        "mamba",
        "mamba2",
        "bamba",
        "zamba",
        "xlstm",
        "rwkv",
        "qwen_delta",
        "lara",
        "kimi_linear",
        "olmo_hybrid",
    ),
)
"""The modules of this package that hold tables; of two tables that fit a checkpoint, the first is taken."""

_TABLES: Iterable[Family] = (
    family for lineage in _LINEAGES for family in import_module(f"{__name__}.{lineage}").FAMILIES
)
FAMILIES: dict[str, Family] = {family.name: family for family in _TABLES}


def _wrapped(wrapper: Wrapper, config: Mapping[str, Any], names: Iterable[str]) -> Family | None:
    """The table of a wrapper around the text model that its config has inside; None if that has no table."""
    own, names = wrapper.own(config), list(names)
    stated = own["model_type"]
    plain = [text for text in FAMILIES.values() if text.model_type == stated and text.wrapping is None]
    texts = [text for text in wrapper.texts.get(stated, plain) if text.fits(own, text.layout.when)]
    texts = [text for text in texts if not text.tensors[text.head].forward_power]  # a wrapper's own head has no factor
    layouts = [wrapper.around(text, stated, naming) for naming in wrapper.namings for text in texts]
    return as_named([family for family in layouts if family.is_stored_in(names)], names)


for _wrapper in WRAPPERS.values():
    _family = _wrapped(_wrapper, {_wrapper.config: {}}, ())
    assert _family is not None, _wrapper.text
    FAMILIES[_family.name] = _family


def known_family(config: Mapping[str, Any], names: Iterable[str] = ()) -> Family | None:
    """The first table of a config's model_type that fits it, and the names of its tensors.

    Raises CheckpointError for the config of a wrapper that has none of its text model.
    """
    if wrapper := WRAPPERS.get(config["model_type"]):
        return _wrapped(wrapper, config, names)
    names = list(names)
    layouts = [family for family in FAMILIES.values() if family.model_type == config["model_type"]]
    for wrapper in WRAPPERS.values():
        naming = wrapper.namings[0]
        if wrapper.text == config["model_type"] and wrapper.reads_text and naming.is_of(names):
            text = _fitting(layouts, config, [naming.alone(name, layouts[0].prefix) for name in names])
            return wrapper.beside(text) if text else None
    return _fitting(layouts, config, names)


def _fitting(layouts: Iterable[Family], config: Mapping[str, Any], names: Iterable[str]) -> Family | None:
    """The first of these tables that fits a config and the names of its tensors."""
    return next((f for f in layouts if f.fits(f.own(config), f.layout.when) and f.is_stored_in(names)), None)


def find_family(config: Mapping[str, Any], names: Iterable[str] = (), instead: str | None = None) -> Family:
    """The table for the model that a config.json describes.

    names    the checkpoint's tensors, which tell layouts with the same config apart
    instead  the name of the table to use for a model_type that has none

    Raises CheckpointError for an architecture that is refused by name, with the reason, and for an unknown
    model_type, naming the nearest known; RequestError for a table that does not exist or is not needed.
    """
    family, model_type = known_family(config, names), config["model_type"]
    if instead is not None:
        if family and instead != family.name:
            raise RequestError(f"--family {instead}: {model_type} has a table of its own.", "Leave --family out.")
        layouts = families_named([instead])
        return _fitting(layouts, config, names) or layouts[0]
    if family is None and model_type in REFUSED:
        raise CheckpointError(
            f"config.json: model_type {model_type!r} is not supported: {REFUSED[model_type]}.",
            "`hyperclone families` lists those that are.",
        )
    if family is None and model_type in WRAPPERS:
        inside = WRAPPERS[model_type].own(config)["model_type"]
        raise CheckpointError(
            f"config.json: the text model inside {model_type} has model_type {inside!r}, which is not supported"
            + (f": {REFUSED[inside]}." if inside in REFUSED else "."),
            "`hyperclone families` lists those that are.",
        )
    if family is None:
        nearest = get_close_matches(model_type, [family.model_type for family in FAMILIES.values()], n=1, cutoff=0.5)
        raise CheckpointError(
            f"config.json: model_type {model_type!r} is not supported.",
            (f"The nearest that is supported is {nearest[0]!r}. " if nearest else "")
            + "`hyperclone families` lists them all; `hyperclone plan` tells whether another's table fits.",
        )
    return family


def families_named(names: Sequence[str]) -> list[Family]:
    """The tables of these names or model_types; all of them for no name. Raises RequestError for an unknown one."""
    for name in names:
        known = [known for family in FAMILIES.values() for known in (family.name, family.model_type)]
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.5)
            raise RequestError(
                f"{name}: no such architecture.", f"Did you mean {nearest[0]!r}?" if nearest else "Leave the name out."
            )
    wanted = set(names)
    return [family for family in FAMILIES.values() if not wanted or wanted & {family.name, family.model_type}]
