"""Elementary functions against fp32 and fast-math implementations over their range."""

from __future__ import annotations

import math

import pytest
import torch

from oracle import bounds
from oracle.formats import round_to
from oracle.numerics import CORRECT, PRESETS, Elementary, Numerics
from oracle.trace import Tap

IEEE, FAST = PRESETS["ieee"], PRESETS["cuda_fast"]
LOG2_E = float(torch.tensor(1 / math.log(2), dtype=torch.float32))
NAMES = ("exp", "sigmoid", "tanh", "erf", "log1p", "sqrt")


def function(name: str):
    return torch.erf if name == "erf" else getattr(torch, name)


def arguments(name: str, seed: int = 0, count: int = 20000) -> torch.Tensor:
    """fp32 values of every size that the function has a use for, and its landmarks."""
    source = torch.Generator().manual_seed(seed)
    exponent = torch.rand(count, generator=source, dtype=torch.float64) * 160 - 150
    values = torch.exp2(exponent) * torch.randn(count, generator=source).sign()
    values[: count // 2] = torch.randn(count // 2, generator=source).double() * 30
    if name in ("log1p", "sqrt"):
        values = values.abs()
    special = [0.0, -0.0, 1.0, 4.0, 17.0, 88.5, 88.73, 104.0, 120.0, math.inf]
    values = torch.cat([values, torch.tensor(special, dtype=torch.float64)])
    if name in ("exp", "sigmoid", "tanh", "erf"):
        values = torch.cat([values, -values[-9:]])
    return round_to(values, "fp32")


def inside(got: torch.Tensor, tap: Tap, radius: torch.Tensor | None = None) -> bool:
    worst = tap.worst if radius is None else radius
    worst = torch.zeros_like(tap.value) if worst is None else worst
    same = (got == tap.value) | (got.isnan() & tap.value.isnan())
    return bool((same | ((got - tap.value).abs() <= worst)).all())


@pytest.mark.parametrize("name", NAMES)
def test_elementary_bounds_hold_for_torch(name):
    """torch's fp32 functions are libm's or SLEEF's: an ulp or so."""
    x = arguments(name)
    got = function(name)(x.float()).double()
    assert inside(got, getattr(bounds, name)(Tap(x), IEEE))


def off(x: torch.Tensor, relative: float, source: torch.Generator) -> torch.Tensor:
    """x off by up to `relative`, its own rounding to fp32 included; flushed."""
    error = torch.rand(x.shape, generator=source, dtype=torch.float64) * 2 - 1
    moved = x * (1 + error * (relative - 2.0**-24))
    return round_to(moved, "fp32", subnormals="flush")


def ex2(t: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """ex2.approx.ftz: 2^-22."""
    return off(torch.exp2(t), 2.0**-22, source)


def fast_exp(x: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """ex2.approx(x * log2 e), the product rounded to fp32: 0 maps to 1."""
    got = ex2(round_to(x * LOG2_E, "fp32"), source)
    return torch.where(x == 0, 1.0, got)


def fast_divide(a: float, b: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """__fdividef: 2 ulps; by 1 and 2 exact; zero past 2^126."""
    got = off(a / b, 2.0**-22, source)
    got = torch.where(b == 1, a, got)
    got = torch.where(b == 2, a / 2, got)
    return torch.where(b > 2.0**126, 0.0, got)


@pytest.mark.parametrize("preset", ["cuda_fast", "triton", "triton_kernels"])
@pytest.mark.parametrize("name", ["exp", "sigmoid"])
def test_elementary_bounds_hold_for_fast_math(name, preset):
    source, x = torch.Generator().manual_seed(1), arguments(name)
    got = fast_exp(x, source)
    if name == "sigmoid":
        got = fast_divide(1.0, round_to(1 + fast_exp(-x, source), "fp32"), source)
    tap = getattr(bounds, name)(Tap(x), PRESETS[preset])
    assert inside(got, tap)
    # Not vacuous: half of what is allowed for ex2 alone is used.
    used = ((got - tap.value).abs() / tap.worst)[tap.value > 2.0**-100].nan_to_num(0.0)
    assert used.max() > 0.2
    if name == "exp":
        assert not inside(got, bounds.exp(Tap(x), IEEE))


@pytest.mark.parametrize("preset", ["ieee", "flashinfer_trtllm"])
def test_sigmoid_by_tanh_needs_an_absolute_error(preset):
    x = arguments("sigmoid")
    half = round_to(torch.tanh((x / 2).float()).double() / 2, "fp32")
    got = round_to(half + 0.5, "fp32")
    assert inside(got, bounds.sigmoid(Tap(x), PRESETS[preset])) is (preset != "ieee")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("relative", [2.0**-20, 2.0**-6, 2.0])
def test_elementary_carries_the_radius_of_the_argument(name, relative):
    x = arguments(name, seed=2)
    x = x[x.isfinite()]
    radius = x.abs() * relative
    tap = getattr(bounds, name)(Tap(x, radius, radius / 8, 2.0**-20), IEEE)
    assert (tap.likely <= tap.worst).all()
    for part in (-1.0, -0.12, 0.0, 0.12, 1.0):
        moved = x + part * radius * (1 - 2.0**-30)
        moved = moved.clamp_min(0.0) if name == "sqrt" else moved
        if name == "log1p":
            moved = moved.clamp_min(-1.0)
        got = function(name)(moved.float()).double()
        # fp32 cannot hold the moved argument; it is off by another half ulp.
        shift = (function(name)(moved) - function(name)(moved.float().double())).abs()
        shift = shift.nan_to_num(nan=0.0)
        assert inside(got, tap, tap.worst + shift)
        if abs(part) < 0.125:
            assert inside(got, tap, tap.likely + shift)


@pytest.mark.parametrize(
    "preset", ["ieee", "cuda_fast", "triton", "hf_bf16", "reference"]
)
def test_elementary_ends_are_exact(preset):
    numerics = PRESETS[preset]
    far = bounds.exactly(torch.tensor([38.0, 300.0, 6000.0, math.inf]))
    sigmoid = bounds.sigmoid(far, numerics)
    assert sigmoid.exact
    assert sigmoid.value.eq(1).all()
    below = bounds.exactly(torch.tensor([-800.0, -6000.0, -math.inf]))
    for name in ("sigmoid", "exp"):
        tap = getattr(bounds, name)(below, numerics)
        assert tap.exact
        assert tap.value.eq(0).all()
    assert bounds.tanh(far, numerics).exact
    assert bounds.erf(below, numerics).value.eq(-1).all()
    over = bounds.exp(bounds.exactly(torch.tensor([800.0])), numerics)
    assert over.exact
    assert over.value.tolist() == [math.inf]


def test_sigmoid_saturates_where_the_sum_rounds_to_one():
    """e^-x < 2^-25: 1 + e^-x is 1 in fp32, whatever exp is off by. x > 17.33."""
    edge = 25 * math.log(2)
    around = bounds.exactly(torch.tensor([edge - 0.01, edge + 0.01]).double())
    tap = bounds.sigmoid(around, IEEE)
    assert tap.worst.eq(0).tolist() == [False, True]
    assert tap.value[1] == 1.0
    wide = bounds.sigmoid(around, PRESETS["reference"])
    assert wide.worst.gt(0).all()
    # A radius that stays beyond the edge changes nothing; one that reaches it does.
    for value, exact in ((20.0, True), (18.0, False)):
        tap = bounds.sigmoid(
            Tap(torch.tensor([value]).double(), torch.ones(1).double()), IEEE
        )
        assert tap.exact is exact


def test_elementary_without_landmarks_claims_nothing():
    numerics = Numerics(
        exp=Elementary(2.0**-20, landmarks=False),
        sigmoid=Elementary(2.0**-20, landmarks=False),
        divide=Elementary(2.0**-20, landmarks=False),
    )
    points = bounds.exactly(torch.tensor([0.0, 30.0, -300.0]))
    for name in ("exp", "sigmoid"):
        assert getattr(bounds, name)(points, numerics).worst.gt(0).all()
    one = bounds.exactly(torch.ones(1))
    assert not bounds.divide(one, one, numerics).exact


def test_elementary_landmarks_are_exact():
    zero = bounds.exactly(torch.zeros(1))
    for name, value in (
        ("exp", 1),
        ("sigmoid", 0.5),
        ("tanh", 0),
        ("erf", 0),
        ("log1p", 0),
    ):
        for numerics in (IEEE, FAST):
            tap = getattr(bounds, name)(zero, numerics)
            assert tap.exact
            assert tap.value.tolist() == [value]


def test_exp_overflow_is_open_only_where_it_is_unsure():
    limit = math.log(3.4028234e38)
    values = torch.tensor([88.0, limit, 88.73, 90.0], dtype=torch.float64)
    tap = bounds.exp(Tap(values), IEEE)
    assert tap.worst.isinf().tolist() == [False, True, False, False]
    assert tap.value[2:].tolist() == [math.inf, math.inf]
    # The last may also be e^80.
    tap = bounds.exp(Tap(values, torch.full((4,), 10.0).double()), IEEE)
    assert tap.worst[1:].tolist() == [math.inf] * 3


def test_sqrt_is_exact_for_squares_where_it_is_correctly_rounded():
    values = bounds.exactly(torch.tensor([4.0, 9.0, 2.0, 0.0, 2.0**-40]))
    correct = bounds.sqrt(values, IEEE.but(sqrt=CORRECT))
    assert correct.worst.eq(0).tolist() == [True, True, False, True, True]
    approximate = bounds.sqrt(values, FAST)
    assert approximate.worst.eq(0).tolist() == [False, False, False, True, False]
    assert bounds.sqrt(bounds.exactly(torch.tensor([-1.0])), IEEE).value.isnan()


def test_divide_covers_operands_and_rounding():
    source = torch.Generator().manual_seed(3)
    a, b = (torch.randn(4096, generator=source).double() for _ in range(2))
    a_radius, b_radius = a.abs() * 2.0**-14, b.abs() * 2.0**-13
    tap = bounds.divide(Tap(a, a_radius), Tap(b, b_radius), IEEE)
    for first in (-1, 0, 1):
        for second in (-1, 0, 1):
            exact = (a + first * a_radius) / (b + second * b_radius)
            assert ((round_to(exact, "fp32") - tap.value).abs() <= tap.worst).all()
    plain = bounds.divide(Tap(a), Tap(b), IEEE)
    got = (a.float() / b.float()).double()
    assert ((got - plain.value).abs() <= plain.worst).all()
    assert ((got - plain.value).abs() > plain.worst / 2).any()


@pytest.mark.parametrize("numerics", [IEEE, FAST], ids=["ieee", "fast"])
def test_divide_by_powers_of_two_is_exact_and_others_where_correctly_rounded(numerics):
    a = bounds.exactly(torch.tensor([3.0, 6.0, 1.0]))
    b = bounds.exactly(torch.tensor([4.0, 3.0, 3.0]))
    tap = bounds.divide(a, b, numerics)
    assert tap.worst.eq(0).tolist() == [True, numerics is IEEE, False]


def test_divide_by_what_may_be_zero_is_open():
    one = bounds.exactly(torch.ones(3))
    b = Tap(
        torch.tensor([1.0, 0.5, 0.0]).double(), torch.tensor([0.5, 0.5, 0.0]).double()
    )
    tap = bounds.divide(one, b, IEEE)
    assert tap.worst[:2].tolist() == [pytest.approx(1.0), math.inf]
    assert tap.value[2] == math.inf
    assert tap.worst[2] == 0.0


def test_elementary_lets_nan_through():
    nan = Tap(torch.tensor([math.nan]).double(), torch.ones(1).double())
    for name in NAMES:
        tap = getattr(bounds, name)(nan, IEEE)
        assert tap.value.isnan().all()
        assert tap.worst.eq(0).all()
