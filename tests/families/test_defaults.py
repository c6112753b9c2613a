"""What the tables assume of keys that config.json leaves out."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from hyperclone_cli.families import FAMILIES, Family


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_defaults_are_those_of_transformers(family: Family) -> None:
    """What the table assumes of a key that config.json leaves out. A size that is null follows from other keys."""
    config = AutoConfig.for_model(family.model_type)
    config.allow_global_per_layer_attribute_access = True
    heads = getattr(config, "num_attention_heads", 1)
    follows = {
        "num_key_value_heads": heads,
        "head_dim": config.hidden_size // heads,
        "v_head_dim": config.hidden_size // heads,
        "word_embed_proj_dim": config.hidden_size,
    }
    silent = {key: None for key in follows if key in family.sizes.values()}
    for key, assumed in (silent | {"tie_word_embeddings": False} | dict(family.defaults)).items():
        expected = follows[key] if assumed is None else assumed
        assert (getattr(config, key, None) or expected) == expected, key


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_what_is_false_by_default_is_stated_where_a_condition_asks_for_false(family: Family) -> None:
    """A key without a default is null, which no condition takes for false."""
    config = AutoConfig.for_model(family.model_type)
    conditions = [family.layout.when, *(limit.when for limit in family.limits), *(fold.when for fold in family.folds)]
    asked = {key for when in conditions for key, wanted in when.items() if wanted is False}
    assert [key for key in asked if getattr(config, key, None) is False and key not in family.defaults] == []
