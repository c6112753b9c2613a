"""BioGPT: LayerNorm before each block, learned positions, embeddings multiplied by √hidden_size."""

from hyperclone_cli.families.gpt_neox import GPT_NEOX
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.table import Family, Fold, Layout
from hyperclone_cli.families.vocabulary import embedding, linear, norm, optional

BIOGPT = Family(
    model_type="biogpt",
    known_as="BioGPT",
    sizes=GPT_NEOX.sizes,
    tensors={
        "biogpt.embed_tokens": embedding("vocab", "embed", forward_power=0.5),
        "biogpt.embed_positions": embedding("*", "embed"),
        "biogpt.layers.*.self_attn_layer_norm": norm("embed"),
        "biogpt.layers.*.self_attn.q_proj": linear("heads query", "embed"),
        "biogpt.layers.*.self_attn.k_proj": linear("heads key", "embed"),
        "biogpt.layers.*.self_attn.v_proj": linear("heads value", "embed"),
        "biogpt.layers.*.self_attn.out_proj": linear("embed", "heads value"),
        "biogpt.layers.*.final_layer_norm": norm("embed"),
        "biogpt.layers.*.fc1": linear("ffn", "embed"),
        "biogpt.layers.*.fc2": linear("embed", "ffn"),
        "biogpt.layer_norm": norm("embed"),
        "output_projection": optional(linear("vocab", "embed")),
    },
    defaults={"scale_embedding": True, "tie_word_embeddings": True},
    norm="layer",
    positions=Learned(),
    prefix="biogpt",
    embedding="biogpt.embed_tokens",
    head="output_projection",
    folds=(Fold("biogpt.layer_norm"),),
)
UNSCALED = BIOGPT.variant(
    "biogpt",
    layout=Layout("unscaled embedding", {"scale_embedding": False}),
    known_as="models with scale_embedding false",
    tensors={"biogpt.embed_tokens": embedding("vocab", "embed")},
)

FAMILIES = (UNSCALED, BIOGPT)
