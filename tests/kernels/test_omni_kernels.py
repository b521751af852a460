"""The product-key router bit for bit, its backward, and the one-neuron experts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle import omni as oracle
from oracle.numerics import Numerics
from refmoe.kernels import emulator
from refmoe.kernels.launchers.omni import (
    TACTICS,
    Tactic,
    omni_experts,
    omni_route,
    omni_route_backward,
)

NUMERICS = Numerics(combine_order="slot")
SUMS = [
    (torch.float32, "fp32"),
    (torch.bfloat16, "fp32"),
    (torch.bfloat16, "bf16"),
    (torch.float16, "fp16"),
]


def sides(
    tokens: int, n: int, dtype: torch.dtype, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of several kinds: smooth, tied, of far scales, all negative, all equal."""
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, tokens, n, generator=generator)
    both[:, 1::6] = both[:, 1::6].mul(2).round().div(2)
    both[0, 2::6] *= 1000
    both[:, 3::6] = -both[:, 3::6].abs() - 5
    both[:, 4::6] = 0.25
    both[1, 5::6, n // 2 :] = -math.inf
    x, y = both.to(dtype).contiguous()
    return x, y


def same(
    got: tuple[torch.Tensor, torch.Tensor], x: torch.Tensor, y: torch.Tensor,
    top_k: int, sum_type: str = "fp32",
) -> None:  # fmt: skip
    want = oracle.omni_route(x, y, top_k, sum_type=sum_type)
    scores, ids = got
    assert torch.equal(ids.long(), want.ids)
    exact = scores.double()
    torch.testing.assert_close(exact, want.scores, rtol=0, atol=0, equal_nan=True)
    kept = ~want.scores.isnan()
    assert torch.equal(exact[kept].signbit(), want.scores[kept].signbit())


@pytest.mark.parametrize(("dtype", "sum_type"), SUMS, ids=str)
@pytest.mark.parametrize(("n", "top_k"), [(3, 4), (16, 16), (64, 8), (100, 31)])
def test_omni_route_equals_oracle(
    n: int, top_k: int, dtype: torch.dtype, sum_type: str, any_order: None
) -> None:
    x, y = sides(7, n, dtype)
    same(omni_route(x, y, top_k, sum_type=sum_type), x, y, top_k, sum_type)


@pytest.mark.parametrize(("n", "top_k"), [(3, 9), (12, 5), (20, 33)])
def test_omni_route_naive_equals_oracle(n: int, top_k: int, emulated: None) -> None:
    x, y = sides(7, n, torch.float32)
    same(omni_route(x, y, top_k, naive=True), x, y, top_k)


@pytest.mark.parametrize("top_k", [1, 33, 65, 128])
def test_omni_route_takes_every_k(top_k: int, emulated: None) -> None:
    x, y = sides(6, 256, torch.float32, seed=1)
    same(omni_route(x, y, top_k), x, y, top_k)


@pytest.mark.parametrize("tactic", TACTICS, ids=str)
@pytest.mark.parametrize(("n", "top_k"), [(1, 1), (5, 25), (37, 20), (256, 16)])
def test_omni_route_is_the_same_under_every_tactic(
    n: int, top_k: int, tactic: Tactic, any_order: None
) -> None:
    x, y = sides(7, n, torch.float32, seed=2)
    same(omni_route(x, y, top_k, tactic=tactic), x, y, top_k)


def test_omni_route_widens_the_staircase_where_rounding_ties(emulated: None) -> None:
    """x0 > x1, yet fl(x0 + y) = fl(x1 + y): a lower id can stand off the stairs."""
    x = torch.tensor([[0.0, 2.0**-26, 2.0**-25, 2.0**-27]])
    y = torch.tensor([[1.0, 1.0, 0.5, 1.0]])
    for top_k in range(1, 13):
        same(omni_route(x, y, top_k), x, y, top_k)
        same(omni_route(x, y, top_k, tactic=Tactic(4, 1)), x, y, top_k)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf, -0.0])
def test_omni_route_orders_every_value(special: float, emulated: None) -> None:
    x, y = sides(6, 9, torch.float32, seed=3)
    x[0, 3], y[1, 2], x[2, :8] = special, special, special
    x[3], y[4], x[5, 1], y[5, 1] = special, special, special, -special
    for top_k in (5, 81):
        same(omni_route(x, y, top_k), x, y, top_k)
        same(omni_route(x, y, top_k, tactic=Tactic(8, 1)), x, y, top_k)


@given(st.data())
def test_omni_route_equals_oracle_on_any_ties(
    host_compiler: str, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, 12), "n")
    top_k = data.draw(st.integers(1, min(n * n, 32)), "top_k")
    near = st.sampled_from([0.0, -0.0, 1.0, 2.0**-24, -(2.0**-24), 3.0, -1.0, 0.5])
    wide = st.floats(width=32)
    values = st.lists(near | wide, min_size=n, max_size=n)
    x, y = (torch.tensor([data.draw(values, name)]) for name in ("x", "y"))
    with emulator.emulated(seed=data.draw(st.integers(0, 5), "order")):
        got = omni_route(
            x, y, top_k, tactic=data.draw(st.sampled_from(TACTICS), "tactic")
        )
    same(got, x, y, top_k)


@pytest.mark.parametrize(("n", "top_k"), [(300, 4), (12, 130)])
def test_omni_route_past_the_fast_kernel(n: int, top_k: int, emulated: None) -> None:
    x, y = sides(1, n, torch.float32)
    same(omni_route(x, y, top_k), x, y, top_k)


def test_omni_route_of_nothing(emulated: None) -> None:
    scores, ids = omni_route(torch.zeros(0, 4), torch.zeros(0, 4), 2)
    assert scores.shape == ids.shape == (0, 2)
    d_x, d_y = omni_route_backward(torch.zeros(3, 0), torch.zeros(3, 0).int(), 4)
    assert not bool(d_x.any() or d_y.any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_omni_route_backward_stays_within_bounds(
    dtype: torch.dtype, index: torch.dtype, any_order: None
) -> None:
    generator = torch.Generator().manual_seed(0)
    d_scores = torch.randn(9, 40, generator=generator).to(dtype)
    ids = torch.randint(0, 49, (9, 40), generator=generator).to(index)
    got = omni_route_backward(d_scores, ids, 7)
    want = oracle.omni_route_backward(d_scores, ids, 7, NUMERICS)
    for value, tap in zip(got, want, strict=True):
        room = 0.0 if tap.worst is None else tap.worst
        assert bool(((value.double() - tap.value).abs() <= room).all())


def test_omni_route_backward_adds_in_the_order_of_the_slots(emulated: None) -> None:
    d_scores = torch.tensor([[2.0**24, 1.0, 1.0, -(2.0**24)]])
    ids = torch.tensor([[5, 5, 5, 5]])
    d_x, d_y = omni_route_backward(d_scores, ids, 4)
    assert d_x.tolist() == [[0.0, 0.0, 0.0, 0.0]]
    assert d_y.tolist() == d_x.tolist()
    d_x, d_y = omni_route_backward(d_scores, torch.tensor([[-1, 5, 16, 4]]), 4)
    assert d_x.tolist() == [[0.0, 1.0 - 2.0**24, 0.0, 0.0]]
    assert d_y.tolist() == [[-(2.0**24), 1.0, 0.0, 0.0]]


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [40, 33])
def test_omni_experts_stay_within_bounds(
    width: int, dtype: torch.dtype, naive: bool, emulated: None
) -> None:
    generator = torch.Generator().manual_seed(1)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    x, up, down = randn(3, width), randn(25, width), randn(25, width)
    weights = torch.rand(3, 5, generator=generator)
    ids = torch.randint(-1, 25, (3, 5), generator=generator).int()
    ids[1], weights[2, 0] = -1, math.nan
    ids[2, 0] = -1
    got = omni_experts(x, ids, weights, up, down, naive=naive)
    numerics = NUMERICS.but(intermediate="bf16" if dtype == torch.bfloat16 else "fp32")
    want = oracle.omni_experts(x, ids, weights, up, down, numerics)
    room = 0.0 if want.worst is None else want.worst
    assert bool(((got.double() - want.value).abs() <= room).all())
    assert not bool(got[1].any())


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(shape), torch.zeros(shape)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: omni_route(torch.zeros(2, 3), torch.zeros(2, 4), 1), ValueError,
         r"logits_y has shape \(2, 4\); it must be \[2, 3\]"),
        (lambda: omni_route(torch.zeros(2, 3), torch.zeros(2, 3).half(), 1), TypeError,
         "logits_y is float16; convert it to float32"),
        (lambda: omni_route(*pair(2, 3), 10), ValueError, "top_k=10 lies"),
        (lambda: omni_route(*pair(2, 3), 0), ValueError, "top_k=0 lies"),
        (lambda: omni_route(*pair(2, 3), cast(int, 4.0)), TypeError,
         r"top_k=4.0 is a float; give a whole number in 1..9"),
        (lambda: omni_route(*pair(2, 3), 1, sum_type="bf16"), ValueError,
         "sum_type='bf16' does not hold logits of type fp32"),
        (lambda: omni_route_backward(torch.zeros(2, 3), torch.zeros(2, 3).int(), 0),
         ValueError, r"n=0 lies outside 1..1024"),
        (lambda: omni_route_backward(torch.zeros(2, 3), torch.zeros(2, 4).int(), 3),
         ValueError, r"ids has shape \(2, 4\); it must be \[2, 3\]"),
        (lambda: omni_experts(torch.zeros(2, 8), torch.zeros(2, 3).int(),
                              torch.zeros(2, 3), *pair(5, 9)), ValueError,
         r"up has shape \(5, 9\); it must be \[any, 8\]"),
    ],
)  # fmt: skip
def test_omni_refuses(
    call: Callable[[], object], error: type[Exception], message: str, emulated: None
) -> None:
    with pytest.raises(error, match=message):
        call()
