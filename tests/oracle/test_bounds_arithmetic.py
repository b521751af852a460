"""Sums, products, clamps and totals against fp32 and bf16 arithmetic in any order."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from oracle import bounds
from oracle.formats import round_to
from oracle.numerics import Numerics
from oracle.trace import Tap

KEEP = Numerics()


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=source, dtype=torch.float64) * scale


def uncertain(value: torch.Tensor, relative: float = 2.0**-12) -> Tap:
    radius = value.abs() * relative
    return Tap(value, radius, radius / 4, 2.0**-20)


def ends(tap: Tap) -> list[torch.Tensor]:
    """Just inside of v - r and v + r, which float64 cannot hold exactly, and v."""
    inside = tap.worst * (1 - 2.0**-30)
    return [tap.value - inside, tap.value, tap.value + inside]


@pytest.mark.parametrize("type", ["fp32", "bf16", "none", "fp64"])
@pytest.mark.parametrize("name", ["add", "multiply"])
def test_arithmetic_covers_operands_and_rounding(name, type):
    operation = getattr(bounds, name)
    plain = torch.add if name == "add" else torch.mul
    a, b = uncertain(normal(64, 32)), uncertain(normal(64, 1, seed=1, scale=2.0**-3))
    result = operation(a, b, type, KEEP)
    for x, y in itertools.product(ends(a), ends(b)):
        got = plain(x, y)
        assert ((got - result.value).abs() <= result.worst).all()
        if type != "none":
            assert ((round_to(got, type) - result.value).abs() <= result.worst).all()
    assert (result.likely <= result.worst).all()
    assert result.probability == 2 * 2.0**-20


@pytest.mark.parametrize("name", ["add", "multiply"])
def test_arithmetic_on_exact_operands_is_exact_where_the_type_has_the_result(name):
    operation = getattr(bounds, name)
    plain = torch.add if name == "add" else torch.mul
    a, b = round_to(normal(4096), "bf16"), round_to(normal(4096, seed=1), "bf16")
    wide = operation(Tap(a), Tap(b), "fp64", KEEP)
    assert wide.exact
    narrow = operation(Tap(a), Tap(b), "fp32", KEEP)
    want = round_to(plain(a, b), "fp32") == plain(a, b)
    worst = torch.zeros_like(a) if narrow.worst is None else narrow.worst
    assert torch.equal(worst == 0, want)
    assert ((round_to(plain(a, b), "fp32") - narrow.value).abs() <= worst).all()


def test_multiply_by_an_uncertain_zero_and_by_infinity():
    a = Tap(torch.tensor([0.0, 2.0, math.inf]).double(), torch.ones(3).double())
    b = bounds.exactly(torch.tensor([3.0, 0.0, 2.0]))
    assert bounds.multiply(a, b, "none", KEEP).worst[:2].tolist() == pytest.approx(
        [3, 0]
    )
    open_ended = Tap(torch.ones(1).double(), torch.tensor([math.inf]).double())
    zero = bounds.exactly(torch.zeros(1))
    assert bounds.multiply(open_ended, zero, "fp32", KEEP).worst.tolist() == [math.inf]


def test_likely_takes_worst_where_one_operand_has_no_statistics():
    a = uncertain(normal(8))
    b = Tap(normal(8, seed=1), torch.full((8,), 0.5).double())
    both = bounds.add(a, b, "none", KEEP)
    assert torch.allclose(both.likely, a.likely + b.worst)
    assert bounds.add(b, b, "none", KEEP).likely is None


@pytest.mark.parametrize("low, high", [(-1.0, 1.0), (None, 0.5), (0.0, None)])
def test_clamp_is_exact_monotone_and_collapses_beyond_the_limits(low, high):
    tap = uncertain(normal(4096), 2.0**-4)
    result = bounds.clamp(tap, low, high)
    low_, high_ = low if low is not None else -9e9, high if high is not None else 9e9
    far = torch.zeros_like(tap.value)
    for moved in ends(tap):
        error = (moved.clamp(low_, high_) - result.value).abs()
        assert (error <= result.worst).all()
        far = torch.maximum(far, error)
    assert torch.allclose(far, result.worst, rtol=0.0, atol=1e-8)
    assert (result.worst <= tap.worst).all()
    beyond = (tap.value.abs() - tap.worst > 1.1) & (result.value.abs() <= 1.0)
    assert result.worst[beyond & (result.value != tap.value)].eq(0).all()


def test_clamp_takes_limits_per_row_and_lets_nan_through():
    tap = bounds.exactly(torch.tensor([[5.0, math.nan], [5.0, -math.inf]]))
    limits = torch.tensor([[1.0], [math.inf]]).double()
    result = bounds.clamp_max(tap, limits)
    assert result.value[0, 0] == 1.0
    assert result.value[0, 1].isnan()
    assert result.value[1].tolist() == [5.0, -math.inf]
    assert bounds.clamp_min(tap, -2.0).value[1, 1] == -2.0
    assert result.exact


def test_clamp_within_the_limits_changes_nothing():
    tap = uncertain(normal(64))
    assert bounds.clamp(tap, -9.0, 9.0) is tap


@pytest.mark.parametrize("type", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_total_in_any_order_covers_every_order(type, count):
    entries = round_to(normal(256, count), type)
    tap = bounds.total(uncertain(entries, 2.0**-14), 1, type, KEEP)
    exact = bounds.total(Tap(entries), 1, type, KEEP)
    worst = torch.zeros(256).double() if exact.worst is None else exact.worst
    source = torch.Generator().manual_seed(1)
    for trial in range(12):
        order = torch.randperm(count, generator=source)
        moved = entries * (
            1 + 2.0**-14 * torch.randn(256, count, generator=source).sign()
        )
        for values, value, radius in (
            (entries, exact.value, worst),
            (moved, tap.value, tap.worst),
        ):
            got = _chain(values[:, order], type) if trial % 2 else _tree(values, type)
            assert ((got - value).abs() <= radius).all()
    if count > 2:
        assert (worst > 0).any()


def _chain(values: torch.Tensor, type: str) -> torch.Tensor:
    total = torch.zeros(len(values)).double()
    for j in range(values.shape[1]):
        total = round_to(total + values[:, j], type)
    return total


def _tree(values: torch.Tensor, type: str) -> torch.Tensor:
    if values.shape[1] == 1:
        return round_to(values[:, 0], type)
    half = values.shape[1] // 2
    left, right = _tree(values[:, :half], type), _tree(values[:, half:], type)
    return round_to(left + right, type)


@pytest.mark.parametrize("type", ["fp32", "bf16"])
def test_total_in_slot_order_is_simulated(type):
    entries = round_to(normal(512, 6), type)
    tap = bounds.total(Tap(entries), 1, type, KEEP, order="slot")
    assert tap.exact
    assert torch.equal(tap.value, _chain(entries, type))
    tap = bounds.total(uncertain(entries, 2.0**-20), 1, type, KEEP, order="slot")
    for moved in (entries * (1 - 2.0**-20), entries * (1 + 2.0**-20)):
        assert ((_chain(moved, type) - tap.value).abs() <= tap.worst).all()
    loose = bounds.total(Tap(entries), 1, type, KEEP, order="any")
    assert ((tap.value - loose.value).abs() <= loose.worst).all()


def test_total_is_exact_where_every_partial_sum_is():
    eighths = torch.tensor(
        [[1.0, -0.125, 31.0, 0.0], [1.0, -0.125, 32.0, 0.0]]
    ).double()
    tap = bounds.total(Tap(eighths), 1, "bf16", KEEP)
    # 2^8 eighths are 32.
    assert tap.worst.eq(0).tolist() == [True, False]
    assert bounds.total(Tap(eighths), 1, "fp32", KEEP).exact
    flush = Numerics(subnormals="flush")
    assert not bounds.total(Tap(eighths * 2.0**-125), 1, "fp32", flush).exact


def test_total_of_nothing_overflow_and_nonfinite():
    empty = bounds.total(Tap(torch.zeros(3, 0).double()), 1, "fp32", KEEP)
    assert empty.value.tolist() == [0.0, 0.0, 0.0]
    assert empty.exact
    large = torch.tensor(
        [[3e38, 3e38, -3e38], [math.inf, 1.0, 1.0], [math.nan, 1.0, 1.0]]
    )
    tap = bounds.total(Tap(large.double()), 1, "fp32", KEEP)
    assert tap.worst.tolist() == [math.inf, 0.0, 0.0]


def test_total_without_a_type_only_adds_radii():
    entries = normal(64, 4)
    tap = bounds.total(uncertain(entries), 1, "none", KEEP)
    spread = (entries.abs() * 2.0**-12).sum(1)
    assert (tap.worst >= spread).all()
    assert (tap.worst <= spread * (1 + 2.0**-30)).all()


def test_total_rejects_an_unknown_order():
    with pytest.raises(ValueError, match="order='expert' is unknown; use one of 'any'"):
        bounds.total(Tap(torch.ones(1, 2).double()), 1, "fp32", KEEP, order="expert")


def test_scatter_is_total_of_each_bucket():
    source = torch.Generator().manual_seed(5)
    index = torch.randint(0, 20, (300,), generator=source)
    values = uncertain(normal(300, seed=5))
    tap = bounds.scatter(values, index, 21, "bf16", KEEP)
    for bucket in range(21):
        inside = values.map(lambda t, b=bucket: t[index == b][None])
        alone = bounds.total(inside, 1, "bf16", KEEP)
        assert torch.allclose(alone.value[0], tap.value[bucket])
        assert torch.allclose(alone.worst[0], tap.worst[bucket])
    assert tap.value[20] == 0
    assert tap.worst[20] == 0


def test_constant_is_known_up_to_its_rounding():
    like = bounds.exactly(torch.zeros(1))
    assert bounds.constant(0.5, like).exact
    inexact = bounds.constant(1.702, like)
    stored = torch.tensor(1.702, dtype=torch.float32).double()
    assert float((stored - inexact.value).abs()) == float(inexact.worst)


def test_stack_and_concatenate_keep_every_radius():
    a, b = uncertain(normal(2, 3)), Tap(normal(2, 3, seed=1))
    side, long = bounds.stack([a, b]), bounds.concatenate(a, b)
    assert side.value.shape == (2, 2, 3)
    assert torch.equal(side.worst[:, 0], a.worst)
    assert side.worst[:, 1].eq(0).all()
    assert torch.equal(long.likely[:2], a.likely)
    assert bounds.stack([b, b]).worst is None
