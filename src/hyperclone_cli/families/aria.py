"""Aria's text model: experts in two tensors of (in, out), and shared ones of the same width beside them."""

from hyperclone_cli.families.blocks import GATED_MLP, gated_mlp, sizes
from hyperclone_cli.families.llama import LLAMA
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import Layout
from hyperclone_cli.families.vocabulary import Form, bare, conv1d, linear, stacked

_MLP = "model.layers.*.mlp"
_GATE_UP = stacked(conv1d("embed", "experts ffn+ffn"))
_DOWN = stacked(conv1d("ffn", "experts embed"))


def _mixture(gate_up: tuple[str, Form], down: tuple[str, Form]) -> dict[str, Form]:
    return {
        f"{_MLP}.router": linear("experts", "embed"),
        f"{_MLP}.experts.{gate_up[0]}": gate_up[1],
        f"{_MLP}.experts.{down[0]}": down[1],
        **gated_mlp(f"{_MLP}.shared_experts", "shared ffn"),
    }


ARIA = LLAMA.without(*GATED_MLP).variant(
    "aria_text",
    known_as="Aria (text)",
    tiny={"moe_topk": 2},
    sizes=sizes(experts="moe_num_experts", shared="moe_num_shared_experts"),
    tensors=_mixture(("fc1", _GATE_UP), ("fc2", _DOWN)),
    routing=Routing(2, "moe_topk"),
)
IN_MEMORY = LLAMA.without(*GATED_MLP).variant(
    "aria_text",
    layout=Layout("fused experts", module=f"{_MLP}.experts.gate_up_proj"),
    known_as=ARIA.known_as,
    tiny=ARIA.tiny,
    sizes=ARIA.sizes,
    tensors=_mixture(("gate_up_proj", bare(_GATE_UP)), ("down_proj", bare(_DOWN))),
    routing=ARIA.routing,
)

FAMILIES = (IN_MEMORY, ARIA)
