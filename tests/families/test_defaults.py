"""What the tables assume of keys that config.json leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING, AutoConfig, __version__
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from config_defaults import FILE, class_default, config_defaults
from hyperclone_cli.families import FAMILIES, Family, known_family
from hyperclone_cli.families.config_defaults import CONFIG_DEFAULTS, defaults_of
from hyperclone_cli.families.text_classes import CAUSAL_CLASSES
from hyperclone_cli.families.wrapper import Wrapper
from hyperclone_cli.families.wrappers import WRAPPERS

KNOWN = {name: family for name, family in FAMILIES.items() if family.model_type in CONFIG_MAPPING}
"""The tables of what the installed transformers knows: an older one lacks the newest."""


PINNED = Path(__file__).parents[2] / ".ci/constraints.txt"


@pytest.mark.skipif(f"transformers=={__version__}\n" not in PINNED.read_text(), reason="the file is of another release")
def test_the_file_of_defaults_is_that_of_transformers() -> None:
    """What its config classes have for each key that a table asks for."""
    assert FILE.read_text() == config_defaults(), "make docs writes it anew"


@pytest.mark.parametrize("family", KNOWN.values(), ids=list(KNOWN))
def test_a_table_states_defaults_of_no_field_of_the_class(family: Family) -> None:
    """Beside these, it states what the class makes of further keys, which an instance has then."""
    if family.wrapping:
        return
    config_class = CONFIG_MAPPING[family.model_type]
    fields = {key: class_default(config_class, key) for key in family.defaults}
    inherited = {key for key, default in fields.items() if default is not None}
    assert {key: fields[key] for key in inherited} == {key: family.assumed[key] for key in inherited}
    config = config_class()
    for key in family.defaults.keys() - inherited:
        assert getattr(config, key, family.defaults[key]) in (family.defaults[key], None), key


@pytest.mark.parametrize("family", KNOWN.values(), ids=list(KNOWN))
def test_a_size_without_a_default_follows_from_others(family: Family) -> None:
    config = AutoConfig.for_model(family.wrapping.wrapper.text if family.wrapping else family.model_type)
    config.allow_global_per_layer_attribute_access = True
    heads = getattr(config, "num_attention_heads", 1)
    follows = {"num_key_value_heads": heads, "word_embed_proj_dim": config.hidden_size}
    follows |= dict.fromkeys(("head_dim", "v_head_dim"), config.hidden_size // heads)
    for key in (follows.keys() & set(family.sizes.values())) - family.assumed.keys():
        assert (getattr(config, key, None) or follows[key]) == follows[key], key


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "deepseek_v3", "phi3"])
def test_sizes_that_the_text_model_of_a_wrapper_leaves_out_are_those_of_transformers(model_type: str) -> None:
    config = AutoConfig.for_model(model_type)
    for key, assumed in CONFIG_DEFAULTS[model_type].items():
        assert getattr(config, key) == assumed, key
    assert not defaults_of(model_type).keys() & {"hidden_size", "num_hidden_layers"}


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
