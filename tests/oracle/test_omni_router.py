"""The product-key router against the outer sum and a stable sort."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle.numerics import PRESETS, Numerics
from oracle.omni import omni_route, omni_route_backward, side

NAN, INF = math.nan, math.inf
DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def by_sorting(
    x: torch.Tensor, y: torch.Tensor, k: int, sum_type: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """torch's own addition and stable sort; NaN after everything else."""
    dtype = DTYPES[sum_type]
    sums = (x.to(dtype)[:, :, None] + y.to(dtype)[:, None, :]).flatten(1)
    nan = sums.isnan()
    order = (
        torch.where(nan, -INF, sums).sort(dim=1, descending=True, stable=True).indices
    )
    order = order.gather(1, nan.gather(1, order).sort(dim=1, stable=True).indices)
    return sums.gather(1, order)[:, :k].to(x.dtype), order[:, :k]


def draw(regime: str, tokens: int, n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, n, generator=generator)
    if regime == "ties":
        return x.round()
    if regime == "log_softmax":
        return torch.log_softmax(4 * x, dim=1)
    if regime == "special":
        special = torch.tensor([INF, -INF, NAN, 0.0, -0.0])
        pick = torch.randint(0, 5, x.shape, generator=generator)
        rare = torch.rand(x.shape, generator=generator) < 0.3
        return torch.where(rare, special[pick], x)
    return x


@given(
    st.sampled_from(["randn", "ties", "log_softmax", "special"]),
    st.sampled_from(["fp64", "fp32", "bf16", "fp16"]),
    st.booleans(),
    st.integers(1, 12),
    st.integers(0, 2**32),
    st.data(),
)
def test_omni_route_equals_stable_sort(
    regime: str, name: str, wide: bool, n: int, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, n * n))
    sum_type = "fp32" if wide and name != "fp64" else name
    x = draw(regime, 5, n, seed).to(DTYPES[name])
    y = draw(regime, 5, n, seed + 1).to(DTYPES[name])
    routed = omni_route(x, y, k, sum_type=sum_type)
    scores, ids = by_sorting(x, y, k, sum_type)
    assert torch.equal(routed.ids, ids)
    torch.testing.assert_close(
        routed.scores, scores.double(), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("sum_type", ["fp32", "bf16"])
@pytest.mark.parametrize(("n", "k"), [(64, 17), (128, 32), (160, 1), (50, 2500)])
def test_omni_route_equals_stable_sort_at_real_sizes(
    n: int, k: int, sum_type: str
) -> None:
    x = draw("log_softmax", 24, n, n).bfloat16()
    y = draw("log_softmax", 24, n, k).bfloat16()
    routed = omni_route(x, y, k, sum_type=sum_type)
    scores, ids = by_sorting(x, y, k, sum_type)
    assert torch.equal(routed.ids, ids)
    assert torch.equal(routed.scores, scores.double())


def test_omni_route_goes_through_many_tokens_in_runs() -> None:
    x, y = draw("randn", 80, 256, 0), draw("ties", 80, 256, 1)
    routed = omni_route(x, y, 32)
    some = torch.arange(0, 80, 11)
    assert torch.equal(routed.ids[some], by_sorting(x[some], y[some], 32, "fp32")[1])


def test_omni_route_sum_type_decides_ties() -> None:
    """1 + 2^-9 is 1 in bf16: index 0 and 1 tie there, and only there."""
    x = torch.tensor([[1.0, -8.0]]).bfloat16()
    y = torch.tensor([[0.0, 2.0**-9]]).bfloat16()
    assert omni_route(x, y, 2).ids.tolist() == [[1, 0]]
    narrow = omni_route(x, y, 2, sum_type="bf16")
    assert narrow.ids.tolist() == [[0, 1]]
    assert narrow.scores.tolist() == [[1.0, 1.0]]
    # A wider sum is rounded to the logits' type when it is handed on.
    assert omni_route(x, y, 2).scores.tolist() == [[1.0, 1.0]]


def test_omni_route_with_fewer_finite_pairs_than_k() -> None:
    x = torch.tensor([[0.0, -INF, NAN]])
    routed = omni_route(x, torch.tensor([[-INF, 1.0, -INF]]), 9)
    assert routed.ids.tolist() == [[1, 0, 2, 3, 4, 5, 6, 7, 8]]
    assert routed.scores[0, 0] == 1.0
    assert routed.scores[0, 1:6].isneginf().all()
    assert routed.scores[0, 6:].isnan().all()


def test_omni_route_overflow_of_a_narrow_sum_is_infinite() -> None:
    x = torch.tensor([[60000.0, 1.0]]).half()
    routed = omni_route(x, x, 4, sum_type="fp16")
    assert routed.ids.tolist() == [[0, 1, 2, 3]]
    assert routed.scores[0, 0] == INF
    assert omni_route(x, x, 1).scores.tolist() == [[INF]]


def test_omni_route_without_tokens() -> None:
    routed = omni_route(torch.zeros(0, 3), torch.zeros(0, 3), 2)
    assert routed.ids.shape == (0, 2)
    d_x, d_y = omni_route_backward(torch.zeros(0, 2), routed.ids, 3)
    assert d_x.value.shape == d_y.value.shape == (0, 3)


F32 = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((F32, F32.double(), 1), {}, TypeError, "float32 and torch.float64; give both"),
        ((F32.int(), F32.int(), 1), {}, TypeError, "a tensor is torch.int32; give"),
        ((F32, F32[:, :2], 1), {}, ValueError, r"\(2, 3\) and \(2, 2\); give \[T, n\]"),
        ((F32[0], F32[0], 1), {}, ValueError, r"give \[T, n\] twice"),
        ((F32[:, :0], F32[:, :0], 1), {}, ValueError, "n >= 1"),
        ((F32, F32, 0), {}, ValueError, r"top_k=0 lies outside 1\.\.9"),
        ((F32, F32, 10), {}, ValueError, r"top_k=10 lies outside 1\.\.9"),
        ((F32, F32, 1), {"sum_type": "e4m3"}, ValueError, "'e4m3' is unknown; use one"),
        ((F32, F32, 1), {"sum_type": "bf16"}, ValueError, "'bf16' cannot hold logits"),
        (
            (F32.half(), F32.half(), 1), {"sum_type": "bf16"}, ValueError,
            "cannot hold logits of type 'fp16'; give logits of that type or a wider",
        ),
    ],
)  # fmt: skip
def test_omni_route_refuses(
    arguments: tuple[torch.Tensor, torch.Tensor, int],
    options: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        omni_route(*arguments, **options)


@pytest.mark.parametrize("experts", [0, 2, 65535])
def test_side_refuses_what_is_no_square(experts: int) -> None:
    with pytest.raises(ValueError, match=f"experts={experts} is not a square"):
        side(experts)


# ---- backward


@pytest.mark.parametrize(("n", "k"), [(3, 1), (3, 9), (8, 5)])
def test_omni_route_backward_equals_autograd(n: int, k: int) -> None:
    x = draw("randn", 6, n, 0).double().requires_grad_()
    y = draw("randn", 6, n, 1).double().requires_grad_()
    ids = omni_route(x.detach(), y.detach(), k, sum_type="fp64").ids
    scores = (x[:, :, None] + y[:, None, :]).flatten(1).gather(1, ids)
    d_scores = draw("randn", 6, k, 2).double()
    scores.backward(d_scores)
    d_x, d_y = omni_route_backward(d_scores, ids, n, PRESETS["reference"])
    for got, want in ((d_x, x.grad), (d_y, y.grad)):
        torch.testing.assert_close(got.value, want, rtol=0, atol=1e-14)


def test_omni_route_passes_gradcheck() -> None:
    class Router(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):  # type: ignore[no-untyped-def]
            routed = omni_route(x, y, 7, sum_type="fp64")
            ctx.ids = routed.ids
            return routed.scores

        @staticmethod
        def backward(ctx, d_scores):  # type: ignore[no-untyped-def]
            gradients = omni_route_backward(d_scores, ctx.ids, 4, PRESETS["reference"])
            return tuple(gradient.value for gradient in gradients)

    x = draw("randn", 3, 4, 0).double().requires_grad_()
    y = draw("randn", 3, 4, 1).double().requires_grad_()
    assert torch.autograd.gradcheck(Router.apply, (x, y))


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_omni_route_backward_holds_sums_in_any_order(name: str) -> None:
    """float32 atomics in two orders, then a rounding to the gradient's type."""
    n, k, tokens = 4, 12, 40
    ids = torch.rand(tokens, 16, generator=torch.Generator().manual_seed(0)).argsort(1)
    ids = ids[:, :k]
    d_scores = draw("randn", tokens, k, 3).to(DTYPES[name])
    d_x, d_y = omni_route_backward(d_scores, ids, n)
    for flip in (False, True):
        order = ids.flip(1) if flip else ids
        values = (d_scores.flip(1) if flip else d_scores).float()
        for tap, place in ((d_x, order // n), (d_y, order % n)):
            got = torch.zeros(tokens, n)
            for j in range(k):
                got.scatter_add_(1, place[:, j : j + 1], values[:, j : j + 1])
            away = (got.to(DTYPES[name]).double() - tap.value).abs()
            worst = torch.zeros(()) if tap.worst is None else tap.worst
            assert bool((away <= worst).all())
            assert bool((worst <= 2.0**-20 * (tap.value.abs() + 1)).all())
    # bf16 gradients of one spread add up exactly in float32, in any order.
    assert d_x.exact == (name == "bf16")


def test_omni_route_backward_of_dyadic_gradients_is_exact() -> None:
    ids = torch.tensor([[0, 1, 3, 2], [3, 0, 1, 2]])
    d_scores = torch.tensor([[1.0, 0.5, -2.0, 4.0], [0.25, 8.0, 1.0, -1.0]])
    d_x, d_y = omni_route_backward(d_scores, ids, 2)
    assert d_x.exact
    assert d_x.value.tolist() == [[1.5, 2.0], [9.0, -0.75]]
    assert d_y.value.tolist() == [[5.0, -1.5], [7.0, 1.25]]


@pytest.mark.parametrize(
    ("d_scores", "ids", "error", "message"),
    [
        (F32, torch.zeros(2, 3), TypeError, "ids are torch.float32; give an integer"),
        (F32, torch.zeros(3).long(), ValueError, r"shape \(3,\); give \[T, k\]"),
        (F32, torch.zeros(2, 2).long(), ValueError, r"\(2, 3\); give \(2, 2\)"),
        (F32, torch.full((2, 3), 9), ValueError, r"id 9 lies outside 0\.\.8"),
        (F32, torch.full((2, 3), -1), ValueError, r"id -1 lies outside 0\.\.8"),
        (F32.int(), torch.zeros(2, 3).long(), TypeError, "is torch.int32"),
    ],
)
def test_omni_route_backward_refuses(
    d_scores: torch.Tensor, ids: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        omni_route_backward(d_scores, ids, 3, Numerics())
