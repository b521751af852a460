"""Blocks that route by a softmax, over all experts or over the chosen ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from oracle.spec import Activation, Routing, Shared
from refmoe.peers.transformers.block import Block
from refmoe.peers.transformers.entries import (
    COUNT,
    FP32_LOGITS,
    FP32_ROUTER,
    FP32_WEIGHTS,
    same_shared,
    sizes,
    tiny,
    whole_shared,
)
from refmoe.peers.transformers.places import (
    EXPERTS,
    flat,
    given,
    half,
    interleaved_bias,
    padded,
    row,
    shared,
    transposed,
)

SOFTMAX = Routing(score="softmax")
RENORMALISED = Routing(score="softmax", renormalize="sum")
CHOSEN = Routing(score="softmax", order="topk_then_score")


class _Gemma4(torch.nn.Module):
    """Router and experts as the decoder layer calls them, without its norms."""

    def __init__(self, models: Any, config: Any) -> None:
        super().__init__()
        self.gate = models.Gemma4TextRouter(config)
        self.experts = models.Gemma4TextExperts(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        _, weights, ids = self.gate(tokens)
        out: torch.Tensor = self.experts(tokens, ids, weights)
        return out


def _dbrx(models: Any, config: Any) -> torch.nn.Module:
    """The block reads the nested config alone."""
    from types import SimpleNamespace

    ffn: torch.nn.Module = models.DbrxFFN(SimpleNamespace(ffn_config=config))
    return ffn


QWEN_SHARED = {
    **EXPERTS,
    **shared("shared_expert"),
    "shared_expert_gate.weight": row("shared_gate"),
}

BLOCKS = (
    Block(
        "mixtral", "MixtralConfig", "MixtralSparseMoeBlock",
        tiny("mixtral", RENORMALISED),
        sizes("intermediate_size", "num_local_experts"), EXPERTS,
        rounds=FP32_WEIGHTS,
    ),
    Block(
        "minimax", "MiniMaxConfig", "MiniMaxSparseMoeBlock",
        tiny("minimax", RENORMALISED),
        sizes("intermediate_size", "num_local_experts"), EXPERTS,
        rounds=FP32_WEIGHTS,
    ),
    Block(
        "qwen2_moe", "Qwen2MoeConfig", "Qwen2MoeSparseMoeBlock",
        tiny("qwen2_moe", SOFTMAX, shared=Shared(24, combine="gated")),
        {**sizes(), "shared_expert_intermediate_size": "shared.intermediate"},
        QWEN_SHARED, {"norm_topk_prob": False}, rounds=FP32_ROUTER,
    ),
    Block(
        "qwen3_moe", "Qwen3MoeConfig", "Qwen3MoeSparseMoeBlock",
        tiny("qwen3_moe", RENORMALISED), sizes(), EXPERTS,
        {"norm_topk_prob": True}, rounds=FP32_ROUTER,
    ),
    Block(
        "qwen3_next", "Qwen3NextConfig", "Qwen3NextSparseMoeBlock",
        tiny("qwen3_next", RENORMALISED, shared=Shared(24, combine="gated")),
        {**sizes(), "shared_expert_intermediate_size": "shared.intermediate"},
        QWEN_SHARED, {"norm_topk_prob": True}, rounds=FP32_ROUTER,
    ),
    Block(
        "olmoe", "OlmoeConfig", "OlmoeSparseMoeBlock",
        tiny("olmoe", SOFTMAX), sizes("intermediate_size"), EXPERTS,
        {"norm_topk_prob": False}, rounds=FP32_ROUTER,
    ),
    Block(
        "jamba", "JambaConfig", "JambaSparseMoeBlock",
        tiny("jamba", SOFTMAX), sizes("intermediate_size"), EXPERTS,
        router="router", rounds=FP32_ROUTER,
    ),
    Block(
        "hunyuan_v1_moe", "HunYuanMoEV1Config", "HunYuanMoEV1Moe",
        tiny("hunyuan_v1_moe", RENORMALISED, shared=Shared(8)),
        sizes("intermediate_size", top_k="moe_topk"),
        {**EXPERTS, **shared("shared_mlp")}, rounds=FP32_LOGITS, arguments=(0,),
        fp32=("gate.wg",), free=("shared.intermediate",), refuses=same_shared,
    ),
    Block(
        "dbrx", "DbrxFFNConfig", _dbrx, tiny("dbrx", RENORMALISED),
        sizes("ffn_hidden_size", "moe_num_experts", "moe_top_k"),
        {
            "experts.mlp.w1": flat(half("gate_up", 0)),
            "experts.mlp.v1": flat(half("gate_up", 1)),
            "experts.mlp.w2": flat(transposed("down")),
        },
        {"moe_normalize_expert_weights": 1.0, "ffn_act_fn": {"name": "silu"}},
        router="router", promotes=False, eager=True,
    ),
    Block(
        "gemma4", "Gemma4TextConfig", _Gemma4,
        tiny(
            "gemma4", replace(RENORMALISED, per_expert_scale=True),
            activation=Activation(kind="geglu_tanh"),
        ),
        sizes(top_k="top_k_experts"),
        {**EXPERTS, "gate.per_expert_scale": given("per_expert_scale")},
        {"enable_moe_block": True}, rounds={"router": "fp32", "weights": "wide"},
    ),
    Block(
        "longcat_flash", "LongcatFlashConfig", "LongcatFlashMoE",
        tiny(
            "longcat_flash",
            Routing(score="softmax", bias="selection", scale=6.0, zero_experts=4),
        ),
        {
            **sizes("expert_ffn_hidden_size", "n_routed_experts", "moe_topk"),
            "zero_expert_num": "routing.zero_experts",
            "routed_scaling_factor": "routing.scale",
        },
        {
            "experts.gate_up_proj": padded,
            "experts.down_proj": given("down"),
            "router.e_score_correction_bias": given("router_bias"),
        },
        router="router", rounds=FP32_LOGITS, eager=True,
    ),
    Block(
        "ernie4_5_moe", "Ernie4_5_MoeConfig", "Ernie4_5_MoeSparseMoeBlock",
        tiny(
            "ernie4_5_moe",
            Routing(
                score="softmax", bias="selection",
                renormalize="max_sum_epsilon", epsilon=1e-12,
            ),
            shared=Shared(16),
        ),
        {
            **sizes("moe_intermediate_size", "moe_num_experts", "moe_k"),
            "moe_num_shared_experts": COUNT,
        },
        {
            **EXPERTS, **shared("shared_experts"),
            "gate.moe_statics.e_score_correction_bias": row("router_bias"),
        },
        {"moe_norm_min": 1e-12}, rounds={**FP32_ROUTER, "logits": "fp32"},
        refuses=whole_shared,
    ),
    Block(
        "granitemoe", "GraniteMoeConfig", "GraniteMoeMoE",
        tiny("granitemoe", CHOSEN),
        sizes("intermediate_size", "num_local_experts"), EXPERTS,
        router="router", rounds=FP32_ROUTER,
    ),
    Block(
        "cohere2_moe", "Cohere2MoeConfig", "Cohere2MoeSparseMoeBlock",
        tiny("cohere2_moe", CHOSEN, shared=Shared(8, combine="average")),
        {**sizes("intermediate_size"), "num_shared_experts": COUNT},
        {**EXPERTS, **shared("shared_experts")},
        {
            "expert_selection_fn": "softmax",
            "shared_expert_combination_strategy": "average",
        },
        rounds=FP32_ROUTER, refuses=whole_shared,
    ),
    Block(
        "gpt_oss", "GptOssConfig", "GptOssMLP",
        tiny(
            "gpt_oss", replace(CHOSEN, bias="logits"),
            activation=Activation(alpha=1.702, beta=1.0, limit=7.0), expert_bias=True,
        ),
        {
            **sizes("intermediate_size", "num_local_experts"),
            "swiglu_alpha": "activation.alpha",
            "swiglu_limit": "activation.limit",
        },
        {
            "experts.gate_up_proj": transposed("gate_up", interleaved=True),
            "experts.gate_up_proj_bias": interleaved_bias,
            "experts.down_proj": transposed("down"),
            "experts.down_proj_bias": given("down_bias"),
            "router.bias": given("router_bias"),
        },
        # The bias joins the sum inside the linear layer: one rounding for both.
        router="router", rounds={"logits": "fp32"},
    ),
    Block(
        "llama4", "Llama4TextConfig", "Llama4TextMoe",
        tiny(
            "llama4", Routing(score="sigmoid", order="topk_then_score"),
            weight_on="input", shared=Shared(8),
        ),
        sizes("intermediate_size", "num_local_experts"),
        {
            "experts.gate_up_proj": transposed("gate_up"),
            "experts.down_proj": transposed("down"),
            **shared("shared_expert"),
        },
        router="router", experts=None, rounds=FP32_ROUTER, eager=True,
        free=("shared.intermediate",), refuses=same_shared,
    ),
    Block(
        "phimoe", "PhimoeConfig", "PhimoeSparseMoeBlock",
        tiny("phimoe", Routing(method="sparsemixer"), top_k=2),
        {
            **sizes("intermediate_size", "num_local_experts"),
            "router_jitter_noise": "routing.jitter",
        },
        EXPERTS, router="router",
    ),
)  # fmt: skip
