"""ModernBERT's decoder (Ettin): LayerNorm, halves of an input and a gate, and a layer of its own before the head."""

from hyperclone_cli.families.blocks import attention, norms
from hyperclone_cli.families.layer_rules import LAYER_TYPES
from hyperclone_cli.families.statements import Fold, Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import embedding, in_some_layers, linear, norm, optional, post_norm

MODERNBERT_DECODER = Family(
    model_type="modernbert-decoder",
    known_as="Ettin decoders",
    tiny={"layer_types": ["sliding_attention", "full_attention"]},
    sizes={
        "embed": "hidden_size",
        "ffn": "intermediate_size",
        "heads": "num_attention_heads",
        "vocab": "vocab_size",
        "layers": "num_hidden_layers",
    },
    tensors={
        "model.embeddings.tok_embeddings": embedding("vocab", "embed"),
        **attention("model.layers.*.attn", keys="heads", out="Wo"),
        "model.layers.*.mlp.Wi": linear("ffn | ffn", "embed"),
        "model.layers.*.mlp.Wo": linear("embed", "ffn"),
        "model.embeddings.norm": post_norm("embed"),  # stands for that before the first layer's attention
        "model.layers.*.attn_norm": in_some_layers(norm("embed")),
        **norms("model.layers.*.mlp_norm", "model.final_norm"),
        "lm_head.dense": linear("embed", "embed"),
        "lm_head.norm": norm("embed"),
        "decoder": optional(linear("vocab", "embed")),
    },
    folds=(Fold("lm_head.norm"),),
    norm="layer",
    limits=(Limit("layers", "whose first layer alone has no norm before its attention"),),
    layer_rules=(LAYER_TYPES,),
)

FAMILIES = (MODERNBERT_DECODER,)
