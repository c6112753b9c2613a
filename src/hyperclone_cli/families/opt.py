"""OPT: LayerNorm before each block (125m) or after it (350m), learned positions.

opt-350m embeds in a narrower width, `proj`, and projects in and out of the residual stream. Where
the two widths are equal there is no projection and `proj` is the residual stream itself.
"""

from hyperclone_cli.families.blocks import attention, mlp
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.statements import Fold, Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import drop, embedding, linear, norm, optional

OPT = Family(
    model_type="opt",
    known_as="OPT 125m to 66b, 350m too",
    sizes={
        "embed": "hidden_size",
        "proj": "word_embed_proj_dim",
        "ffn": "ffn_dim",
        "heads": "num_attention_heads",
        "vocab": "vocab_size",
        "layers": "num_hidden_layers",
    },
    tensors={
        "model.decoder.embed_tokens": embedding("vocab", "proj"),
        "model.decoder.project_in": optional(linear("embed", "proj")),
        "model.decoder.embed_positions": embedding("*", "embed"),
        "model.decoder.layers.*.self_attn_layer_norm": optional(norm("embed")),
        **attention("model.decoder.layers.*.self_attn", "heads", "out_proj"),
        "model.decoder.layers.*.final_layer_norm": optional(norm("embed")),
        **mlp("model.decoder.layers.*", "fc1", "fc2"),
        "model.decoder.final_layer_norm": optional(norm("embed")),
        "model.decoder.project_out": optional(linear("proj", "embed")),
        "model.decoder.version": drop("the format's number in fairseq"),
        "lm_head": optional(linear("vocab", "proj")),
    },
    norm="layer",
    positions=Learned(),
    folds=(
        Fold("model.decoder.final_layer_norm", when={"do_layer_norm_before": True, "_remove_final_layer_norm": False}),
        Fold("model.decoder.layers.-1.final_layer_norm", when={"do_layer_norm_before": False}),
    ),
    limits=(
        Limit(
            "pads",
            "norms after the residual sum leave no room for padding in the stream",
            {"do_layer_norm_before": False},
        ),
        Limit(
            "layers",
            "where norms follow the residual sum, so that no layer leaves the stream as it is",
            {"do_layer_norm_before": False},
        ),
        Limit("pads", "without its final norm the head reads the stream itself", {"_remove_final_layer_norm": True}),
        Limit("pads", "norms without weights cannot make up for padding", {"layer_norm_elementwise_affine": False}),
    ),
)

FAMILIES = (OPT,)
