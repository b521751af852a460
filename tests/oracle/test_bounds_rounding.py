"""Rounding points: every result that v +- r may round to lies inside, and no others."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle import bounds
from oracle.formats import get, round_to
from oracle.numerics import Numerics
from oracle.trace import Tap

KEEP, FLUSH = Numerics(), Numerics(subnormals="flush")
TYPES = ("fp32", "bf16", "fp16", "fp64")
#: Just inside and just outside of v +- r: float64 cannot hold v + r exactly.
INSIDE, OUTSIDE = 1 - 2.0**-30, 1 + 2.0**-30


def samples(type: str, seed: int) -> Tap:
    """Values across the range of a type, some on its boundaries, with various radii."""
    source, entry = torch.Generator().manual_seed(seed), get(type)
    low = max(entry.minimum_exponent - entry.mantissa - 2, -900)
    high = min(entry.maximum_exponent + 1, 900)
    spread = torch.randint(low, high, (4096,), generator=source)
    value = torch.randn(4096, generator=source, dtype=torch.float64) * torch.exp2(
        spread.double()
    )
    value[::4] = round_to(value[::4], type)
    # Halfway between two neighbours: a tie.
    nearest = round_to(value[1::4], type)
    value[1::4] = nearest * (1 + 2.0 ** -(entry.mantissa + 2))
    value[value.isinf()] = 0.0
    size = torch.randint(-60, 3, (4096,), generator=source).double()
    radius = value.abs() * torch.exp2(size)
    radius[::3] = 0.0
    return Tap(value, radius, radius * 0.5, 2.0**-20)


@pytest.mark.parametrize("numerics", [KEEP, FLUSH], ids=["keep", "flush"])
@pytest.mark.parametrize("type", TYPES)
def test_rounded_covers_every_rounding_and_no_more(type, numerics):
    tap = samples(type, 1)
    result = bounds.rounded(tap, type, numerics)
    assert torch.equal(result.value, round_to(tap.value, type))
    outside = torch.zeros_like(result.value)
    for part in (-OUTSIDE, -INSIDE, -0.6, 0.0, 0.3, INSIDE, OUTSIDE):
        for subnormals in ("keep", numerics.subnormals):
            flush = subnormals == "flush" and type in ("fp32", "bf16")
            got = round_to(
                tap.value + part * tap.worst, type,
                subnormals="flush" if flush else "keep",
            )  # fmt: skip
            error = torch.where(got == result.value, 0.0, (got - result.value).abs())
            outside = torch.maximum(outside, error)
            if abs(part) < 1:
                assert (error <= result.worst).all()
            if abs(part) <= 0.5:
                assert (error <= result.likely).all()
    if type != "fp64":
        # There the outward rounding of v +- r is as wide as the gaps.
        assert (result.worst <= outside).all()
    assert (result.likely <= result.worst).all()
    assert result.probability == tap.probability


@pytest.mark.parametrize("numerics", [KEEP, FLUSH], ids=["keep", "flush"])
@pytest.mark.parametrize("type", TYPES)
def test_inexact_covers_rounding_and_not_rounding(type, numerics):
    tap = samples(type, 2)
    result = bounds.inexact(tap, type, numerics)
    assert torch.equal(result.value, tap.value)
    for part in (-INSIDE, -0.6, 0.0, 0.3, INSIDE):
        moved = tap.value + part * tap.worst
        for got in (moved, round_to(moved, type)):
            error = (got - tap.value).abs()
            assert (error <= result.worst).all()
    entry = get(type)
    unit = 2.0 ** -(entry.mantissa + 1) if type != "fp64" else 2.0**-51
    slack = (tap.value.abs() + tap.worst) * unit * 1.0001 + max(
        entry.quantum, entry.least_normal * (numerics is FLUSH)
    )
    assert (result.worst <= tap.worst + slack).all() or result.worst.isinf().any()
    exact = (tap.worst == 0) & (round_to(tap.value, type) == tap.value)
    if numerics is KEEP:
        assert result.worst[exact].eq(0).all()
    assert exact.any()


def test_inexact_without_radius_is_one_neighbour_away():
    tap = bounds.inexact(Tap(torch.tensor([1.0, 1.0 + 2.0**-9]).double()), "bf16", KEEP)
    assert tap.worst.tolist() == [0.0, 2.0**-9]
    assert bounds.inexact(Tap(torch.ones(2).double()), "bf16", KEEP).worst is None


def test_inexact_is_rounded_where_nothing_is_fused():
    tap = samples("bf16", 3)
    separate = KEEP.but(fused=False)
    got, want = bounds.inexact(tap, "bf16", separate), bounds.rounded(tap, "bf16", KEEP)
    assert torch.equal(got.value, want.value)
    assert torch.equal(got.worst, want.worst)


def test_rounded_radius_collapses_away_from_boundaries():
    value = torch.tensor([1.0, 1.0 + 2.0**-9, 1.0 + 2.0**-8]).double()
    tap = bounds.rounded(Tap(value, torch.full((3,), 2.0**-20).double()), "bf16", KEEP)
    # 1 + 2^-8 is a tie: 1 or 1 + 2^-7.
    assert tap.worst.tolist() == [0.0, 0.0, 2.0**-7]
    # Below a power of two the gap is half as wide.
    below = torch.tensor([1.0 - 2.0**-10]).double()
    tap = bounds.rounded(Tap(below, torch.full((1,), 2.0**-10).double()), "bf16", KEEP)
    assert (tap.value.tolist(), tap.worst.tolist()) == ([1.0], [2.0**-8])


@pytest.mark.parametrize("operation", [bounds.rounded, bounds.inexact])
@pytest.mark.parametrize("type, beyond", [("bf16", 3.4e38), ("fp16", 65519.9)])
def test_rounding_past_the_largest_value(operation, type, beyond):
    values = [beyond * 2, -beyond * 2, beyond, math.inf, math.nan]
    radii = [1.0, 1.0, beyond / 16, 1.0, 1.0]
    tap = Tap(*(torch.tensor(t, dtype=torch.float64) for t in (values, radii)))
    tap = operation(tap, type, KEEP)
    # Rounding surely overflows the first two; a kernel that skips it does not.
    certain = 0.0 if operation is bounds.rounded else math.inf
    assert tap.worst[:2].tolist() == [certain, certain]
    # Part of the third overflows; the others are Inf and NaN for everyone.
    assert tap.worst[2:].tolist() == [math.inf, 0.0, 0.0]


@pytest.mark.parametrize("operation", [bounds.rounded, bounds.inexact])
def test_rounding_keeps_unbounded_radii(operation):
    value = torch.tensor([0.0, 1.0, math.inf, math.nan]).double()
    tap = operation(Tap(value, torch.full((4,), math.inf).double()), "fp32", KEEP)
    assert tap.worst.tolist() == [math.inf] * 4


def test_rounding_to_none_is_no_rounding():
    tap = samples("fp32", 4)
    assert bounds.rounded(tap, "none", KEEP) is tap
    assert bounds.inexact(tap, "none", KEEP) is tap


def test_flushing_leaves_wider_exponents_alone():
    value = torch.tensor([2.0**-130, 2.0**-20]).double()
    for operation in (bounds.rounded, bounds.inexact):
        assert operation(Tap(value), "fp32", FLUSH).worst.tolist() == [2.0**-130, 0.0]
        assert operation(Tap(value[1:]), "fp16", FLUSH).worst is None
        assert operation(Tap(value), "fp64", FLUSH).worst is None


FINITE = st.floats(-1e30, 1e30)


@given(FINITE, st.floats(0, 1e30), st.floats(-1, 1), st.sampled_from(TYPES))
def test_rounded_contains_each_rounding(value, radius, part, type):
    tap = Tap(torch.tensor([value]).double(), torch.tensor([radius]).double())
    inside = torch.tensor([value + part * radius], dtype=torch.float64)
    if (inside - tap.value).abs() > tap.worst:
        return
    got = round_to(inside, type)
    for operation in (bounds.rounded, bounds.inexact):
        result = operation(tap, type, KEEP)
        same = got.equal(result.value) or bool(
            (got.isnan() & result.value.isnan()).all()
        )
        assert same or not bool((got - result.value).abs() > result.worst)
