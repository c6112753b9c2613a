"""JetMoE: experts in attention too, each with queries and an output of its own over the same keys and values."""

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, NORMS
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import bias, linear, stacked

_ATTENTION, _MLP = "model.layers.*.self_attention", "model.layers.*.mlp"

JETMOE = Family(
    model_type="jetmoe",
    known_as="JetMoE 8B",
    tiny={"num_experts_per_tok": 2},
    sizes={
        "embed": "hidden_size",
        "ffn": "intermediate_size",
        "heads": "num_key_value_heads",  # as many heads as each chosen expert has
        "head_dim": "kv_channels",
        "experts": "num_local_experts",
        "vocab": "vocab_size",
        "layers": "num_hidden_layers",
    },
    tensors={
        **EMBEDDING_AND_HEAD,
        f"{_ATTENTION}.kv_proj": linear("heads key | heads value", "embed"),
        f"{_ATTENTION}.experts.router.layer": linear("experts", "embed"),
        f"{_ATTENTION}.experts.input_linear": stacked(linear("experts heads query", "embed")),
        f"{_ATTENTION}.experts.output_linear": stacked(linear("experts embed", "heads value")),
        f"{_ATTENTION}.experts.bias": bias("embed"),
        f"{_MLP}.router.layer": linear("experts", "embed"),
        f"{_MLP}.input_linear": stacked(linear("experts ffn+ffn", "embed")),
        f"{_MLP}.output_linear": stacked(linear("experts embed", "ffn")),
        f"{_MLP}.bias": bias("embed"),
        **NORMS,
    },
    routing=Routing(2),
    cache=("heads key", "heads value"),
)

FAMILIES = (JETMOE,)
