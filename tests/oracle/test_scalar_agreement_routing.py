"""The two oracles route alike: selections, weights, shared weights, every method."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oracle.numerics import PRESETS
from oracle.params import Params
from oracle.routing import route as first
from oracle.scalar.experts import rounded
from oracle.scalar.interval import FLOAT64, precision
from oracle.scalar.keys import Undecided
from oracle.scalar.routing import route as second
from oracle.spec import Layer, Routing

REFERENCE = PRESETS["reference"]
#: Logits that tie and saturate, and biases that outweigh scores; all are multiples of
#: 2^-24, so that float64 adds a bias to a logit without rounding.
logits = st.sampled_from([0.0, -0.0, 1.0, 1.5, -1.0, 20.0, -20.0, 40.0, 100.0, -100.0])
ordinary = st.floats(-8, 8, width=16)
biases = st.sampled_from([0.0, -1.0, -2.0, 0.25, 8.0]) | st.floats(-2, 2, width=16)


@st.composite
def routings(draw, clear=False):
    """A layer of few experts with any routing that the specification knows.

    `clear`: logits that are apart keep their order and distance.
    """
    groups = 1 if clear else draw(st.sampled_from([1, 1, 2, 3]))
    experts = groups * draw(st.integers(2, 4))
    methods = ["topk"] * 6 + ["hash", "sparsemixer"] * (not clear)
    method = draw(st.sampled_from(methods))
    score = draw(st.sampled_from(["softmax", "sigmoid", "sqrtsoftplus", "identity"]))
    order = draw(st.sampled_from(["score_then_topk", "topk_then_score"]))
    fill = draw(st.sampled_from(["-inf", "zero"]))
    kept = draw(st.integers(1, groups))
    most = experts // groups * kept if fill == "-inf" else experts
    if method != "topk":
        groups = kept = 1
    chosen = method != "sparsemixer"
    renormalize = "none"
    if score != "identity":
        renormalize = draw(
            st.sampled_from(["none", "sum", "sum_plus_epsilon", "max_sum_epsilon"])
        )
    routing = Routing(
        score,
        order,
        method,
        bias=draw(st.sampled_from(["none", "logits", "selection"][: 2 + chosen])),
        groups=groups,
        top_groups=kept,
        group_score=draw(st.sampled_from(["max", "top2"])),
        masked_fill=fill,
        renormalize=renormalize,
        epsilon=draw(st.sampled_from([1e-20, 1e-6, 0.125])),
        scale=draw(st.sampled_from([1.0, 2.5, 16.0])),
        scale_on=draw(st.sampled_from(["weights", "sum"])),
        per_expert_scale=draw(st.booleans()),
        logits_scale=1.0 if clear else draw(st.sampled_from([1.0, 1.0, 0.1768, -1.0])),
        softcap=None if clear else draw(st.sampled_from([None, None, 30.0, 2.0])),
        jitter=draw(st.sampled_from([0.01, 0.25])),
        zero_experts=draw(st.integers(0, 2)) if groups == 1 else 0,
        shared_logits=draw(st.integers(0, 2)) if score != "softmax" and chosen else 0,
    )
    k = 2 if method == "sparsemixer" else draw(st.integers(1, min(most, 4)))
    return Layer(4, 4, experts, k, routing=routing)


@st.composite
def problems(draw, clear=False):
    """A layer, its router's params, logits of two tokens and a hash table."""
    layer = draw(routings(clear))
    routing = layer.routing
    count, choices = layer.logits_columns, layer.routed_choices
    each = st.integers(-4, 4).map(float) if clear else logits | ordinary
    drawn = st.lists(each, min_size=count, max_size=count)
    rows = draw(st.lists(drawn, min_size=2, max_size=2))
    open_ = routing.softcap is None and routing.logits_scale > 0 and not clear
    softmax = routing.score == "softmax" and routing.method == "topk"
    if softmax and open_ and draw(st.booleans()):
        rows[0][draw(st.integers(0, choices - 1))] = -math.inf
    experts = st.integers(0, choices - 1)
    row = st.lists(experts, min_size=layer.top_k, max_size=layer.top_k)
    bias = st.just(0.0) if clear else biases
    scales = st.sampled_from([0.5, 1.5, 3.0])
    router = {
        "router_bias": draw(st.lists(bias, min_size=choices, max_size=choices)),
        "per_expert_scale": draw(st.lists(scales, min_size=choices, max_size=choices)),
    }
    return layer, router, rows, draw(st.lists(row, min_size=3, max_size=3))


def by_first(layer, router, rows, table, numerics=REFERENCE):
    """The first oracle's routing of all tokens; token t has id 2 t."""
    e, h, i = layer.experts, layer.hidden, layer.intermediate
    params = Params(
        gate_up=torch.zeros(e, 2 * i, h),
        down=torch.zeros(e, h, i),
        hash_table=torch.tensor(table),
        **{name: torch.tensor(v, dtype=torch.float64) for name, v in router.items()},
    )
    tensor = torch.tensor(rows, dtype=torch.float64)
    return first(tensor, layer, params, numerics, token_ids=torch.tensor([0, 2]))


def by_second(layer, router, rows, table):
    """The second oracle's routing of each token."""
    return [
        second(row, layer, hashed=table[2 * t], **router) for t, row in enumerate(rows)
    ]


def within(values, regions):
    """Whether each value lies in its region."""
    return all(v in r for v, r in zip(values, regions, strict=True))


@settings(derandomize=True, max_examples=200)
@given(problem=problems())
def test_scalar_routing_agrees(problem):
    """What the second oracle chooses the first one admits, and weighs the same."""
    try:
        with precision(FLOAT64):
            wanted = by_second(*problem)
    except (ZeroDivisionError, Undecided):
        assume(False)
    got = by_first(*problem)
    ids = torch.tensor([routed.ids for routed in wanted])
    assert got.admissible.contains(ids).all()
    for t, routed in enumerate(wanted):
        if not got.admissible.ambiguous[t]:
            assert sorted(got.ids[t].tolist()) == sorted(routed.ids)
    weights = got.weights_for(ids).value.tolist()
    for t, routed in enumerate(wanted):
        assert within(weights[t], routed.weights)
        if sorted(got.ids[t].tolist()) == sorted(routed.ids):
            shared = [] if got.shared_weights is None else got.shared_weights.value[t]
            assert within([float(w) for w in shared], routed.shared)


@pytest.mark.parametrize("name", ["ieee", "cuda_fast", "reference"])
@settings(derandomize=True, max_examples=40)
@given(problem=problems())
def test_scalar_routing_truth_lies_within_the_bounds(name, problem):
    """True weights rounded once to the declared type are what a bound must admit."""
    numerics = PRESETS[name]
    try:
        wanted = by_second(*problem)
    except (ZeroDivisionError, Undecided):
        assume(False)
    got = by_first(*problem, numerics)
    ids = torch.tensor([routed.ids for routed in wanted])
    if problem[0].routing.bias == "none":
        # A sum with a bias is a declared rounding point: it makes ties of its own.
        assert got.admissible.contains(ids).all()
    tap = got.weights_for(ids)
    worst = torch.zeros_like(tap.value) if tap.worst is None else tap.worst
    rows = zip(tap.value.tolist(), worst.tolist(), wanted, strict=True)
    for values, radii, routed in rows:
        for value, radius, weight in zip(values, radii, routed.weights, strict=True):
            truth = rounded(weight, numerics.weights)
            assert value - radius <= truth.high
            assert truth.low <= value + radius


@settings(derandomize=True, max_examples=60)
@given(problem=problems(clear=True))
def test_scalar_routing_agrees_on_the_order_of_clear_keys(problem):
    """Integer logits without a bias: keys are equal or far apart."""
    wanted = by_second(*problem)
    assert by_first(*problem).ids.tolist() == [routed.ids for routed in wanted]


@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrtsoftplus"])
def test_scalar_routing_agrees_where_nothing_can_be_chosen(score):
    """All logits -inf: softmax is 0 / 0, the others score 0 and go by index."""
    layer = Layer(4, 4, 3, 2, routing=Routing(score))
    router = {"router_bias": [0.0] * 3, "per_expert_scale": [1.0] * 3}
    rows, table = [[-math.inf] * 3] * 2, [[0, 1]] * 3
    got = by_first(layer, router, rows, table)
    assert got.ids.tolist() == [[0, 1]] * 2
    if score == "softmax":
        assert got.weights.value.isnan().all()
        with pytest.raises(ZeroDivisionError, match="all -inf"):
            by_second(layer, router, rows, table)
    else:
        (routed, _) = by_second(layer, router, rows, table)
        assert routed.ids == [0, 1]
        assert within(got.weights.value[0].tolist(), routed.weights)
