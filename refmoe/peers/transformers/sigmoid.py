"""Blocks that score each expert alone, most with a bias on the selection key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oracle.spec import Activation, Layer, Routing, Shared
from refmoe.peers.transformers.block import Block, lookup
from refmoe.peers.transformers.entries import (
    COUNT,
    FP32_LOGITS,
    FP32_ROUTER,
    FP32_WEIGHTS,
    sizes,
    tiny,
    weighted_shared,
    whole_shared,
)
from refmoe.peers.transformers.places import (
    BIAS,
    EXPERTS,
    given,
    half,
    shared,
    split,
    split_columns,
)

BIASED = Routing(score="sigmoid", bias="selection", renormalize="sum")
ALL_SHARED = {**EXPERTS, **BIAS, **shared("shared_experts")}
GPT_OSS = Activation(alpha=1.702, beta=1.0, limit=7.0)


def raised(epsilon: float, **changes: Any) -> Routing:
    """Sigmoid with a selection bias, weights divided by their sum plus `epsilon`."""
    return replace(BIASED, renormalize="sum_plus_epsilon", epsilon=epsilon, **changes)


def _shared_limit(layer: Layer) -> list[float | None]:
    return [lookup(layer, "shared.activation.limit")]


BLOCKS = (
    Block(
        "minimax_m2", "MiniMaxM2Config", "MiniMaxM2SparseMoeBlock",
        tiny("minimax_m2", BIASED), sizes("intermediate_size", "num_local_experts"),
        {**EXPERTS, "e_score_correction_bias": given("router_bias")},
        rounds=FP32_WEIGHTS,
    ),
    Block(
        "minimax_m3", "MiniMaxM3VLTextConfig", "MiniMaxM3VLSparseMoeBlock",
        tiny(
            "minimax_m3", replace(BIASED, scale=2.0, scale_on="sum"),
            activation=GPT_OSS, shared=Shared(24),
        ),
        {
            **sizes("intermediate_size", "num_local_experts"),
            "shared_intermediate_size": "shared.intermediate",
            "routed_scaling_factor": "routing.scale",
            "swiglu_alpha": "activation.alpha",
            "swiglu_limit": "activation.limit",
        },
        {
            **EXPERTS, **BIAS,
            "shared_experts.gate_up_proj.weight": given("shared_gate_up"),
            "shared_experts.down_proj.weight": given("shared_down"),
        },
        folder="minimax_m3_vl", rounds=FP32_WEIGHTS,
    ),
    Block(
        "step3p7", "Step3p7TextConfig", "Step3p7SparseMoeBlock",
        tiny(
            "step3p7", replace(BIASED, scale=3.0, scale_on="sum"),
            activation=Activation(limit=1.0, clamp="after"),
            shared=Shared(24, activation=Activation(limit=2.0, clamp="after")),
        ),
        {
            **sizes(experts="n_routed_experts"),
            "share_expert_dim": "shared.intermediate",
            "moe_router_scaling_factor": "routing.scale",
            "swiglu_limits": (
                "activation.limit", lambda layer: [layer.activation.limit]
            ),
            "swiglu_limits_shared": ("shared.activation.limit", _shared_limit),
        },
        ALL_SHARED, {"num_hidden_layers": 1}, rounds=FP32_WEIGHTS, arguments=(0,),
        eager=True,
    ),
    Block(
        "laguna", "LagunaConfig", "LagunaSparseMoeBlock",
        tiny(
            "laguna", replace(BIASED, softcap=5.0, scale=2.5, scale_on="sum"),
            shared=Shared(24),
        ),
        {
            **sizes(),
            "shared_expert_intermediate_size": "shared.intermediate",
            "moe_routed_scaling_factor": "routing.scale",
            "moe_router_logit_softcapping": (
                "routing.softcap", lambda layer: layer.routing.softcap or 0.0
            ),
        },
        ALL_SHARED, rounds=FP32_ROUTER,
    ),
    Block(
        "afmoe", "AfmoeConfig", "AfmoeSparseMoeBlock",
        tiny("afmoe", raised(1e-20, scale=2.5), shared=Shared(16)),
        {**sizes(), "num_shared_experts": COUNT, "route_scale": "routing.scale"},
        {
            **EXPERTS, **shared("shared_experts"),
            "expert_bias": given("router_bias"),
        },
        router="router", rounds=FP32_WEIGHTS, refuses=whole_shared,
    ),
    Block(
        "lfm2_moe", "Lfm2MoeConfig", "Lfm2MoeSparseMoeBlock",
        tiny("lfm2_moe", raised(1e-6)),
        {**sizes(), "routed_scaling_factor": "routing.scale"},
        {**EXPERTS, "expert_bias": given("router_bias")},
        {"norm_topk_prob": True, "use_expert_bias": True}, fp32=("expert_bias",),
    ),
    Block(
        "hy_v3", "HYV3Config", "HYV3MoE",
        tiny("hy_v3", raised(1e-20, scale=2.8), shared=Shared(8)),
        {
            **sizes(), "num_shared_experts": COUNT,
            "router_scaling_factor": "routing.scale",
        },
        {
            **EXPERTS, **shared("shared_experts"),
            "e_score_correction_bias": given("router_bias"),
        },
        {"enable_moe_fp32_combine": False}, rounds=FP32_LOGITS, refuses=whole_shared,
    ),
    Block(
        "inkling", "InklingTextConfig", "InklingMoE",
        tiny(
            "inkling", replace(BIASED, scale=8.0, shared_logits=2),
            shared=Shared(16, count=2, combine="weighted"),
        ),
        {
            **sizes(experts="n_routed_experts"), "n_shared_experts": COUNT,
            "route_scale": "routing.scale",
        },
        {
            **EXPERTS, **BIAS,
            "shared_experts.gate_proj": split(half("shared_gate_up", 0)),
            "shared_experts.up_proj": split(half("shared_gate_up", 1)),
            "shared_experts.down_proj": split_columns,
        },
        rounds={**FP32_ROUTER, "logits": "fp32"}, refuses=weighted_shared,
        free=("shared.count", "routing.shared_logits"),
    ),
    Block(
        "inkling2", "Inkling2TextConfig", "Inkling2SparseMoeBlock",
        tiny(
            "inkling2", raised(1e-20, scale=8.0),
            activation=Activation(kind="softcap"),
        ),
        {
            **sizes(experts="n_routed_experts"),
            "route_scale": "routing.scale",
            "mlp_gate_softcap": "activation.gate_cap",
            "mlp_up_softcap": "activation.up_cap",
        },
        {**EXPERTS, **BIAS}, {"scoring_func": "sigmoid"},
        rounds={
            **FP32_LOGITS, "gate_up": "narrow", "activation": "fp32",
            "combine": "fp32", "weighted": "fp32",
        },
    ),
)  # fmt: skip
