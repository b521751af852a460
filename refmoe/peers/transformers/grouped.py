"""DeepSeek's blocks and their kin: groups of experts, and the hash router."""

from __future__ import annotations

from dataclasses import replace

from oracle.spec import Activation, Layer, Routing, Shared
from refmoe.peers.transformers.block import Block, Derived
from refmoe.peers.transformers.entries import (
    COUNT,
    FP32_LOGITS,
    paired_groups,
    same_shared,
    sizes,
    tiny,
    whole_shared,
)
from refmoe.peers.transformers.places import BIAS, EXPERTS, given, shared
from refmoe.peers.transformers.sigmoid import ALL_SHARED, raised

V3 = raised(1e-20, groups=4, top_groups=2, group_score="top2", scale=2.5)
V4 = raised(1e-20, score="sqrtsoftplus", scale=1.5)
CLAMPED = Activation(limit=10.0)
#: DeepSeek's own code divides by the bare sum.
BARE_SUM = {"routing.renormalize": "sum", "routing.epsilon": 0.0}

GROUPS = {
    "n_group": "routing.groups",
    "topk_group": "routing.top_groups",
    "routed_scaling_factor": "routing.scale",
}
V3_READS: dict[str, str | Derived] = {
    **sizes(experts="n_routed_experts"),
    **GROUPS,
    "n_shared_experts": COUNT,
}
V4_READS: dict[str, str | Derived] = {
    **sizes(experts="n_routed_experts"),
    "routed_scaling_factor": "routing.scale",
    "swiglu_limit": "activation.limit",
}


def _kept_suffice(layer: Layer) -> str | None:
    """A chosen expert of a group left out gets weight 0 here, else its score."""
    kept = layer.experts // layer.routing.groups * layer.routing.top_groups
    if layer.top_k > kept:
        return f"top_k={layer.top_k}; the kept groups have {kept} experts"
    return whole_shared(layer)


def _v3(name: str, config: str, module: str, folder: str = "") -> Block:
    """A block that copies DeepSeek-V3's."""
    return Block(
        name, config, module, tiny(name, V3, shared=Shared(16)),
        V3_READS, ALL_SHARED, {"norm_topk_prob": True},
        departs=BARE_SUM, rounds=FP32_LOGITS, folder=folder, refuses=paired_groups,
    )  # fmt: skip


BLOCKS = (
    Block(
        "deepseek_v2", "DeepseekV2Config", "DeepseekV2Moe",
        tiny(
            "deepseek_v2",
            Routing(groups=4, top_groups=2, masked_fill="zero", scale=16.0),
            shared=Shared(16),
        ),
        {
            **V3_READS,
            "topk_method": (
                "routing.groups",
                lambda layer: (
                    "group_limited_greedy" if layer.routing.groups > 1 else "greedy"
                ),
            ),
        },
        {**EXPERTS, **shared("shared_experts")}, {"num_attention_heads": 2},
        departs={"routing.masked_fill": "-inf"}, rounds=FP32_LOGITS,
        refuses=_kept_suffice,
    ),
    _v3("deepseek_v3", "DeepseekV3Config", "DeepseekV3MoE"),
    _v3("deepseek_v32", "DeepseekV32Config", "DeepseekV32MoE"),
    _v3("glm4_moe", "Glm4MoeConfig", "Glm4MoeMoE"),
    _v3("glm_moe_dsa", "GlmMoeDsaConfig", "GlmMoeDsaMoE"),
    _v3("dots1", "Dots1Config", "Dots1MoE"),
    _v3("solar_open", "SolarOpenConfig", "SolarOpenMoE"),
    Block(
        "glm5_next", "Glm5NextTextConfig", "Glm5NextTextMoE",
        tiny("glm5_next", V3, activation=CLAMPED, shared=Shared(16)),
        {**V3_READS, "swiglu_limit": "activation.limit"}, ALL_SHARED,
        {"norm_topk_prob": True}, rounds=FP32_LOGITS, refuses=paired_groups,
    ),
    Block(
        "hy_v4", "HYV4Config", "HYV4MoE",
        tiny(
            "hy_v4", V3, activation=CLAMPED, shared=Shared(16, activation=Activation())
        ),
        {**V3_READS, "swiglu_limit": "activation.limit"}, ALL_SHARED,
        {"norm_topk_prob": True}, rounds=FP32_LOGITS, refuses=paired_groups,
    ),
    Block(
        "nemotron_h", "NemotronHConfig", "NemotronHMoE",
        tiny("nemotron_h", V3, activation=Activation(kind="relu2"), shared=Shared(24)),
        {
            **sizes(experts="n_routed_experts"), **GROUPS,
            "moe_shared_expert_intermediate_size": "shared.intermediate",
        },
        {
            **BIAS,
            "experts.up_proj": given("gate_up"),
            "experts.down_proj": given("down"),
            "shared_experts.up_proj.weight": given("shared_gate_up"),
            "shared_experts.down_proj.weight": given("shared_down"),
        },
        {"norm_topk_prob": True},
        rounds={**FP32_LOGITS, "weighted": "fp32", "combine": "narrow"},
    ),
    Block(
        "mistral4", "Mistral4Config", "Mistral4MoE",
        tiny(
            "mistral4",
            replace(V3, score="softmax", bias="none", masked_fill="zero", scale=1.0),
            shared=Shared(16),
        ),
        V3_READS, {**EXPERTS, **shared("shared_experts")},
        {"norm_topk_prob": True}, refuses=paired_groups,
    ),
    Block(
        "deepseek_v4", "DeepseekV4Config", "DeepseekV4SparseMoeBlock",
        tiny("deepseek_v4", V4, activation=CLAMPED, shared=Shared(8)),
        V4_READS, ALL_SHARED, {"mlp_layer_types": ["moe"], "num_hidden_layers": 1},
        departs={**BARE_SUM, "weight_on": "intermediate"},
        arguments=(0,), free=("shared.intermediate",), refuses=same_shared,
    ),
    Block(
        "deepseek_v4_hash", "DeepseekV4Config", "DeepseekV4SparseMoeBlock",
        tiny(
            "deepseek_v4_hash", replace(V4, method="hash", bias="none"),
            activation=CLAMPED, shared=Shared(8),
        ),
        V4_READS,
        {
            **EXPERTS, **shared("shared_experts"), "gate.tid2eid": given("hash_table"),
        },
        {"mlp_layer_types": ["hash_moe"], "num_hidden_layers": 1},
        departs={**BARE_SUM, "weight_on": "intermediate"}, folder="deepseek_v4",
        arguments=(0,), free=("shared.intermediate",), refuses=same_shared,
    ),
)  # fmt: skip
