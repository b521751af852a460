"""Honest float32 routers of every formulation lie within the oracle's bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from oracle.numerics import PRESETS, Elementary, Numerics
from oracle.params import Params
from oracle.routing import Routed, route
from oracle.spec import Layer, Routing

LOG2_E = torch.tensor(math.log2(math.e), dtype=torch.float32)
Function = Callable[[torch.Tensor], torch.Tensor]


def sum_forward(x: torch.Tensor) -> torch.Tensor:
    total = x[:, :1].clone()
    for j in range(1, x.shape[1]):
        total += x[:, j : j + 1]
    return total


def sum_backward(x: torch.Tensor) -> torch.Tensor:
    return sum_forward(x.flip(1))


def sum_torch(x: torch.Tensor) -> torch.Tensor:
    return x.sum(1, keepdim=True)


def softmax_torch(x: torch.Tensor, total: Function) -> torch.Tensor:
    return torch.softmax(x, dim=1)


def softmax_max(x: torch.Tensor, total: Function) -> torch.Tensor:
    e = torch.exp(x - x.amax(1, keepdim=True))
    return e / total(e)


def softmax_reciprocal(x: torch.Tensor, total: Function) -> torch.Tensor:
    e = torch.exp(x - x.amax(1, keepdim=True))
    return e * (1.0 / total(e))


def softmax_base_two(x: torch.Tensor, total: Function) -> torch.Tensor:
    e = torch.exp2((x - x.amax(1, keepdim=True)) * LOG2_E)
    return e / total(e)


def softmax_products(x: torch.Tensor, total: Function) -> torch.Tensor:
    e = torch.exp2(x * LOG2_E - x.amax(1, keepdim=True) * LOG2_E)
    return e / total(e)


def softmax_online(x: torch.Tensor, total: Function) -> torch.Tensor:
    """Pairs (max, sum) merged in a tree."""
    top, sums = x, torch.ones_like(x)
    while top.shape[1] > 1:
        if top.shape[1] % 2:
            top = torch.cat([top, torch.full_like(top[:, :1], -math.inf)], 1)
            sums = torch.cat([sums, torch.zeros_like(sums[:, :1])], 1)
        joint = torch.maximum(top[:, ::2], top[:, 1::2])
        left = sums[:, ::2] * torch.exp(top[:, ::2] - joint)
        sums = left + sums[:, 1::2] * torch.exp(top[:, 1::2] - joint)
        top = joint
    return torch.exp(x - top) / sums


def sigmoid_exp(x: torch.Tensor, total: Function) -> torch.Tensor:
    return 1.0 / (1.0 + torch.exp(-x))


def sigmoid_torch(x: torch.Tensor, total: Function) -> torch.Tensor:
    return torch.sigmoid(x)


def sigmoid_base_two(x: torch.Tensor, total: Function) -> torch.Tensor:
    return 1.0 / (1.0 + torch.exp2(-x * LOG2_E))


def sigmoid_tanh(x: torch.Tensor, total: Function) -> torch.Tensor:
    return 0.5 * torch.tanh(0.5 * x) + 0.5


def sqrtsoftplus_torch(x: torch.Tensor, total: Function) -> torch.Tensor:
    return torch.nn.functional.softplus(x).sqrt()


def sqrtsoftplus_stable(x: torch.Tensor, total: Function) -> torch.Tensor:
    return (x.clamp_min(0) + torch.log1p(torch.exp(-x.abs()))).sqrt()


def sqrtsoftplus_base_two(x: torch.Tensor, total: Function) -> torch.Tensor:
    low = torch.log1p(torch.exp2(x.clamp_max(80) * LOG2_E))
    return torch.where(x > 80, x, low).sqrt()


def identity(x: torch.Tensor, total: Function) -> torch.Tensor:
    return x


SCORES: dict[str, list[Callable[[torch.Tensor, Function], torch.Tensor]]] = {
    "softmax": [
        softmax_torch, softmax_max, softmax_reciprocal, softmax_base_two,
        softmax_products, softmax_online,
    ],
    "sigmoid": [sigmoid_torch, sigmoid_exp, sigmoid_base_two],
    "sqrtsoftplus": [sqrtsoftplus_torch, sqrtsoftplus_stable, sqrtsoftplus_base_two],
    "identity": [identity],
}  # fmt: skip
TANH = {**SCORES, "sigmoid": [sigmoid_tanh]}
SUMS = [sum_forward, sum_backward, sum_torch]
REGIMES = [
    "randn",
    "times_12",
    "to_100",
    "tiny",
    "huge",
    "negative",
    "near",
    "integers",
]


def draw(tokens: int, columns: int, seed: int) -> torch.Tensor:
    """Rows of every regime: random, saturated, tiny, huge, negative, tied."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, columns, generator=generator)
    steps = torch.randint(-4, 5, x.shape, generator=generator)
    uniform = torch.rand(tokens, columns, generator=generator)
    return torch.cat(
        [x, 12 * x, 200 * uniform - 100, 1e-30 * x, 1e-40 * x, 3e4 * x, 1e30 * x,
         -8 - 12 * x.abs(), -80 - 30 * uniform, 1 + steps * 2.0**-23, 1.0 * steps]
    )  # fmt: skip


def largest(keys: torch.Tensor, k: int) -> torch.Tensor:
    return keys.sort(dim=1, descending=True, stable=True).indices[:, :k]


def route_float32(
    x: torch.Tensor,
    layer: Layer,
    params: Params,
    score: Callable[[torch.Tensor, Function], torch.Tensor],
    total: Function,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A router whose every operation is a float32 operation of torch."""
    routing, bias = layer.routing, params.router_bias
    if routing.logits_scale != 1.0:
        x = x * torch.tensor(routing.logits_scale)
    if routing.softcap is not None:
        x = torch.tanh(x / routing.softcap) * routing.softcap
    if routing.bias == "logits":
        x = x + bias
    late = routing.order == "topk_then_score"
    scores = x if late else score(x, total)
    keys = scores + bias if routing.bias == "selection" else scores
    if routing.groups > 1:
        grouped = keys.view(len(x), routing.groups, -1)
        best = grouped.sort(dim=2, descending=True).values
        rank = best[..., 0]
        if routing.group_score == "top2":
            rank = best[..., 0] + best[..., 1]
        kept = torch.zeros_like(rank, dtype=torch.bool)
        kept.scatter_(1, largest(rank, routing.top_groups), True)
        fill = 0.0 if routing.masked_fill == "zero" else -math.inf
        keys = torch.where(kept[..., None], grouped, fill).flatten(1)
    ids = largest(keys, layer.top_k)
    weights = scores.gather(1, ids)
    if late:
        weights = score(weights, total)
    if routing.renormalize != "none":
        sums = total(weights)
        if routing.renormalize == "sum_plus_epsilon":
            sums = sums + routing.epsilon
        elif routing.renormalize == "max_sum_epsilon":
            sums = sums.clamp_min(routing.epsilon)
        weights = weights / sums
    weights = weights * routing.scale
    if routing.per_expert_scale:
        weights = weights * params.per_expert_scale[ids]
    return ids, weights


METHODS = {
    "softmax": Routing("softmax"),
    "softmax_renormalized": Routing("softmax", renormalize="sum", scale=2.5),
    "softmax_late": Routing("softmax", "topk_then_score", bias="logits"),
    "softmax_groups_zero": Routing(
        "softmax", groups=4, top_groups=2, group_score="top2", masked_fill="zero",
        renormalize="sum_plus_epsilon", epsilon=1e-20,
    ),
    "softmax_groups_max": Routing("softmax", groups=4, top_groups=2, scale=16.0),
    "softmax_bias_floor": Routing(
        "softmax", bias="selection", renormalize="max_sum_epsilon", epsilon=1e-12
    ),
    "softmax_capped": Routing("softmax", softcap=30.0, logits_scale=0.1768),
    "sigmoid_groups": Routing(
        "sigmoid", bias="selection", groups=4, top_groups=2, group_score="top2",
        renormalize="sum_plus_epsilon", epsilon=1e-20, scale=2.827,
    ),
    "sigmoid_late": Routing("sigmoid", "topk_then_score", bias="selection"),
    "sigmoid_plain": Routing("sigmoid", renormalize="sum", per_expert_scale=True),
    "sqrtsoftplus": Routing(
        "sqrtsoftplus", bias="selection", renormalize="sum_plus_epsilon",
        epsilon=1e-20, scale=1.5,
    ),
    "sqrtsoftplus_plain": Routing("sqrtsoftplus", renormalize="none", scale=0.1),
    "identity": Routing("identity", bias="logits", scale=0.3),
}  # fmt: skip


#: The logits are scored as they are.
SCORES_FIRST = [
    name
    for name, routing in METHODS.items()
    if routing.softcap is None and routing.order == "score_then_topk"
]


def make(routing: Routing, experts: int, k: int, seed: int) -> tuple[Layer, Params]:
    generator = torch.Generator().manual_seed(seed)
    params = Params(
        torch.zeros(0),
        torch.zeros(0),
        router_bias=torch.randn(experts, generator=generator) * 4,
        per_expert_scale=torch.rand(experts, generator=generator) + 0.5,
    )
    return Layer(8, 8, experts, k, routing), params


def assert_within(routed: Routed, ids: torch.Tensor, weights: torch.Tensor) -> None:
    """The selection is admissible and its weights lie within the worst case."""
    allowed = routed.admissible.contains(ids)
    assert bool(allowed.all()), f"not admissible: rows {(~allowed).nonzero()[:5]}"
    expected = routed.weights_for(ids)
    worst = torch.zeros(()) if expected.worst is None else expected.worst
    away = (weights.double() - expected.value).abs()
    within = (away <= worst) | (worst == torch.inf)
    within |= weights.isnan() & expected.value.isnan()
    where = tuple((~within).nonzero().T[:, :3])
    got, true = weights[where].tolist(), expected.value[where].tolist()
    assert not got, f"{got} instead of {true} +- {worst.expand_as(within)[where]}"


@pytest.mark.parametrize("method", METHODS)
def test_route_float32_lies_within_worst_case(method: str) -> None:
    layer, params = make(METHODS[method], 32, 5, seed=len(method))
    x = draw(32, 32, seed=3)
    routed = route(x, layer, params)
    for number, score in enumerate(SCORES[layer.routing.score]):
        total = SUMS[number % 3]
        assert_within(routed, *route_float32(x, layer, params, score, total))


@pytest.mark.parametrize("method", ["softmax", "sigmoid_plain", "sqrtsoftplus_plain"])
def test_route_may_compare_logits_instead_of_scores(method: str) -> None:
    """Without a bias the score keeps the order of the logits."""
    layer, params = make(METHODS[method], 32, 5, seed=2)
    x = draw(32, 32, seed=10)
    assert bool(route(x, layer, params).admissible.contains(largest(x, 5)).all())


@pytest.mark.parametrize("experts", [1, 3, 160])
def test_route_float32_lies_within_worst_case_at_other_sizes(experts: int) -> None:
    for number, name in enumerate(("softmax_renormalized", "sqrtsoftplus")):
        layer, params = make(METHODS[name], experts, min(experts, 8), seed=number)
        x = draw(8, experts, seed=experts)
        routed = route(x, layer, params)
        for score, total in zip(SCORES[layer.routing.score], SUMS, strict=False):
            assert_within(routed, *route_float32(x, layer, params, score, total))


@pytest.mark.parametrize("method", [m for m in METHODS if m.startswith("sigmoid")])
def test_route_sigmoid_by_tanh_lies_within_its_declaration(method: str) -> None:
    layer, params = make(METHODS[method], 32, 5, seed=1)
    x = draw(32, 32, seed=4)
    answer = route_float32(x, layer, params, sigmoid_tanh, sum_torch)
    assert_within(route(x, layer, params, PRESETS["flashinfer_trtllm"]), *answer)
    with pytest.raises(AssertionError):
        assert_within(route(x, layer, params), *answer)


@pytest.mark.parametrize("method", METHODS)
def test_route_flushed_subnormals_lie_within_worst_case(method: str) -> None:
    layer, params = make(METHODS[method], 32, 5, seed=len(method))
    x = draw(32, 32, seed=6)
    score = SCORES[layer.routing.score][-1]
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        answer = route_float32(x, layer, params, score, sum_forward)
    finally:
        torch.set_flush_denormal(False)
    # SLEEF's log1p loses more than subnormals: it has 0 for 2^-126 + 2^-128.
    log = Elementary(2.0**-22, 2.0**-125)
    numerics = Numerics(log=log, subnormals="flush")
    assert_within(route(x, layer, params, numerics), *answer)


@pytest.mark.parametrize("type_", ["bf16", "fp16"])
@pytest.mark.parametrize("late_steps", ["narrow", "float32"])
@pytest.mark.parametrize("method", SCORES_FIRST)
def test_route_narrow_scores_lie_within_worst_case(
    method: str, late_steps: str, type_: str
) -> None:
    """Scores rounded to 16 bits; what follows in 16 bits or in float32."""
    layer, params = make(METHODS[method], 32, 5, seed=len(method))
    dtype = torch.bfloat16 if type_ == "bf16" else torch.float16
    x = draw(16, 32, seed=8)
    x = x[x.abs().amax(1) < 1e4].to(dtype)
    late = dtype if late_steps == "narrow" else torch.float32
    assert params.router_bias is not None
    params = replace(params, router_bias=params.router_bias.to(late))
    score = SCORES[layer.routing.score][0]

    def rounded(values: torch.Tensor, total: Function) -> torch.Tensor:
        return score(values.float(), total).to(dtype).to(late)

    answer = route_float32(x.to(late), layer, params, rounded, sum_forward)
    assert_within(route(x, layer, params, Numerics(router=type_)), *answer)


def sparsemixer_float32(
    x: torch.Tensor, jitter: float
) -> tuple[torch.Tensor, torch.Tensor]:
    ids, weights, left = [], [], x.clone()
    for _ in range(2):
        top = left.amax(1, keepdim=True)
        chosen = largest(left, 1)
        dropped = (top - x) / torch.maximum(x.abs(), top) > 2 * jitter
        shares = softmax_max(left.masked_fill(dropped, -math.inf), sum_backward)
        ids.append(chosen)
        weights.append(shares.gather(1, chosen))
        left = left.scatter(1, chosen, -math.inf)
    return torch.cat(ids, 1), torch.cat(weights, 1)


@pytest.mark.parametrize("jitter", [0.01, 0.3])
def test_route_sparsemixer_float32_lies_within_worst_case(jitter: float) -> None:
    layer = Layer(8, 8, 16, 2, Routing(method="sparsemixer", jitter=jitter))
    params = Params(torch.zeros(0), torch.zeros(0))
    x = draw(64, 16, seed=9)
    assert_within(route(x, layer, params), *sparsemixer_float32(x, jitter))


def test_route_sparsemixer_on_the_threshold_admits_both_sides() -> None:
    """(m - l) / m rounds to either side of 2 jitter: the rival may take part or not."""
    layer = Layer(8, 8, 3, 2, Routing(method="sparsemixer", jitter=0.125))
    x = torch.tensor([[4.0, 3.0, 1.0], [4.0, 3.0 - 2**-22, 1.0], [4.0, 2.5, 1.0]])
    weights = route(x, layer, Params(torch.zeros(0), torch.zeros(0))).weights
    assert weights.worst is not None
    both = 1.0 - 1.0 / (1.0 + math.exp(-1.0))
    assert bool((weights.worst[:2, 0] > 0.9 * both).all())
    assert float(weights.worst[2, 0]) < 1e-5


def test_route_bounds_are_tight_for_ordinary_logits() -> None:
    """What a 16-bit step in the router would change is far outside the bounds."""
    x = torch.randn(256, 128, generator=torch.Generator().manual_seed(0))
    for routing in (METHODS["softmax_renormalized"], METHODS["sigmoid_groups"]):
        layer, params = make(routing, 128, 8, seed=0)
        weights = route(x, layer, params).weights
        assert weights.worst is not None
        assert bool((weights.worst < 2.0**-14 * weights.value).all())
