"""OPT: LayerNorm before each block (125m) or after it (350m), learned positions.

opt-350m embeds in a narrower width, `proj`, and projects in and out of the residual stream. Where
the two widths are equal there is no projection and `proj` is the residual stream itself.
"""

from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.table import Family, Fold, Limit
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
        "model.decoder.layers.*.self_attn.q_proj": linear("heads query", "embed"),
        "model.decoder.layers.*.self_attn.k_proj": linear("heads key", "embed"),
        "model.decoder.layers.*.self_attn.v_proj": linear("heads value", "embed"),
        "model.decoder.layers.*.self_attn.out_proj": linear("embed", "heads value"),
        "model.decoder.layers.*.final_layer_norm": optional(norm("embed")),
        "model.decoder.layers.*.fc1": linear("ffn", "embed"),
        "model.decoder.layers.*.fc2": linear("embed", "ffn"),
        "model.decoder.final_layer_norm": optional(norm("embed")),
        "model.decoder.project_out": optional(linear("proj", "embed")),
        "model.decoder.version": drop("the format's number in fairseq"),
        "lm_head": optional(linear("vocab", "proj")),
    },
    defaults={
        "word_embed_proj_dim": None,
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "tie_word_embeddings": True,
    },
    norm="layer",
    positions=Learned(),
    embedding="model.decoder.embed_tokens",
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
        Limit("pads", "without its final norm the head reads the stream itself", {"_remove_final_layer_norm": True}),
        Limit("pads", "norms without weights cannot make up for padding", {"layer_norm_elementwise_affine": False}),
    ),
)

FAMILIES = (OPT,)
