"""BioGPT: LayerNorm before each block, learned positions, embeddings multiplied by √hidden_size."""

from hyperclone_cli.families.blocks import attention, mlp, norms, sizes
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.statements import Layout
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import embedding, linear, optional

BIOGPT = Family(
    model_type="biogpt",
    known_as="BioGPT",
    sizes=sizes("kv_heads", "head_dim"),
    tensors={
        "biogpt.embed_tokens": embedding("vocab", "embed", forward_power=0.5),
        "biogpt.embed_positions": embedding("*", "embed"),
        **attention("biogpt.layers.*.self_attn", "heads", "out_proj"),
        **mlp("biogpt.layers.*", "fc1", "fc2"),
        **norms("biogpt.layers.*.self_attn_layer_norm", "biogpt.layers.*.final_layer_norm", "biogpt.layer_norm"),
        "output_projection": optional(linear("vocab", "embed")),
    },
    norm="layer",
    positions=Learned(),
)
UNSCALED = BIOGPT.variant(
    "biogpt",
    layout=Layout("unscaled embedding", {"scale_embedding": False}),
    known_as="models with scale_embedding false",
    tensors={"biogpt.embed_tokens": embedding("vocab", "embed")},
)

FAMILIES = (UNSCALED, BIOGPT)
