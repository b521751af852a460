"""Routing kernels: admissible selections, weights within bounds, ids for any bits."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle import routing as oracle
from oracle.numerics import Numerics
from oracle.params import Params
from oracle.spec import Layer, Routing
from oracle.spec.routing import Score
from refmoe.kernels import emulator
from refmoe.kernels.launchers.route import SCORES, route, route_tokens

NUMERICS = Numerics()


def model(experts: int, top_k: int, routing: Routing) -> Layer:
    return Layer(8, 8, experts, top_k, routing=routing)


def params(layer: Layer, seed: int = 0, spread: float = 1.0) -> Params:
    generator = torch.Generator().manual_seed(seed)
    choices = layer.routed_choices
    table = torch.randint(0, choices, (11, layer.top_k), generator=generator)
    return Params(
        torch.zeros(0), torch.zeros(0),
        router_bias=torch.randn(choices, generator=generator) * spread,
        per_expert_scale=torch.rand(choices, generator=generator),
        hash_table=table,
    )  # fmt: skip


def logits(tokens: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Rows of several kinds: smooth, tied, saturating, tiny, huge."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, columns, generator=generator)
    x[1::6] = x[1::6].mul(2).round().div(2)
    x[2::6] *= 30
    x[3::6] *= 1e-6
    x[4::6] = torch.randint(0, 2, x[4::6].shape, generator=generator).float()
    x[5::6] -= 20
    return x


def judged(
    x: torch.Tensor, layer: Layer, own: Params, token_ids: torch.Tensor | None = None,
    *, naive: bool = False,
) -> None:  # fmt: skip
    """Raise unless the kernel's routing is one that the oracle admits."""
    got = route_tokens(x, own, layer, token_ids=token_ids, naive=naive)
    want = oracle.route(x, layer, own, NUMERICS, token_ids=token_ids)
    ids = got.ids.long()
    assert bool(want.admissible.contains(ids).all())
    sure = ~want.admissible.ambiguous
    order = ids[sure].sort(dim=1).values == want.ids[sure].sort(dim=1).values
    assert bool(order.all())
    weights, shared = want.weigh(ids)
    for value, tap in ((got.weights, weights), (got.shared_weights, shared)):
        if tap is None:
            continue
        off = (value.double() - tap.value).abs()
        room = 0.0 if tap.worst is None else tap.worst
        right = (off <= room) | (value.isnan() & tap.value.isnan())
        assert bool((right | (value == tap.value)).all()), off[~right]


ROUTINGS = {
    "softmax": (8, 2, Routing()),
    "mixtral": (8, 2, Routing(renormalize="sum")),
    "gpt_oss": (128, 4, Routing(order="topk_then_score", bias="logits")),
    "llama4": (16, 1, Routing("sigmoid", "topk_then_score")),
    "deepseek_v2": (
        160, 6, Routing(groups=8, top_groups=3, masked_fill="zero", scale=16.0)),
    "deepseek_v3": (
        256, 8, Routing("sigmoid", bias="selection", groups=8, top_groups=4,
                        group_score="top2", renormalize="sum_plus_epsilon",
                        epsilon=1e-20, scale=2.5)),
    "deepseek_v4": (
        256, 6, Routing("sqrtsoftplus", bias="selection", renormalize="sum",
                        scale=1.5)),
    "deepseek_v4_hash": (
        256, 6, Routing("sqrtsoftplus", method="hash", renormalize="sum", scale=1.5)),
    "phi": (16, 2, Routing(method="sparsemixer")),
    "ernie": (
        64, 6, Routing(bias="selection", renormalize="max_sum_epsilon", epsilon=1e-12)),
    "longcat": (60, 12, Routing(bias="selection", scale=6.0, zero_experts=30)),
    "inkling": (
        48, 4, Routing("sigmoid", renormalize="sum", shared_logits=2, scale=1.3)),
    "kolibri": (40, 5, Routing("sigmoid", "topk_then_score", bias="selection")),
    "grok": (8, 2, Routing(softcap=30.0, logits_scale=0.5, renormalize="sum")),
    "gemma": (128, 8, Routing(renormalize="sum", per_expert_scale=True)),
    "identity": (33, 3, Routing("identity", renormalize="sum")),
    "odd_groups": (63, 5, Routing("sigmoid", groups=9, top_groups=2)),
    "zero_fill": (
        16, 4, Routing("sigmoid", bias="selection", groups=4, top_groups=2,
                       group_score="top2", masked_fill="zero")),
    "many": (1000, 32, Routing(renormalize="sum")),
    "all": (7, 7, Routing("sigmoid")),
    "one": (1, 1, Routing(renormalize="sum")),
    "past_a_warp": (1100, 3, Routing()),
    "many_choices": (100, 40, Routing("sigmoid")),
}  # fmt: skip


def test_route_names_every_score() -> None:
    assert tuple(SCORES) == get_args(Score)


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("name", ROUTINGS)
def test_route_is_admissible(name: str, naive: bool, emulated: None) -> None:
    layer = model(*ROUTINGS[name])
    token_ids = torch.arange(13) % 11 if layer.routing.method == "hash" else None
    judged(
        logits(13, layer.logits_columns), layer, params(layer), token_ids, naive=naive
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["gpt_oss", "gemma"])
def test_route_takes_other_types(
    name: str, dtype: torch.dtype, any_order: None
) -> None:
    layer = model(*ROUTINGS[name])
    judged(logits(13, layer.logits_columns).to(dtype), layer, params(layer))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_route_takes_biases_of_other_types(dtype: torch.dtype, emulated: None) -> None:
    layer = model(*ROUTINGS["longcat"])
    own = params(layer)
    assert own.router_bias is not None
    short = Params(
        own.gate_up, own.down, router_bias=own.router_bias.to(dtype),
        per_expert_scale=own.per_expert_scale,
    )  # fmt: skip
    judged(logits(13, layer.logits_columns), layer, short)


def test_route_sends_ties_to_the_lowest_index(emulated: None) -> None:
    x = torch.zeros(3, 300)
    x[0, ::7] = -0.0
    x[1, [299, 40, 41, 150]] = 1.0
    x[2] = -math.inf
    for naive in (False, True):
        ids = route_tokens(x, params(m := model(300, 4, Routing("identity"))), m,
                           naive=naive).ids  # fmt: skip
        assert ids.tolist() == [[0, 1, 2, 3], [40, 41, 150, 299], [0, 1, 2, 3]]


def test_route_breaks_ties_of_groups_by_index(emulated: None) -> None:
    routing = Routing("identity", groups=4, top_groups=2, group_score="top2")
    layer = model(16, 3, routing)
    x = torch.tensor([[1.0, 3, 0, 0, 2, 2, 2, 0, 0, 4, 0, 0, 9, -6, -6, -6]])
    for naive in (False, True):
        ids = route_tokens(x, params(layer), layer, naive=naive).ids
        assert ids.tolist() == [[1, 4, 5]]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("order", ["score_then_topk", "topk_then_score"])
def test_route_hands_nonfinite_weights_on(
    score: str, order: str, emulated: None
) -> None:
    layer = model(40, 3, Routing(score, order))  # type: ignore[arg-type]
    x = logits(6, 40)
    x[0, 5], x[1, 3], x[2, :38], x[3], x[4, 1] = (
        math.nan, math.inf, -math.inf, math.nan, -math.inf,
    )  # fmt: skip
    judged(x, layer, params(layer))
    judged(x, layer, params(layer), naive=True)


@given(st.data())
def test_route_gives_distinct_ids_for_any_bits(
    host_compiler: str, data: st.DataObject
) -> None:
    columns = data.draw(st.integers(1, 70), "experts")
    top_k = data.draw(st.integers(1, min(columns, 32)), "top_k")
    patterns = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 0x7F800000, 0x3F800000])
    bits = data.draw(
        st.lists(
            patterns | st.integers(-(2**31), 2**31 - 1),
            min_size=columns,
            max_size=columns,
        ),
        "bits",
    )
    x = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    score = data.draw(st.sampled_from(["softmax", "identity"]), "score")
    layer = model(columns, top_k, Routing(score, "topk_then_score"))
    with emulator.emulated():
        ids, _ = route(x, params(layer), layer)
    want = oracle.route(x, layer, params(layer)).ids
    assert torch.equal(ids.long(), want)


def test_route_of_nothing(emulated: None) -> None:
    layer = model(*ROUTINGS["inkling"])
    got = route_tokens(torch.zeros(0, 50), params(layer), layer)
    assert got.ids.shape == got.weights.shape == (0, 4)
    assert got.shared_weights.shape == (0, 2)


def test_route_leaves_tokens_outside_the_table_empty(emulated: None) -> None:
    layer = model(*ROUTINGS["deepseek_v4_hash"])
    token_ids = torch.tensor([3, -1, 11], dtype=torch.int32)
    for naive in (False, True):
        got = route_tokens(
            logits(3, 256), params(layer), layer, token_ids=token_ids, naive=naive
        )
        assert bool((got.ids[0] >= 0).all())
        assert got.ids[1:].eq(-1).all()
        assert got.weights[1:].eq(0).all()


@pytest.mark.parametrize(
    ("routing", "top_k", "x", "error", "message"),
    [
        (Routing(), 2, torch.zeros(2, 9), ValueError,
         r"logits has shape \(2, 9\); it must be \[any, 8\]"),
        (Routing(), 2, torch.zeros(2, 8).double(), TypeError,
         "logits is float64; convert it to bfloat16, float16, float32"),
        (Routing(method="sparsemixer"), 3, torch.zeros(2, 8), ValueError,
         "sparsemixer has two rounds, but top_k=3"),
        (Routing(method="sparsemixer", bias="selection"), 2, torch.zeros(2, 8),
         ValueError, "sparsemixer takes no selection bias"),
        (Routing(shared_logits=1), 2, torch.zeros(2, 9), ValueError,
         "a score of each logit alone"),
        (Routing(groups=8, top_groups=2, group_score="top2"), 2, torch.zeros(2, 8),
         ValueError, "needs 2 experts in a group"),
        (Routing(method="hash", groups=2), 2, torch.zeros(2, 8), ValueError,
         "groups=2 go with method='topk'"),
        (Routing(method="hash"), 2, torch.zeros(2, 8), ValueError,
         "token_ids are missing; hash routing looks them up"),
    ],
)  # fmt: skip
def test_route_refuses(
    routing: Routing, top_k: int, x: torch.Tensor, error: type[Exception],
    message: str, emulated: None,
) -> None:  # fmt: skip
    layer = model(8, top_k, routing)
    with pytest.raises(error, match=message):
        route(x, params(layer), layer)


def test_route_names_a_missing_bias(emulated: None) -> None:
    layer = model(8, 2, Routing(bias="selection"))
    with pytest.raises(ValueError, match=r"Params\.router_bias is missing; the layer"):
        route(torch.zeros(2, 8), Params(torch.zeros(0), torch.zeros(0)), layer)
