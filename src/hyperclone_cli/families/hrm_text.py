"""HRM Text: two stacks of layers, one inside the other's loop, norms without weights, a gate for each unit of heads."""

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, attention, gated_mlp, sizes, under
from hyperclone_cli.families.olmo import NO_WEIGHTS
from hyperclone_cli.families.statements import Layout, Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import Form, linear, parameter

_GATE = linear("heads value", "embed")
_ON_DISK: dict[str, Form] = {
    "attn.gqkv_proj": linear("heads value | heads query | heads key | heads value", "embed"),
    "attn.o_proj": linear("embed", "heads value"),
    "mlp.gate_up_proj": linear("ffn | ffn", "embed"),
    "mlp.down_proj": linear("embed", "ffn"),
}
_IN_MEMORY = attention("self_attn", "heads") | {"self_attn.gate_proj": _GATE} | gated_mlp("mlp")


def _hrm_text(layout: Layout, layer: dict[str, Form], layers: str) -> Family:
    return Family(
        model_type="hrm_text",
        layout=layout,
        known_as="HRM Text 1B",
        tiny={"H_cycles": 2, "L_cycles": 2},
        sizes=sizes("kv_heads", layers=layers),
        tensors={
            **EMBEDDING_AND_HEAD,
            **under("model.H_module.layers.*", layer),
            **under("model.L_module.layers.*", layer),
            "model.z_L_init": parameter("embed"),
        },
        limits=(
            NO_WEIGHTS,
            Limit("layers", "where config.json counts each layer as often as its stack runs"),
        ),
    )


_SAVED = {"num_layers_per_stack": ...}
FAMILIES = (
    _hrm_text(
        Layout("in memory", _SAVED, "model.H_module.layers.*.self_attn.q_proj"), _IN_MEMORY, "num_layers_per_stack"
    ),
    _hrm_text(Layout("saved by transformers", _SAVED), _ON_DISK, "num_layers_per_stack"),
    _hrm_text(Layout(), _ON_DISK, "num_hidden_layers"),
)
