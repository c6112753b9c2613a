"""What the tables assume of keys that config.json leaves out."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hyperclone_cli.families import FAMILIES, Family, known_family
from hyperclone_cli.families.text_sizes import CAUSAL_CLASSES, TEXT_SIZES
from hyperclone_cli.families.wrapper import Wrapper
from hyperclone_cli.families.wrappers import WRAPPERS

KNOWN = {name: family for name, family in FAMILIES.items() if family.model_type in CONFIG_MAPPING}
"""The tables of what the installed transformers knows: an older one lacks the newest."""


def model_type_of(family: Family) -> str:
    """That of the config that the keys of a table are in."""
    return family.wrapping.wrapper.text if family.wrapping else family.model_type


@pytest.mark.parametrize("family", KNOWN.values(), ids=list(KNOWN))
def test_defaults_are_those_of_transformers(family: Family) -> None:
    """What the table assumes of a key that config.json leaves out. A size that is null follows from other keys."""
    config = AutoConfig.for_model(model_type_of(family))
    config.allow_global_per_layer_attribute_access = True
    heads = getattr(config, "num_attention_heads", 1)
    follows = {
        "num_key_value_heads": heads,
        "head_dim": config.hidden_size // heads,
        "v_head_dim": config.hidden_size // heads,
        "word_embed_proj_dim": config.hidden_size,
    }
    silent = {key: None for key in follows if key in family.sizes.values()}
    tie = {} if family.wrapping else {"tie_word_embeddings": False}  # a wrapper's is its own, see below
    for key, assumed in (silent | tie | {**family.defaults}).items():
        if family.wrapping and key in (*TEXT_SIZES[model_type_of(family)], "tie_word_embeddings"):
            continue
        expected = follows.get(key) if assumed is None else assumed
        # the class has what is assumed, an instance maybe what it makes of it
        found = {getattr(config, key, None) or expected, getattr(type(config), key, None)}
        assert expected in found, key


@pytest.mark.parametrize("family", KNOWN.values(), ids=list(KNOWN))
def test_what_is_false_by_default_is_stated_where_a_condition_asks_for_false(family: Family) -> None:
    """A key without a default is null, which no condition takes for false."""
    config = AutoConfig.for_model(model_type_of(family))
    conditions = [family.layout.when, *(limit.when for limit in family.limits), *(fold.when for fold in family.folds)]
    asked = {key for when in conditions for key, wanted in when.items() if wanted is False}
    assert [key for key in asked if getattr(config, key, None) is False and key not in family.defaults] == []


@pytest.mark.parametrize("model_type", TEXT_SIZES)
def test_sizes_that_the_text_model_of_a_wrapper_leaves_out_are_those_of_transformers(model_type: str) -> None:
    config = AutoConfig.for_model(model_type)
    config.allow_global_per_layer_attribute_access = True
    for key, assumed in TEXT_SIZES[model_type].items():
        stated = getattr(config, key, assumed)  # a mixture has no width of its own for what is dense
        found = stated[0] if isinstance(stated, list) else stated
        assert found == (config.hidden_size // config.num_attention_heads if assumed is None else assumed), key


def test_classes_of_text_models_are_those_of_transformers() -> None:
    found = {name: MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(name) for name in CAUSAL_CLASSES}
    assert found == CAUSAL_CLASSES
    texts = [FAMILIES[name].wrapping for name in WRAPPERS]
    assert {wrapping.text.model_type for wrapping in texts if wrapping} <= CAUSAL_CLASSES.keys()


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=list(WRAPPERS))
@pytest.mark.parametrize("inside", [None, False, True])
@pytest.mark.parametrize("outside", [None, False, True])
def test_a_wrapper_is_tied_where_transformers_ties_it(
    wrapper: Wrapper, inside: bool | None, outside: bool | None
) -> None:
    """The flag may be the wrapper's, its text model's, both or neither."""
    text = {"model_type": wrapper.text} | ({} if inside is None else {"tie_word_embeddings": inside})
    stated = {wrapper.config: text} | ({} if outside is None else {"tie_word_embeddings": outside})
    family = known_family({"model_type": wrapper.model_type, **stated})
    assert family is not None
    assert family.is_tied(stated) is AutoConfig.for_model(wrapper.model_type, **stated).tie_word_embeddings
