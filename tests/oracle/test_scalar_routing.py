"""Routing of the second oracle: exact ties, enclosures, transformers as witness."""

import math
from fractions import Fraction

import pytest
import torch

from oracle.scalar.interval import FLOAT64, Interval, precision
from oracle.scalar.keys import Atom, Key, Undecided
from oracle.scalar.routing import route
from oracle.scalar.scores import comparison
from oracle.spec import Layer, Routing

SCORES = ("softmax", "sigmoid", "sqrtsoftplus")


def layer(experts, top_k, **routing):
    return Layer(8, 8, experts, top_k, routing=Routing(**routing))


def reference(logits, score):
    """torch in float64."""
    values = torch.tensor(logits, dtype=torch.float64)
    if score == "softmax":
        return values.softmax(-1).tolist()
    if score == "sigmoid":
        return values.sigmoid().tolist()
    return values.exp().log1p().sqrt().tolist()


@pytest.mark.parametrize("score", SCORES)
def test_scalar_route_weights_enclose_torch(score):
    logits = [0.3, -1.7, 2.25, 0.9, -0.4]
    scores = reference(logits, score)
    with precision(FLOAT64):
        plain = route(logits, layer(5, 3, score=score))
        normed = route(logits, layer(5, 3, score=score, renormalize="sum", scale=2.5))
    assert plain.ids == normed.ids == [2, 3, 0]
    chosen = [scores[i] for i in plain.ids]
    assert all(s in w for s, w in zip(chosen, plain.weights, strict=True))
    pairs = zip(chosen, normed.weights, strict=True)
    assert all(s / sum(chosen) * 2.5 in w for s, w in pairs)


def test_scalar_route_topk_then_softmax_sums_to_one():
    routed = route([1.0, 4.0, 2.0, 4.0], layer(4, 2, order="topk_then_score"))
    assert routed.ids == [1, 3]
    assert all(Fraction(1, 2) in weight for weight in routed.weights)


@pytest.mark.parametrize("score", [*SCORES, "identity"])
def test_scalar_route_equal_logits_go_to_the_lowest_index(score):
    routed = route([1.5, 2.0, 2.0, 1.5, 2.0], layer(5, 4, score=score))
    assert routed.ids == [1, 2, 4, 0]
    assert route([-0.0, 0.0], layer(2, 1, score=score)).ids == [0]


def test_scalar_route_tells_saturated_scores_apart():
    """Scores that any float type rounds to one value still differ."""
    for score in ("sigmoid", "sqrtsoftplus", "softmax"):
        assert route([-1e30, 1000.0, 1000.25], layer(3, 2, score=score)).ids == [2, 1]
        assert route([-1e5, -1e4], layer(2, 1, score=score)).ids == [1]


def test_scalar_group_sums_tie_where_opposite_logits_meet():
    """sigmoid(l) + sigmoid(-l) = 1: three groups of equal sums keep the first two."""
    routing = {"score": "sigmoid", "groups": 3, "top_groups": 2, "group_score": "top2"}
    assert route([0.5, -0.5, 0.0, 0.0, 3.0, -3.0], layer(6, 2, **routing)).ids == [0, 2]
    tilted = route([0.5, -0.5, 0.0, 0.0, 3.0, -2.9375], layer(6, 2, **routing))
    assert tilted.ids == [4, 0]


def test_scalar_route_masked_fill_decides_among_negative_keys():
    """Groups of keys below zero: a fill of zero lets a masked expert in."""
    bias = [-2.0, -2.0, -3.0, -3.0]
    common = {"score": "sigmoid", "bias": "selection", "groups": 2}
    logits = [0.0, 1.0, 0.0, 0.0]
    inside = route(logits, layer(4, 2, **common), router_bias=bias)
    filled = route(logits, layer(4, 2, masked_fill="zero", **common), router_bias=bias)
    assert inside.ids == [1, 0]
    assert filled.ids == [2, 3]
    assert all(Fraction(1, 2) in weight for weight in filled.weights)


def test_scalar_route_bias_selects_but_does_not_weigh():
    routed = route(
        [0.0, 1.0],
        layer(2, 1, score="sigmoid", bias="selection"),
        router_bias=[5.0, 0.0],
    )
    assert routed.ids == [0]
    assert routed.weights == [Interval.of(Fraction(1, 2))]


def test_scalar_route_logits_bias_scale_and_softcap():
    capped = layer(2, 2, score="sigmoid", bias="logits", logits_scale=0.5, softcap=2.0)
    with precision(FLOAT64):
        routed = route([6.0, 1.0], capped, router_bias=[-1.0, 2.0])
    assert routed.ids == [1, 0]
    want = [2 * math.tanh(0.25) + 2, 2 * math.tanh(1.5) - 1]
    for logit, weight in zip(want, routed.weights, strict=True):
        assert 1 / (1 + math.exp(-logit)) in weight


def test_scalar_route_shared_logits_join_the_sum():
    routed = route(
        [0.0, 9.0, 0.0, 0.0],
        layer(2, 1, score="sigmoid", renormalize="sum", shared_logits=2, scale=8.0),
    )
    assert routed.ids == [1]
    with precision(FLOAT64):
        whole = sum([*routed.weights, *routed.shared], Interval.of(0))
    assert 8 in whole
    assert routed.shared[0] == routed.shared[1]


def test_scalar_route_reads_the_hash_table():
    routed = route(
        [0.0, 1.0, 2.0], layer(3, 2, score="sigmoid", method="hash"), hashed=[2, 2]
    )
    assert routed.ids == [2, 2]
    assert routed.weights[0] == routed.weights[1]


def test_scalar_route_absent_logits_score_zero():
    routed = route([-math.inf, 1.0, -math.inf], layer(3, 3))
    assert routed.ids == [1, 0, 2]
    assert [w.point and w.low for w in routed.weights] == [1, 0, 0]
    with pytest.raises(ZeroDivisionError, match="all -inf"):
        route([-math.inf, -math.inf], layer(2, 1))


@pytest.mark.parametrize("seed", range(4))
def test_scalar_sparsemixer_equals_transformers(seed):
    from transformers.models.phimoe.modeling_phimoe import sparsemixer

    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(16, 6, generator=generator, dtype=torch.float64) / 8
    weights, ids = sparsemixer(logits, 0.0625, training=False)
    mixer = layer(6, 2, method="sparsemixer", jitter=0.0625)
    for row, want, chosen in zip(logits.tolist(), weights, ids, strict=True):
        with precision(FLOAT64):
            routed = route(row, mixer)
        assert routed.ids == chosen.tolist()
        assert all(float(w) in got for w, got in zip(want, routed.weights, strict=True))


def test_scalar_keys_cancel_in_any_order():
    a, b, c = (Atom(Fraction(x)) for x in (1, 2, 3))
    compare = comparison([a, b, c], Routing(), "softmax")
    one, zero = Fraction(1), Fraction(0)
    assert not compare.greater(Key(zero, (a, b)), Key(zero, (b, a)))
    assert compare.greater(Key(one, (a, b)), Key(zero, (b, a)))
    assert compare.greater(Key(zero, (a, c)), Key(zero, (b, a)))
    assert not compare.greater(Key(zero, removed=True), Key(-one))
    assert compare.greater(Key(-one), Key(zero, removed=True))


def test_scalar_keys_say_when_digits_do_not_decide():
    """sigmoid(1e30) - 1 is negative, but beyond every number of digits tried."""
    far = Atom(Fraction(10**30))
    compare = comparison([far], Routing(score="sigmoid"), "sigmoid")
    with pytest.raises(Undecided, match="agree to 16384 bits"):
        compare.greater(Key(Fraction(-1), (far,)), Key(Fraction(0)))


def test_scalar_route_refuses_nan():
    with pytest.raises(ValueError, match="logit nan has no score"):
        route([math.nan, 1.0], layer(2, 1))
    with pytest.raises(ValueError, match="logit -inf has no score here"):
        route([-math.inf, 1.0], layer(2, 1, softcap=2.0))
