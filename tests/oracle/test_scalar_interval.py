"""Enclosures of the second oracle, against mpmath and against float64 arithmetic."""

import math
import random
from fractions import Fraction

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle.scalar import elementary
from oracle.scalar.interval import (
    EXACT,
    FLOAT64,
    Interval,
    dot,
    maximum,
    precision,
    square_root,
    total,
)

FUNCTIONS = {
    "exp": mpmath.exp,
    "log1p": mpmath.log1p,
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "tanh": mpmath.tanh,
    "erf": mpmath.erf,
}
POINTS = [
    sign * x
    for x in (2.0**-149, 1e-9, 0.3, 0.5, 1.0, 2.0, 7.0, 16.99, 88.7, 500.0)
    for sign in (1, -1)
]
numbers = st.fractions(max_denominator=1 << 40, min_value=-(10**6), max_value=10**6)
floats = st.floats(-30, 30, allow_nan=False, allow_subnormal=False)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_scalar_functions_enclose_mpmath_narrowly(name):
    generator = random.Random(name)
    points = POINTS + [
        generator.uniform(-1, 1) * 2.0 ** generator.randint(-30, 8) for _ in range(60)
    ]
    with mpmath.workprec(2000):
        for x in points:
            x = abs(x) if name == "log1p" else x
            got = getattr(elementary, name)(Interval.of(x))
            want = FUNCTIONS[name](mpmath.mpf(x))
            ends = [
                mpmath.mpf(e.numerator) / e.denominator for e in (got.low, got.high)
            ]
            assert ends[0] <= want <= ends[1], x
            # Two ends, each one unit of 256 bits and one of the guarded series.
            assert got.high - got.low <= abs(got.high) * Fraction(1, 2**253), x


def test_scalar_constants_enclose_mpmath():
    with mpmath.workprec(600):
        for name, want in {"ln2": mpmath.ln2, "pi": mpmath.pi}.items():
            low, high = getattr(elementary, name)(300)
            assert mpmath.mpf(low.numerator) / low.denominator < want
            assert want < mpmath.mpf(high.numerator) / high.denominator
            # 65 terms at 1/5 and 28 at 1/239, 4 n + 2 units each, times 16 and 4.
            assert high - low < Fraction(16 * 262 + 4 * 114, 2**300)


def test_scalar_functions_are_exact_where_they_are_rational():
    zero = Interval.of(0)
    assert elementary.exp(zero) == Interval.of(1)
    assert elementary.sigmoid(zero) == Interval.of(Fraction(1, 2))
    for name in ("log1p", "tanh", "erf"):
        assert getattr(elementary, name)(zero) == zero
    assert square_root(Interval.of(Fraction(9, 16))) == Interval.of(Fraction(3, 4))


def test_scalar_exp_underflows_to_an_enclosure_of_zero():
    tiny = elementary.exp(Interval.of(-1e30))
    assert tiny.low == 0
    assert 0 < tiny.high < Fraction(1, 2**10000)
    with pytest.raises(OverflowError, match=r"exp\(1e\+30\) is beyond"):
        elementary.exp(Interval.of(1e30))


@given(numbers, numbers, numbers, numbers)
def test_scalar_arithmetic_encloses_fractions(a, b, c, d):
    x, y = Interval(min(a, b), max(a, b)), Interval(min(c, d), max(c, d))
    for p, q in ((a, c), (b, d), (a, d)):
        assert p + q in x + y
        assert p - q in x - y
        assert p * q in x * y
        assert max(p, q) in maximum([x, y])
        assert abs(p) in abs(x)
        if not y.low <= 0 <= y.high:
            assert p / q in x / y


@given(st.lists(floats, min_size=1, max_size=12), st.randoms())
def test_scalar_float64_encloses_sums_in_any_order(terms, generator):
    generator.shuffle(terms)
    with precision(FLOAT64):
        bounds = total(terms)
        products = dot(terms, terms[::-1])
    assert sum(terms) in bounds
    assert math.fsum(terms) in bounds
    assert sum(p * q for p, q in zip(terms, terms[::-1], strict=True)) in products


@given(floats, floats)
def test_scalar_float64_encloses_the_math_module(x, y):
    with precision(FLOAT64):
        a, b = Interval.of(x), Interval.of(y)
        assert math.exp(x) in elementary.exp(a)
        assert math.tanh(x) in elementary.tanh(a)
        assert math.erf(x) in elementary.erf(a)
        assert math.log1p(abs(x)) in elementary.log1p(abs(a))
        assert 1 / (1 + math.exp(-x)) in elementary.sigmoid(a)
        assert x * y + x in a * b + a
        if y:
            assert x / y in a / b


@given(floats)
def test_scalar_float64_encloses_the_truth(x):
    truth = elementary.exp(Interval.of(x)) / 3
    with precision(FLOAT64):
        region = elementary.exp(Interval.of(x)) / 3
    assert region.low <= truth.low <= truth.high <= region.high
    assert EXACT.unit == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Interval.of(math.nan), ValueError, "nan is not finite"),
        (
            lambda: Interval(Fraction(2), Fraction(1)),
            ValueError,
            "low=2 exceeds high=1",
        ),
        (lambda: 1 / Interval(Fraction(-1), Fraction(1)), ZeroDivisionError, "divisor"),
        (lambda: square_root(Interval.of(-1)), ValueError, "square root of -1.0"),
        (lambda: elementary.log1p(Interval.of(-1)), ValueError, "only y >= 0"),
    ],
)
def test_scalar_interval_refuses_what_has_no_enclosure(call, error, message):
    with pytest.raises(error, match=message):
        call()
