"""Routers of transformers 5.23.0 as witnesses of the oracle's routing.

A router module is given the identity as its weight, so that its hidden states are the
logits. Where the module computes in float64 it must agree to 1e-12; where it forces
float32, or runs in bf16, it must lie within the bounds of that declaration.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from oracle.numerics import PRESETS, Numerics
from oracle.params import Params
from oracle.routing import Routed, dense, route
from oracle.spec import Layer, Routing

pytest.importorskip("transformers")

E, K, SHARED = 16, 4, 2
Answer = tuple[torch.Tensor, torch.Tensor]
#: (module, logits, bias) -> (ids, weights)
Call = Callable[[Any, torch.Tensor, torch.Tensor], Answer]


@dataclass(frozen=True)
class Peer:
    """One router class: where it is, what it is told, and what we call it."""

    module: str
    router: str
    routing: Routing
    config: dict[str, Any] = field(default_factory=dict)
    bias: str | None = None
    weight: str = "weight"
    call: Call | None = None
    #: float32 is forced inside, whatever the module's type.
    forced: bool = True
    k: int = K


def last_two(module: Any, x: torch.Tensor, bias: torch.Tensor) -> Answer:
    _, weights, ids = module(x)[:3]
    return ids, weights


def with_bias(module: Any, x: torch.Tensor, bias: torch.Tensor) -> Answer:
    _, weights, ids = module(x, bias)
    return ids, weights


def batched_with_bias(module: Any, x: torch.Tensor, bias: torch.Tensor) -> Answer:
    _, weights, ids = module(x[None], bias)
    return ids, weights


def llama4(module: Any, x: torch.Tensor, bias: torch.Tensor) -> Answer:
    ids = x.topk(K, dim=1).indices
    return ids, module(x)[0].gather(1, ids)


def dbrx(module: Any, x: torch.Tensor, bias: torch.Tensor) -> Answer:
    weights, ids = module.route_tokens_to_experts(x)
    return ids, weights


NAMES = {
    "hidden_size": E, "num_experts": E, "num_local_experts": E, "n_routed_experts": E,
    "num_experts_per_tok": K, "top_k_experts": K, "moe_topk": K,
    "norm_topk_prob": True, "routed_scaling_factor": 2.5, "n_group": 4, "topk_group": 2,
    "router_jitter_noise": 0.01, "input_jitter_noise": 0.0, "rms_norm_eps": 1e-6,
}  # fmt: skip
SUM = Routing("softmax", renormalize="sum")
RAW = Routing("softmax")
V3 = Routing(
    "sigmoid", bias="selection", groups=4, top_groups=2, group_score="top2",
    renormalize="sum_plus_epsilon", epsilon=1e-20, scale=2.5,
)  # fmt: skip
FREE = Routing("sigmoid", bias="selection", renormalize="sum")
V4 = Routing(
    "sqrtsoftplus", bias="selection", renormalize="sum_plus_epsilon", epsilon=1e-20,
    scale=1.5,
)  # fmt: skip
CORRECTION = "e_score_correction_bias"

PEERS = {
    "mixtral": Peer("mixtral", "MixtralTopKRouter", SUM),
    "qwen2": Peer("qwen2_moe", "Qwen2MoeTopKRouter", RAW, {"norm_topk_prob": False}),
    "qwen3": Peer("qwen3_moe", "Qwen3MoeTopKRouter", SUM),
    "jamba": Peer("jamba", "JambaTopKRouter", RAW),
    "olmoe": Peer("olmoe", "OlmoeTopKRouter", RAW, {"norm_topk_prob": False}),
    "hunyuan": Peer("hunyuan_v1_moe", "HunYuanMoEV1Gate", SUM, weight="wg.weight"),
    "dbrx": Peer(
        "dbrx", "DbrxFFN", SUM, weight="", call=dbrx, forced=False,
        config={"ffn_config": SimpleNamespace(
            hidden_size=E, ffn_hidden_size=4, moe_num_experts=E, moe_top_k=K,
            moe_jitter_eps=None, moe_normalize_expert_weights=1,
            ffn_act_fn={"name": "silu"},
        )},
    ),
    "gemma4": Peer(
        "gemma4", "Gemma4TextRouter",
        Routing("softmax", renormalize="sum", per_expert_scale=True),
        weight="proj.weight",
    ),
    "gpt_oss": Peer(
        "gpt_oss", "GptOssTopKRouter",
        Routing("softmax", "topk_then_score", bias="logits"), bias="bias", forced=False,
    ),
    "granite": Peer(
        "granitemoe", "GraniteMoeTopKRouter", Routing("softmax", "topk_then_score")
    ),
    "cohere2_softmax": Peer(
        "cohere2_moe", "Cohere2MoeTopKRouter", Routing("softmax", "topk_then_score"),
        {"expert_selection_fn": "softmax"},
    ),
    "cohere2_sigmoid": Peer(
        "cohere2_moe", "Cohere2MoeTopKRouter",
        Routing("sigmoid", "topk_then_score", renormalize="sum"),
        {"expert_selection_fn": "sigmoid"}, forced=False,
    ),
    "llama4": Peer(
        "llama4", "Llama4Router", Routing("sigmoid", "topk_then_score"), call=llama4
    ),
    "phimoe": Peer(
        "phimoe", "PhimoeTopKRouter", Routing(method="sparsemixer"), k=2, forced=False,
        config={"num_experts_per_tok": 2},
    ),
    "deepseek_v2_greedy": Peer(
        "deepseek_v2", "DeepseekV2TopkRouter", Routing("softmax", scale=2.5),
        {"topk_method": "greedy"},
    ),
    "deepseek_v2_groups": Peer(
        "deepseek_v2", "DeepseekV2TopkRouter",
        Routing("softmax", groups=4, top_groups=2, masked_fill="zero", scale=2.5),
        {"topk_method": "group_limited_greedy"},
    ),
    "deepseek_v3": Peer("deepseek_v3", "DeepseekV3TopkRouter", V3, bias=CORRECTION),
    "glm4": Peer("glm4_moe", "Glm4MoeTopkRouter", V3, bias=CORRECTION),
    "axk2": Peer(
        "axk2", "AXK2TopkRouter", replace(V3, masked_fill="zero"), bias=CORRECTION
    ),
    "mistral4": Peer(
        "mistral4", "Mistral4TopkRouter",
        Routing(
            "softmax", groups=4, top_groups=2, group_score="top2", masked_fill="zero",
            renormalize="sum_plus_epsilon", epsilon=1e-20, scale=2.5,
        ),
        forced=False,
    ),
    "deepseek_v4": Peer(
        "deepseek_v4", "DeepseekV4TopKRouter", V4,
        {"scoring_func": "sqrtsoftplus", "routed_scaling_factor": 1.5},
        bias=CORRECTION, forced=False,
    ),
    "ernie": Peer(
        "ernie4_5_moe", "Ernie4_5_MoeTopKRouter",
        Routing(
            "softmax", bias="selection", renormalize="max_sum_epsilon", epsilon=1e-12
        ),
        {"moe_norm_min": 1e-12}, bias="moe_statics.e_score_correction_bias",
    ),
    "minimax_m2": Peer("minimax_m2", "MiniMaxM2TopKRouter", FREE, call=with_bias),
    "minimax_m3": Peer(
        "minimax_m3_vl", "MiniMaxM3VLTopKRouter",
        Routing(
            "sigmoid", bias="selection", renormalize="sum", scale=2.0, scale_on="sum"
        ),
        bias=CORRECTION,
    ),
    "step": Peer("step3p7", "Step3p7TopKRouter", FREE, bias=CORRECTION),
    "laguna": Peer(
        "laguna", "LagunaTopKRouter",
        Routing("sigmoid", bias="selection", renormalize="sum", softcap=5.0),
        {"moe_router_logit_softcapping": 5.0}, bias=CORRECTION,
    ),
    "afmoe": Peer(
        "afmoe", "AfmoeTokenChoiceRouter",
        Routing("sigmoid", bias="selection", renormalize="sum_plus_epsilon",
                epsilon=1e-20, scale=2.826),
        {"route_scale": 2.826}, weight="gate.weight", call=batched_with_bias,
    ),
    "hy_v3": Peer(
        "hy_v3", "HYV3TopKRouter",
        Routing("sigmoid", bias="selection", renormalize="sum_plus_epsilon",
                epsilon=1e-20, scale=2.826),
        {"router_scaling_factor": 2.826}, call=with_bias,
    ),
    "lfm2": Peer(
        "lfm2_moe", "Lfm2MoeTopKRouter",
        Routing("sigmoid", bias="selection", renormalize="sum_plus_epsilon",
                epsilon=1e-6, scale=2.5),
        {"use_expert_bias": True}, call=with_bias, forced=False,
    ),
    "muse": Peer(
        "muse_spark", "MuseSparkTopkRouter",
        Routing("sigmoid", bias="selection", renormalize="sum_plus_epsilon",
                epsilon=1e-15, scale=2.5, logits_scale=0.1767766952966369),
        {"output_multiplier": 0.1767766952966369}, bias=CORRECTION,
    ),
    "flint": Peer("flint", "FlintTopKRouter", Routing("sigmoid", renormalize="sum")),
    "kolibri": Peer(
        "kolibri1", "Kolibri1TopKRouter",
        Routing("sigmoid", "topk_then_score", bias="selection", renormalize="sum"),
        bias=CORRECTION,
    ),
    "longcat": Peer(
        "longcat_flash", "LongcatFlashTopkRouter",
        Routing("softmax", bias="selection", scale=2.5, zero_experts=4),
        {"n_routed_experts": E - 4, "num_local_experts": E - 4, "zero_expert_num": 4},
        bias=CORRECTION, weight="classifier.weight",
    ),
}  # fmt: skip


def build(peer: Peer, dtype: torch.dtype, bias: torch.Tensor) -> Any:
    """The router in evaluation mode, every parameter and buffer filled."""
    home = importlib.import_module(
        f"transformers.models.{peer.module}.modeling_{peer.module}"
    )
    config = SimpleNamespace(**{**NAMES, **peer.config})
    module = getattr(home, peer.router)(config).to(dtype).eval()
    named = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        if peer.weight:
            named[peer.weight].copy_(torch.eye(len(named[peer.weight])))
        if peer.bias is not None:
            named[peer.bias].copy_(bias)
        if peer.module == "gemma4":
            module.norm = torch.nn.Identity()
            module.scale.fill_(E**0.5)
            module.per_expert_scale.copy_(torch.linspace(0.5, 2.0, E))
    return module


def answer(peer: Peer, x: torch.Tensor, bias: torch.Tensor) -> Answer:
    module = build(peer, x.dtype, bias)
    with torch.no_grad():
        return (peer.call or last_two)(module, x, bias)


def make(peer: Peer, bias: torch.Tensor) -> tuple[Layer, Params]:
    scale = torch.linspace(0.5, 2.0, E) if peer.routing.per_expert_scale else None
    params = Params(
        torch.zeros(0), torch.zeros(0), router_bias=bias, per_expert_scale=scale
    )
    experts = E - peer.routing.zero_experts
    return Layer(E, 4, experts, peer.k, peer.routing), params


def logits(tokens: int = 64, *, seed: int = 0) -> torch.Tensor:
    """Rows of different spread, all representable in float32."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([1.0, 3.0, 12.0, 0.01]).repeat(tokens // 4)[:, None]
    return torch.randn(tokens, E, generator=generator) * spread


def bias_of(seed: int = 1) -> torch.Tensor:
    return torch.randn(E, generator=torch.Generator().manual_seed(seed)) * 0.3


def assert_within(routed: Routed, ids: torch.Tensor, weights: torch.Tensor) -> None:
    assert bool(routed.admissible.contains(ids).all())
    expected = routed.weights_for(ids)
    worst = torch.zeros(()) if expected.worst is None else expected.worst
    assert bool(((weights.double() - expected.value).abs() <= worst).all())


@pytest.mark.parametrize("name", [n for n, peer in PEERS.items() if not peer.forced])
def test_route_equals_transformers_in_float64(name: str) -> None:
    peer, bias = PEERS[name], bias_of().double()
    layer, params = make(peer, bias)
    # torch's softplus is the identity above 20, an error of 1e-10.
    x = logits().double().clamp_max(20.0)
    routed = route(x, layer, params, PRESETS["reference"])
    ids, weights = answer(peer, x, bias)
    assert torch.equal(ids.sort(1).values, routed.ids.sort(1).values)
    difference = dense(routed.ids, routed.weights.value, E) - dense(ids, weights, E)
    assert float(difference.abs().max()) <= 1e-12


@pytest.mark.parametrize("name", PEERS)
def test_route_holds_transformers_in_float32(name: str) -> None:
    peer, bias = PEERS[name], bias_of()
    layer, params = make(peer, bias)
    x = logits()
    routed = route(x, layer, params)
    ids, weights = answer(peer, x, bias)
    assert torch.equal(ids.sort(1).values, routed.ids.sort(1).values)
    assert_within(routed, ids, weights)


@pytest.mark.parametrize("name", PEERS)
def test_route_holds_transformers_with_ties(name: str) -> None:
    peer, bias = PEERS[name], bias_of().round()
    layer, params = make(peer, bias)
    x = logits(seed=5).round()
    routed = route(x, layer, params, Numerics(ties="any"))
    assert_within(routed, *answer(peer, x, bias))


@pytest.mark.parametrize("name", [n for n, peer in PEERS.items() if not peer.forced])
def test_route_holds_transformers_in_bf16(name: str) -> None:
    peer, bias = PEERS[name], bias_of().bfloat16()
    layer, params = make(peer, bias)
    x = logits(seed=7).bfloat16()
    numerics = Numerics(router="bf16", weights="bf16", ties="any")
    ids, weights = answer(peer, x, bias)
    assert weights.dtype == torch.bfloat16
    assert_within(route(x, layer, params, numerics), ids, weights)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_route_hash_equals_transformers(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    table = torch.randint(0, E, (50, K), generator=generator)
    tokens = torch.randint(0, 50, (64,), generator=generator)
    peer = replace(
        PEERS["deepseek_v4"],
        router="DeepseekV4HashRouter",
        config={**PEERS["deepseek_v4"].config, "vocab_size": 50},
        bias=None,
    )
    module = build(peer, dtype, bias_of())
    module.tid2eid.copy_(table)
    routing = replace(V4, method="hash", bias="none")
    layer = Layer(E, 4, E, K, routing)
    params = Params(torch.zeros(0), torch.zeros(0), hash_table=table)
    x = logits().clamp_max(20.0).to(dtype)
    numerics = {
        torch.float64: PRESETS["reference"],
        torch.float32: Numerics(),
        torch.bfloat16: Numerics(router="bf16", weights="bf16"),
    }[dtype]
    routed = route(x, layer, params, numerics, token_ids=tokens)
    with torch.no_grad():
        _, weights, ids = module(x, tokens)
    assert torch.equal(ids, routed.ids)
    assert_within(routed, ids, weights)
    if dtype == torch.float64:
        assert float((weights - routed.weights.value).abs().max()) <= 1e-12


@pytest.mark.parametrize("tied", [False, True])
def test_route_holds_inkling_with_shared_logits(tied: bool) -> None:
    config = {"hidden_size": E + SHARED, "n_shared_experts": SHARED, "route_scale": 8.0}
    routing = Routing(
        "sigmoid", bias="selection", renormalize="sum", scale=8.0, shared_logits=SHARED
    )
    peer = Peer("inkling", "InklingTopkRouter", routing, config, bias=CORRECTION)
    bias = bias_of().round() if tied else bias_of()
    module = build(peer, torch.float32, bias)
    with torch.no_grad():
        module.global_scale.fill_(1.0)
    layer, params = make(peer, bias)
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(64, E + SHARED, generator=generator) * 8
    x = x.round() if tied else x
    routed = route(x, layer, params, Numerics(ties="any"))
    with torch.no_grad():
        _, weights, ids, gammas = module(x)
    assert_within(routed, ids, weights)
    assert routed.shared_weights is not None
    # A tied selection changes the sum: compare where it is the oracle's own.
    same = (ids.sort(1).values == routed.ids.sort(1).values).all(1)
    shared = routed.shared_weights.map(lambda tensor: tensor[same])
    assert shared.worst is not None
    assert bool(same.any())
    away = (gammas[same].double() - shared.value).abs()
    assert bool((away <= shared.worst).all())
