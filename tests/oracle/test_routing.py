"""Laws, edges and refusals of `route`."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle.numerics import PRESETS, Numerics
from oracle.params import Params
from oracle.routing import Routed, dense, route
from oracle.spec import Layer, Routing
from oracle.spec.routing import MaskedFill, Order, Score

NAN, INF = math.nan, math.inf
REFERENCE = PRESETS["reference"]
V3 = Routing(
    "sigmoid", bias="selection", groups=4, top_groups=2, group_score="top2",
    renormalize="sum_plus_epsilon", epsilon=1e-20, scale=2.5,
)  # fmt: skip


def params(**tensors: torch.Tensor) -> Params:
    return Params(torch.zeros(0), torch.zeros(0), **tensors)


def run(
    logits: list[list[float]] | torch.Tensor,
    routing: Routing,
    k: int,
    numerics: Numerics = REFERENCE,
    **tensors: torch.Tensor,
) -> Routed:
    x = torch.as_tensor(logits, dtype=torch.float64)
    experts = x.shape[1] - routing.zero_experts - routing.shared_logits
    return route(x, Layer(8, 8, experts, k, routing), params(**tensors), numerics)


# ---- order and ties


@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrtsoftplus", "identity"])
@pytest.mark.parametrize("order", ["score_then_topk", "topk_then_score"])
def test_route_ties_go_to_the_lowest_index(score: Score, order: Order) -> None:
    rows = [[1.0] * 8, [0.0, -0.0] * 4, [2, 7, 2, 7, 2, 7, 2, 2], [-INF] * 8]
    routed = run(rows, Routing(score, order), 4, Numerics())
    assert routed.ids.tolist() == [
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [1, 3, 5, 0],
        [0, 1, 2, 3],
    ]
    # The softmax of a row of -inf is NaN, which may stand anywhere.
    free = [False] * 3 + [order == "score_then_topk" and score == "softmax"]
    assert routed.admissible.ambiguous.tolist() == free
    assert routed.admissible.margin.tolist() == [0.0] * 4
    higher = torch.tensor([[4, 5, 6, 7], [0, 1, 2, 4], [1, 3, 5, 7], [1, 2, 3, 4]])
    assert routed.admissible.contains(higher).tolist() == free


def test_route_ties_are_free_where_declared() -> None:
    rows = [[1.0] * 8, [3, 2, 2, 0, 0, 0, 0, 0]]
    routed = run(rows, Routing(), 2, Numerics(ties="any"))
    assert bool(routed.admissible.ambiguous.all())
    ids = torch.tensor([[6, 3], [2, 0]])
    assert bool(routed.admissible.contains(ids).all())
    selections = routed.admissible.selections(1)
    assert selections is not None
    assert selections.tolist() == [[0, 1], [0, 2]]
    highest = run(rows, Routing(), 2, Numerics(ties="highest"))
    assert highest.ids.tolist() == [[7, 6], [0, 2]]
    assert not bool(highest.admissible.ambiguous.any())


def test_route_saturated_scores_are_ambiguous_but_equal_logits_are_not() -> None:
    """1 - 2^-30 and 1 are one sigmoid in float32; two logits of 30 tie exactly."""
    rows = [[30.0, 20.0, 40.0, 0.0], [30.0, 30.0, 30.0, 0.0]]
    routed = run(rows, Routing("sigmoid"), 2, Numerics())
    assert routed.ids.tolist() == [[2, 0], [0, 1]]
    assert routed.admissible.ambiguous.tolist() == [True, False]
    assert routed.admissible.contains(torch.tensor([[0, 1], [0, 2]])).tolist() == [
        True,
        False,
    ]


def test_route_bias_coarsens_the_key() -> None:
    """At 8 the float32 keys are 2^-20 apart: s + b ties, and the lowest index wins."""
    logits = torch.tensor([[0.0, 2.0**-21, 2.0**-16, -4.0]])
    bias = torch.tensor([8.0, 8.0, 8.0, 0.0])
    routing = Routing("sigmoid", bias="selection")
    routed = run(logits, routing, 2, Numerics(), router_bias=bias)
    assert routed.ids.tolist() == [[2, 0]]
    assert not bool(routed.admissible.contains(torch.tensor([[2, 1]])))
    exact = run(logits, routing, 2, REFERENCE, router_bias=bias.double())
    assert exact.ids.tolist() == [[2, 1]]


@given(
    st.integers(0, 2**32),
    st.integers(1, 8),
    st.sampled_from(
        [
            Routing(),
            Routing("sigmoid", groups=3, top_groups=2),
            Routing("sigmoid", groups=3, top_groups=2, masked_fill="zero"),
            Routing("sqrtsoftplus", bias="selection", renormalize="sum"),
            Routing("identity", "topk_then_score", softcap=5.0, scale=1e30),
        ]
    ),
)
def test_route_ids_are_distinct_and_in_range_for_any_bits(
    seed: int, k: int, routing: Routing
) -> None:
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (16, 12), generator=generator)
    logits = bits.to(torch.int32).view(torch.float32)
    special = torch.tensor([NAN, -NAN, INF, -INF, 0.0, -0.0])
    pick = torch.randint(0, 6, logits.shape, generator=generator)
    rare = torch.rand(logits.shape, generator=generator) < 0.3
    logits = torch.where(rare, special[pick], logits)
    layer = Layer(8, 8, 12, k, routing)
    routed = route(logits, layer, params(router_bias=logits[0]))
    ids = routed.ids.sort(1).values
    assert bool(((ids >= 0) & (ids < 12)).all())
    assert bool((ids[:, 1:] != ids[:, :-1]).all())
    assert bool(routed.admissible.contains(routed.ids).all())
    worst = routed.weights.worst
    assert worst is None or not bool(worst.isnan().any())


def test_route_nan_comes_after_minus_infinity() -> None:
    row = [[NAN, 1.0, -INF, NAN, 3.0]]
    late = run(row, Routing("softmax", "topk_then_score"), 4)
    assert late.ids.tolist() == [[4, 1, 2, 0]]
    assert late.weights.value.isnan().all()
    three = run(row, Routing("softmax", "topk_then_score"), 3)
    assert three.ids.tolist() == [[4, 1, 2]]
    assert three.weights.value[0, 2] == 0.0
    own = run(row, Routing("sigmoid"), 4)
    assert own.ids.tolist() == [[4, 1, 2, 0]]
    assert own.weights.value.isnan().tolist() == [[False, False, False, True]]
    # torch.topk puts NaN first, and a group of which one is NaN as well.
    assert own.admissible.contains(torch.tensor([[0, 3, 4, 1]])).item()
    assert not own.admissible.contains(torch.tensor([[0, 3, 4, 2]])).item()
    assert not own.admissible.contains(torch.tensor([[0, 0, 4, 1]])).item()
    whole = run(row, Routing("softmax"), 3)
    assert whole.ids.tolist() == [[0, 1, 2]]
    assert whole.weights.value.isnan().all()
    assert whole.weights.exact


def test_route_nan_leaves_its_group_open() -> None:
    """The group of a NaN counts as the best (torch.topk), as the worst, or neither."""
    rows = [[NAN, 1.0, 2.0, 3.0, 4.0, 5.0]]
    routing = Routing("sigmoid", groups=3, top_groups=2, group_score="top2")
    routed = run(rows, routing, 2, Numerics())
    assert routed.ids.tolist() == [[5, 4]]
    ids = torch.tensor([[5, 4]]), torch.tensor([[0, 5]]), torch.tensor([[0, 1]])
    assert [routed.admissible.contains(i).item() for i in ids] == [True, True, False]


@pytest.mark.parametrize(
    ("routing", "weights"),
    [
        (Routing("softmax"), [NAN, NAN]),
        (Routing("sigmoid", renormalize="sum"), [NAN, NAN]),
        (Routing("sigmoid", renormalize="sum_plus_epsilon", epsilon=1e-20), [0.0, 0.0]),
        (Routing("sigmoid", renormalize="max_sum_epsilon", epsilon=1e-12), [0.0, 0.0]),
        (Routing("sqrtsoftplus"), [0.0, 0.0]),
    ],
)
def test_route_row_of_minus_infinity(routing: Routing, weights: list[float]) -> None:
    routed = run([[-INF] * 4], routing, 2, Numerics())
    assert routed.ids.tolist() == [[0, 1]]
    assert routed.weights.exact
    torch.testing.assert_close(
        routed.weights.value[0],
        torch.tensor(weights, dtype=torch.float64),
        equal_nan=True,
    )


def test_route_sum_that_may_round_to_zero_has_no_bound() -> None:
    """In float32 the sigmoids of -105 are zero or subnormal: 0 / 0 or 1/2."""
    routed = run(
        [[-103.0, -103.0]], Routing("sigmoid", renormalize="sum"), 2, Numerics()
    )
    assert routed.weights.value.tolist() == [[0.5, 0.5]]
    assert routed.weights.worst is not None
    assert routed.weights.worst.isinf().all()


# ---- formulas


def test_route_masked_fill_decides_when_kept_keys_are_negative() -> None:
    logits = [[9.0, 8.0, -20.0, -21.0, 5.0, 5.0, -22.0, -23.0]]
    bias = torch.tensor([-2.0] * 8)
    for fill, ids in (("-inf", [[0, 1, 4]]), ("zero", [[2, 3, 4]])):
        routing = Routing(
            "sigmoid", bias="selection", groups=4, top_groups=1, masked_fill=fill
        )
        layer_k = 2 if fill == "-inf" else 3
        routed = run(logits, routing, layer_k, router_bias=bias.double())
        assert routed.ids.tolist() == [row[:layer_k] for row in ids]


@pytest.mark.parametrize(
    ("group_score", "ids"), [("max", [[0, 1]]), ("top2", [[2, 3]])]
)
def test_route_group_score_decides(group_score: str, ids: list[list[int]]) -> None:
    routing = Routing("identity", groups=2, top_groups=1, group_score=group_score)  # type: ignore[arg-type]
    assert run([[5.0, 0.0, 4.0, 4.0]], routing, 2).ids.tolist() == ids


def test_route_tied_groups_keep_the_lower() -> None:
    logits = [[1.0, 3.0, 3.0, 1.0, 0.0, 2.0], [0.0, 2.0, 1.0, 2.0, 2.0, 0.0]]
    routing = Routing("sigmoid", groups=3, top_groups=1, group_score="top2")
    routed = run(logits, routing, 2, Numerics())
    assert routed.ids.tolist() == [[1, 0], [3, 2]]
    assert not bool(routed.admissible.ambiguous.any())
    other = torch.tensor([[2, 3], [3, 2]])
    assert routed.admissible.contains(other).tolist() == [False, True]


def test_route_near_groups_admit_both() -> None:
    logits = [[1.0, 3.0, 1.0 + 2**-22, 3.0]]
    routing = Routing("sigmoid", groups=2, top_groups=1, group_score="top2")
    routed = run(logits, routing, 2, Numerics())
    assert bool(routed.admissible.ambiguous)
    assert routed.admissible.selections(0).tolist() == [[1, 0], [3, 2]]  # type: ignore[union-attr]
    assert bool(routed.admissible.contains(torch.tensor([[0, 1]])))
    assert not bool(routed.admissible.contains(torch.tensor([[1, 2]])))


def test_route_scale_on_the_sum_leaves_weights_alone() -> None:
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    on_sum = run(x, replace(V3, scale_on="sum"), 4, router_bias=torch.zeros(16))
    on_weights = run(x, V3, 4, router_bias=torch.zeros(16))
    torch.testing.assert_close(on_sum.weights.value * 2.5, on_weights.weights.value)
    ones = torch.ones(8, dtype=torch.float64)
    torch.testing.assert_close(on_sum.weights.value.sum(1), ones)


def test_route_bias_never_reaches_the_weights() -> None:
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    free = run(x, replace(V3, groups=1, top_groups=1), 16, router_bias=torch.zeros(16))
    bias = torch.randn(16, generator=torch.Generator().manual_seed(1))
    biased = run(x, replace(V3, groups=1, top_groups=1), 16, router_bias=bias)
    torch.testing.assert_close(
        dense(free.ids, free.weights.value, 16),
        dense(biased.ids, biased.weights.value, 16),
    )


@pytest.mark.parametrize("fill", ["-inf", "zero"])
def test_route_commutes_with_renaming_experts(fill: MaskedFill) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(32, 16, generator=generator)
    bias = torch.randn(16, generator=generator).double()
    routing = replace(V3, masked_fill=fill)
    order = torch.cat(
        [torch.randperm(4, generator=generator) + 4 * g for g in (2, 0, 3, 1)]
    )
    plain = run(x, routing, 4, router_bias=bias)
    renamed = run(x[:, order], routing, 4, router_bias=bias[order])
    torch.testing.assert_close(
        dense(plain.ids, plain.weights.value, 16)[:, order],
        dense(renamed.ids, renamed.weights.value, 16),
    )


def test_route_shared_logits_join_the_sum() -> None:
    routing = Routing("sigmoid", renormalize="sum", shared_logits=2, scale=8.0)
    routed = run([[0.0, 1.0, -1.0, 2.0, 0.0]], routing, 2)
    sigma = torch.tensor([1.0, 0.0, 2.0, 0.0], dtype=torch.float64).sigmoid()
    shares = 8 * sigma / sigma.sum()
    assert routed.ids.tolist() == [[1, 0]]
    assert routed.shared_weights is not None
    torch.testing.assert_close(routed.weights.value[0], shares[:2])
    torch.testing.assert_close(routed.shared_weights.value[0], shares[2:])


def test_route_zero_experts_can_be_chosen() -> None:
    routing = Routing("softmax", zero_experts=2, scale=6.0)
    routed = run([[0.0, 1.0, 5.0, -1.0]], routing, 2)
    assert routed.ids.tolist() == [[2, 1]]


def test_route_saturated_gates_are_exact() -> None:
    """Four sigmoids of exactly 1 make weights of exactly 1/4."""
    rows = [[40.0, -200.0] * 4, [64.0, 90.0, -150.0, 33.0, 47.0, -INF, -110.0, -INF]]
    for renormalize in ("sum", "sum_plus_epsilon"):
        routing = Routing("sigmoid", renormalize=renormalize, epsilon=1e-20, scale=2.5)  # type: ignore[arg-type]
        weights = run(rows, routing, 4, Numerics()).weights
        assert weights.value.eq(0.625).all()
        assert weights.exact == (renormalize == "sum")


def test_route_rounds_the_logits_where_declared() -> None:
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    layer = Layer(8, 8, 8, 3, Routing("softmax", "topk_then_score"))
    rounded = route(x, layer, params(), Numerics(logits="bf16"))
    narrow = route(x.bfloat16(), layer, params(), Numerics())
    assert torch.equal(rounded.ids, narrow.ids)
    assert torch.equal(rounded.weights.value, narrow.weights.value)
    # Logits that bf16 does not tell apart tie; at their own type they do not.
    close = torch.tensor([[1.0, 1.0 + 2.0**-10, 0, 0, 0, 0, 0, 0]])
    assert route(close, layer, params(), Numerics(logits="bf16")).ids[0, 0] == 0
    assert route(close, layer, params(), Numerics()).ids[0, 0] == 1


def test_route_bf16_sum_of_a_bf16_bias_may_stay_wide() -> None:
    logits = torch.tensor([[0.0, 0.01, -9.0]]).bfloat16()
    bias = torch.tensor([8.0, 8.0, 0.0]).bfloat16()
    layer = Layer(8, 8, 3, 1, Routing("sigmoid", bias="selection"))
    for fused, both in ((True, True), (False, False)):
        numerics = Numerics(router="bf16", fused=fused)
        admissible = route(logits, layer, params(router_bias=bias), numerics).admissible
        assert bool(admissible.contains(torch.tensor([[0]])))
        assert bool(admissible.contains(torch.tensor([[1]]))) == both


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16]
)
def test_route_accepts_every_float_type(dtype: torch.dtype) -> None:
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    layer = Layer(8, 8, 8, 3, Routing())
    routed = route(x, layer, params(), REFERENCE)
    again = route(x.double(), layer, params(), REFERENCE)
    assert torch.equal(routed.ids, again.ids)
    assert torch.equal(routed.weights.value, again.weights.value)


def test_route_without_tokens() -> None:
    for routing in (Routing(), replace(V3, bias="none"), Routing(method="sparsemixer")):
        routed = run(torch.zeros(0, 16), routing, 2)
        assert routed.ids.shape == (0, 2)
        assert routed.weights.value.shape == (0, 2)
        assert routed.admissible.contains(routed.ids).shape == (0,)
        assert routed.admissible.margin.shape == (0,)
        assert routed.admissible.ambiguous.shape == (0,)


# ---- given selections


def test_weigh_of_own_ids_gives_own_weights() -> None:
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    for routing, k in (
        (V3, 4),
        (Routing("softmax", "topk_then_score"), 4),
        (Routing(method="sparsemixer"), 2),
    ):
        routed = run(x, routing, k, Numerics(), router_bias=torch.zeros(16))
        for order in (routed.ids, routed.ids.flip(1)):
            weights = routed.weights_for(order)
            want = dense(routed.ids, routed.weights.value, 16)
            torch.testing.assert_close(dense(order, weights.value, 16), want)


def test_weigh_rows_and_empty_slots() -> None:
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    for order in ("score_then_topk", "topk_then_score"):
        routed = run(x, Routing("softmax", order, renormalize="sum"), 3)  # type: ignore[arg-type]
        ids = torch.tensor([[4, -1, 2], [-1, -1, -1]])
        weights = routed.weights_for(ids, rows=torch.tensor([5, 0]))
        shares = x[5, [4, 2]].double().softmax(0)
        torch.testing.assert_close(weights.value[0, [0, 2]], shares)
        assert weights.value[0, 1] == 0.0
        assert weights.value[1].tolist() == [0.0, 0.0, 0.0]
        assert weights.worst is None or not bool(weights.worst[1].any())


def test_weigh_refuses_foreign_ids() -> None:
    routed = run([[1.0, 2.0, 3.0]], Routing(), 2)
    with pytest.raises(ValueError, match=r"id 3 is outside -1\.\.2; use -1"):
        routed.weights_for(torch.tensor([[3, 0]]))
    with pytest.raises(ValueError, match=r"shape \(1, 1\); give one of \(1, 2\)"):
        routed.weights_for(torch.tensor([[0]]))


def test_contains_rejects_what_is_no_selection() -> None:
    routed = run([[1.0, 2.0, 3.0]] * 4, Routing(), 2)
    ids = torch.tensor([[2, 1], [2, 2], [-1, 2], [3, 2]], dtype=torch.int32)
    assert routed.admissible.contains(ids).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match=r"shape \(1, 2\); this router chose \(4, 2\)"):
        routed.admissible.contains(ids[:1])
    with pytest.raises(TypeError, match="give an integer type"):
        routed.admissible.contains(ids.float())


def test_dense_adds_duplicates_and_skips_empty_slots() -> None:
    ids = torch.tensor([[0, 0, -1]])
    weights = torch.tensor([[1.0, 2.0, NAN]])
    assert dense(ids, weights, 2).tolist() == [[3.0, 0.0]]
    with pytest.raises(ValueError, match="id 2 is outside"):
        dense(torch.tensor([[2]]), torch.tensor([[1.0]]), 2)
    with pytest.raises(ValueError, match=r"weights \(1, 1\); give \[T, k\] twice"):
        dense(ids, weights[:, :1], 2)


# ---- hash routing


def hashed(token_ids: torch.Tensor | None, table: torch.Tensor | None) -> Routed:
    layer = Layer(8, 8, 4, 2, Routing("sqrtsoftplus", method="hash", renormalize="sum"))
    tensors = {} if table is None else {"hash_table": table}
    return route(torch.zeros(2, 4), layer, params(**tensors), token_ids=token_ids)


def test_route_hash_looks_ids_up() -> None:
    table = torch.tensor([[3, 1], [2, 2], [0, 1]], dtype=torch.int32)
    routed = hashed(torch.tensor([1, 0], dtype=torch.int32), table)
    assert routed.ids.tolist() == [[2, 2], [3, 1]]
    assert routed.weights.value.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert not bool(routed.admissible.ambiguous.any())
    assert routed.admissible.margin.tolist() == [INF, INF]
    given = torch.tensor([[2, 2], [1, 3]])
    assert routed.admissible.contains(given).all()
    assert not bool(routed.admissible.contains(given.flip(0)).any())
    selections = routed.admissible.selections(1)
    assert selections is not None
    assert selections.tolist() == [[3, 1]]


TABLE = torch.tensor([[3, 1], [2, 2]])
TOKENS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("token_ids", "table", "error", "message"),
    [
        (None, TABLE, ValueError, "token_ids are missing; hash routing looks"),
        (TOKENS, None, ValueError, "hash_table is missing; hash routing reads"),
        (TOKENS[:1], TABLE, ValueError, r"shape \(1,\); give \(2,\)"),
        (TOKENS.float(), TABLE, TypeError, "token_ids are torch.float32"),
        (TOKENS, TABLE.float(), TypeError, "hash_table are torch.float32"),
        (TOKENS + 1, TABLE, ValueError, r"token id 2 is outside the table's 0\.\.1"),
        (TOKENS, TABLE[:, :1], ValueError, r"give \[vocabulary, 2\]"),
        (TOKENS, TABLE + 1, ValueError, r"holds id 4, outside 0\.\.3"),
        (TOKENS, TABLE - 2, ValueError, r"holds id -1, outside 0\.\.3"),
    ],
)
def test_route_hash_refuses(
    token_ids: torch.Tensor | None,
    table: torch.Tensor | None,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        hashed(token_ids, table)


# ---- refusals

FLOATS = torch.zeros(3, 8)


@pytest.mark.parametrize(
    ("logits", "routing", "k", "tensors", "error", "message"),
    [
        (FLOATS.int(), Routing(), 2, {}, TypeError, "torch.int32; give a float tensor"),
        ([[0.0]], Routing(), 2, {}, TypeError, "logits are list; give a float tensor"),
        (FLOATS[0], Routing(), 2, {}, ValueError, r"shape \(8,\); .* needs \[T, 8\]"),
        (FLOATS[:, :7], Routing(), 2, {}, ValueError, r"needs \[T, 8\]"),
        (FLOATS, V3, 2, {}, ValueError, "router_bias is missing; the routing declares"),
        (FLOATS, V3, 2, {"router_bias": torch.zeros(4)}, ValueError, r"give \(8,\)"),
        (
            FLOATS, V3, 2, {"router_bias": torch.zeros(8).int()}, TypeError,
            "router_bias is torch.int32; give floats",
        ),
        (
            FLOATS, Routing(per_expert_scale=True), 2, {}, ValueError,
            "per_expert_scale is missing",
        ),
        (
            FLOATS, Routing(method="sparsemixer"), 3, {}, ValueError,
            "sparsemixer has two rounds, but top_k=3; give 2",
        ),
        (
            FLOATS, Routing(method="sparsemixer", bias="selection"), 2, {}, ValueError,
            "compares the logits alone, but bias='selection'",
        ),
        (
            torch.zeros(4, 10), Routing(method="sparsemixer", shared_logits=2), 2, {},
            ValueError, "not normalised together .* shared_logits=2; give 0",
        ),
        (
            FLOATS, Routing(method="sparsemixer", groups=2, top_groups=1), 2, {},
            ValueError, "sparsemixer knows no groups, but groups=2; give 1",
        ),
        (
            FLOATS, Routing(groups=8, top_groups=4, group_score="top2"), 2, {},
            ValueError, "groups=8 leave 1; use fewer groups or 'max'",
        ),
    ],
)  # fmt: skip
def test_route_refuses(
    logits: torch.Tensor,
    routing: Routing,
    k: int,
    tensors: dict[str, torch.Tensor],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        route(logits, Layer(8, 8, 8, k, routing), params(**tensors))


def test_route_refuses_groups_of_identity_experts() -> None:
    layer = Layer(8, 8, 8, 2, Routing(groups=2, zero_experts=2))
    with pytest.raises(
        ValueError, match="zero_experts=2 belong to no group; use groups"
    ):
        route(torch.zeros(1, 10), layer, params())


def test_route_refuses_a_softmax_over_shared_logits() -> None:
    layer = Layer(8, 8, 8, 2, Routing(shared_logits=2))
    with pytest.raises(ValueError, match="shared_logits=2 and a softmax are undefined"):
        route(torch.zeros(1, 10), layer, params())


def test_layer_refuses_more_choices_than_experts() -> None:
    with pytest.raises(ValueError, match="top_k=9 exceeds the 8 experts"):
        Layer(8, 8, 8, 9, Routing())
    with pytest.raises(ValueError, match="score='relu' is unknown; use one of"):
        Routing("relu")  # type: ignore[arg-type]
