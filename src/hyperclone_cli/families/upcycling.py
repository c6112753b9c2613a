"""Upcycling: which mixture of experts a dense architecture is written as, and what each part of that is made of.

A pair is a dense table and a mixture's that is the same but for the feed-forward. Every expert is the dense
feed-forward, or a part of its units; the router is random. With weights that sum to 1 over the chosen experts, they
compute what the dense feed-forward does, whatever the router says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperclone_cli.families.granite_moe import GRANITEMOE
from hyperclone_cli.families.mixtral import MIXTRAL
from hyperclone_cli.families.qwen_moe import FLEX_OLMO, QWEN2_MOE, QWEN3_MOE
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.table import Family

_MLP = "model.layers.*.mlp"
_GATE, _UP, _DOWN = (f"{_MLP}.{name}_proj" for name in ("gate", "up", "down"))
_ATTENTION = tuple(f"model.layers.*.self_attn.{name}_proj" for name in ("q", "k", "v", "o"))
_BALANCE = {"output_router_logits": False, "router_aux_loss_coef": 0.001}
"""The loss that balances the experts' load in training, off until `output_router_logits` is true."""


@dataclass(frozen=True)
class Upcycling:
    """How a dense architecture is written as a mixture.

    target       the table of the mixture
    class_name   its class in transformers
    made         module of the mixture → the dense modules whose matrices it is made of, one below the other. What
                 belongs to experts is cut into as many parts as make one feed-forward
    router       the module that is drawn at random
    zeros        modules that are zero
    routed       the part of the output that the chosen experts make; shared experts make the others
    biased       modules that may have a bias in the mixture
    config       what its config.json states besides
    assumed      what transformers assumes of the dense architecture where config.json does not say, and of the mixture
                 otherwise
    limits       dense models that the mixture could not compute
    """

    target: Family
    class_name: str
    made: Mapping[str, tuple[str, ...]]
    router: str
    zeros: tuple[str, ...] = ()
    routed: float = 1.0
    biased: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, Any] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()


def _numbered(experts: str, gate: str, up: str, down: str) -> dict[str, tuple[str, ...]]:
    return {f"{experts}.{name}": (dense,) for name, dense in ((gate, _GATE), (up, _UP), (down, _DOWN))}


_MOE = "model.layers.*.block_sparse_moe"
_EXPERTS = _numbered(f"{_MLP}.experts.*", "gate_proj", "up_proj", "down_proj")
_MIXTRAL = Upcycling(
    MIXTRAL,
    "MixtralForCausalLM",
    _numbered(f"{_MOE}.experts.*", "w1", "w3", "w2"),
    f"{_MOE}.gate",
    config={"sliding_window": None, **_BALANCE},
    assumed={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
)

UPCYCLINGS: Mapping[str, Upcycling] = {
    "llama": _MIXTRAL,
    "mistral": Upcycling(
        MIXTRAL,
        "MixtralForCausalLM",
        _MIXTRAL.made,
        _MIXTRAL.router,
        config=_BALANCE,
        assumed={"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "sliding_window": 4096},
    ),
    # the shared expert is the feed-forward too: its gate, the sigmoid of zero, makes half of the output of it
    "qwen2": Upcycling(
        QWEN2_MOE,
        "Qwen2MoeForCausalLM",
        _EXPERTS | _numbered(f"{_MLP}.shared_expert", "gate_proj", "up_proj", "down_proj"),
        f"{_MLP}.gate",
        zeros=(f"{_MLP}.shared_expert_gate",),
        routed=0.5,
        biased=_ATTENTION[:3],
        config={
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "qkv_bias": True,
            **_BALANCE,
        },
    ),
    "qwen3": Upcycling(
        QWEN3_MOE,
        "Qwen3MoeForCausalLM",
        _EXPERTS,
        f"{_MLP}.gate",
        biased=_ATTENTION,
        config={"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], **_BALANCE},
        limits=(
            Limit(
                "experts", "as a mixture it would have windows in all layers or in none", {"use_sliding_window": True}
            ),
        ),
    ),
    "olmo2": Upcycling(
        FLEX_OLMO,
        "FlexOlmoForCausalLM",
        _EXPERTS,
        f"{_MLP}.gate",
        biased=_ATTENTION,
        config={"norm_topk_prob": True, **_BALANCE},
        assumed={
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "pad_token_id": 1,
            "eos_token_id": 50279,
        },
    ),
    "granite": Upcycling(
        GRANITEMOE,
        "GraniteMoeForCausalLM",
        {f"{_MOE}.input_linear": (_GATE, _UP), f"{_MOE}.output_linear": (_DOWN,)},
        f"{_MOE}.router.layer",
        biased=_ATTENTION,
        config=_BALANCE,
    ),
}
"""model_type of a dense architecture → how it is written as a mixture."""

NO_MIXTURE = {
    "phi3": "its mixture, phimoe, has LayerNorm where Phi 3 has RMSNorm, and a router whose weights do not sum to 1",
}
"""model_type of a dense architecture → why the mixture of its makers cannot compute what it does."""
