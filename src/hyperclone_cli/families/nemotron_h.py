"""Nemotron-H: every layer is one block alone, of Mamba 2, attention without positions, feed-forward or experts."""

from hyperclone_cli.families.blocks import attention, mlp, norms, sizes, under
from hyperclone_cli.families.layer_rules import Listed, Spelt
from hyperclone_cli.families.mamba2 import MIXER, NORMED
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.routing import in_groups
from hyperclone_cli.families.statements import Layout
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import bare, embedding, in_layers, linear, optional, parameter, stacked


def _nemotron_h(base: str, layout: Layout, fused: bool) -> Family:
    mixer = f"{base}.layers.*.mixer"
    numbered = {
        f"{mixer}.experts.*.up_proj": linear("moe_ffn", "embed"),
        f"{mixer}.experts.*.down_proj": linear("embed", "moe_ffn"),
    }
    together = {
        f"{mixer}.experts.up_proj": stacked(bare(linear("experts moe_ffn", "embed"))),
        f"{mixer}.experts.down_proj": stacked(bare(linear("experts embed", "moe_ffn"))),
    }
    return Family(
        model_type="nemotron_h",
        layout=layout,
        known_as="Nemotron-H, Nemotron Nano 2 and 3",
        tiny={
            "layers_block_type": ["linear_attention", "full_attention", "moe", "mlp"],
            "num_hidden_layers": 4,
            "num_experts_per_tok": 2,
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "n_groups": 2,
            "ssm_state_size": 8,
            "chunk_size": 8,
        },
        sizes=sizes(
            moe_ffn="moe_intermediate_size",
            shared_ffn="moe_shared_expert_intermediate_size",
            experts="n_routed_experts",
            ssm_heads="mamba_num_heads",
            ssm_value="mamba_head_dim",
            ssm_groups="n_groups",
            ssm_state="ssm_state_size",
        ),
        tensors={
            f"{base}.embeddings": embedding("vocab", "embed"),
            **in_layers("mamba", under(mixer, MIXER)),
            **in_layers("attention", attention(mixer)),
            **in_layers("mlp", mlp(mixer, "up_proj", "down_proj")),
            **in_layers(
                "experts",
                {
                    f"{mixer}.gate": linear("experts", "embed"),
                    f"{mixer}.gate.e_score_correction_bias": parameter("experts"),
                    **(together if fused else numbered),
                    f"{mixer}.shared_experts.up_proj": linear("shared_ffn", "embed"),
                    f"{mixer}.shared_experts.down_proj": linear("embed", "shared_ffn"),
                },
            ),
            **norms(f"{base}.layers.*.norm", f"{base}.norm_f"),
            "lm_head": optional(linear("vocab", "embed")),
        },
        routing=in_groups(2),
        positions=Learned(),
        limits=(NORMED,),
        layer_rules=(Listed("layers_block_type"), Spelt("hybrid_override_pattern")),
    )


FAMILIES = (
    _nemotron_h("model", Layout("in memory", module="model.embeddings"), fused=True),
    _nemotron_h("backbone", Layout(), fused=False),
)
