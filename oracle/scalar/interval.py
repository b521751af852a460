"""Enclosures [low, high] of real numbers, with directed rounding at a stated precision.

Under `EXACT`, 256 significant bits, an enclosure is narrower than 1e-70 per operation.
Under `FLOAT64`, every operation widens its result by four float64 roundings (51 bits,
not 53, so that a program may arrange a formula otherwise, say with a reciprocal): the
result encloses whatever such a program computes with sums in any order and elementary
functions within 4 ulps. One definition of a formula thus yields both the truth and the
derived distance at which float64 may stand from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction

Number = int | float | Fraction


@dataclass(frozen=True, slots=True)
class Precision:
    """How results are rounded outward: to `bits`, and to multiples of 2**minimum."""

    bits: int
    #: Relative and absolute error granted to every elementary function.
    elementary: Fraction = Fraction(0)
    elementary_floor: Fraction = Fraction(0)
    #: Unit roundoff of sums in any order; 0 where a sum is rounded once.
    unit: Fraction = Fraction(0)
    minimum: int | None = None


EXACT = Precision(256)
FLOAT64 = Precision(
    51, Fraction(1, 2**50), Fraction(1, 2**1022), Fraction(1, 2**53), -1074
)
_precision: ContextVar[Precision] = ContextVar("precision", default=EXACT)


def current() -> Precision:
    """The precision in force."""
    return _precision.get()


@contextmanager
def precision(new: Precision) -> Iterator[None]:
    """Evaluate the block's enclosures under another precision.

    >>> with precision(FLOAT64):
    ...     third = Interval.of(1) / 3
    >>> third.low < Fraction(1, 3) < third.high
    True
    """
    token = _precision.set(new)
    try:
        yield
    finally:
        _precision.reset(token)


def round_down(x: Fraction, to: Precision) -> Fraction:
    """The largest number of `to`'s grid that is <= x."""
    n, d = x.numerator, x.denominator
    exponent = abs(n).bit_length() - d.bit_length()
    # 2**(exponent - 1) < |x| < 2**(exponent + 1): take the upper half one bit coarser.
    upper = abs(n) << max(-exponent, 0) >= d << max(exponent, 0)
    shift = to.bits - exponent - upper
    if to.minimum is not None:
        shift = min(shift, -to.minimum)
    if d & (d - 1) == 0 and d.bit_length() - 1 <= shift:
        return x
    if shift >= 0:
        return Fraction((n << shift) // d, 1 << shift)
    return Fraction((n // (d << -shift)) << -shift)


def round_up(x: Fraction, to: Precision) -> Fraction:
    """The smallest number of `to`'s grid that is >= x."""
    return -round_down(-x, to)


def exact(x: Number) -> Fraction:
    """`x` as a Fraction; raises ValueError for NaN and infinities."""
    if isinstance(x, float) and not math.isfinite(x):
        raise ValueError(f"scalar: {x} is not finite; enclosures hold finite numbers")
    return Fraction(x)


@dataclass(frozen=True, slots=True)
class Interval:
    """All reals between `low` and `high`, both included."""

    low: Fraction
    high: Fraction

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"Interval: low={self.low} exceeds high={self.high}")

    @classmethod
    def of(cls, x: Number | Interval) -> Interval:
        """A number as the interval that holds it alone."""
        return x if isinstance(x, Interval) else cls(exact(x), exact(x))

    @classmethod
    def outward(cls, low: Fraction, high: Fraction) -> Interval:
        """[low, high] rounded outward to the precision in force."""
        to = current()
        return cls(round_down(low, to), round_up(high, to))

    @property
    def magnitude(self) -> Fraction:
        """The largest absolute value inside."""
        return max(abs(self.low), abs(self.high))

    @property
    def point(self) -> bool:
        """Whether the interval holds one number only."""
        return self.low == self.high

    def __contains__(self, x: Number) -> bool:
        return self.low <= exact(x) <= self.high

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __abs__(self) -> Interval:
        if self.low >= 0:
            return self
        return -self if self.high <= 0 else Interval(Fraction(0), self.magnitude)

    def __add__(self, other: Number | Interval) -> Interval:
        y = Interval.of(other)
        return Interval.outward(self.low + y.low, self.high + y.high)

    def __sub__(self, other: Number | Interval) -> Interval:
        return self + -Interval.of(other)

    def __mul__(self, other: Number | Interval) -> Interval:
        y = Interval.of(other)
        if self.point and y.point:
            return Interval.outward(self.low * y.low, self.low * y.low)
        corners = [a * b for a in (self.low, self.high) for b in (y.low, y.high)]
        return Interval.outward(min(corners), max(corners))

    def __truediv__(self, other: Number | Interval) -> Interval:
        y = Interval.of(other)
        if y.low <= 0 <= y.high:
            raise ZeroDivisionError(
                f"scalar: the divisor lies in [{float(y.low)}, {float(y.high)}] and "
                "may be zero; the quotient has no enclosure"
            )
        corners = [a / b for a in (self.low, self.high) for b in (y.low, y.high)]
        return Interval.outward(min(corners), max(corners))

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Number) -> Interval:
        return Interval.of(other) - self

    def __rtruediv__(self, other: Number) -> Interval:
        return Interval.of(other) / self

    def clamp(self, low: Number | None = None, high: Number | None = None) -> Interval:
        """min(max(x, low), high): exact; None leaves a side open."""
        ends = [self.low, self.high]
        if low is not None:
            ends = [max(end, exact(low)) for end in ends]
        if high is not None:
            ends = [min(end, exact(high)) for end in ends]
        return Interval(ends[0], ends[1])


def total(terms: Iterable[Interval | Number]) -> Interval:
    """Sum in any order: |computed - sum| <= gamma(n-1) * sum |t|, gamma(m) = mu/(1-mu).

    Source: Higham, Accuracy and Stability of Numerical Algorithms, section 4.2. An
    empty sum is 0.
    """
    parts = [Interval.of(term) for term in terms]
    steps = max(len(parts) - 1, 0) * current().unit
    slack = steps / (1 - steps) * sum((part.magnitude for part in parts), Fraction(0))
    low = sum((part.low for part in parts), Fraction(0))
    high = sum((part.high for part in parts), Fraction(0))
    return Interval.outward(low - slack, high + slack)


def dot(a: Sequence[Interval | Number], b: Sequence[Interval | Number]) -> Interval:
    """sum of a_i b_i: every product rounded once, summed in any order."""
    return total(Interval.of(p) * q for p, q in zip(a, b, strict=True))


def maximum(items: Iterable[Interval]) -> Interval:
    """The largest of several numbers, exactly enclosed."""
    parts = list(items)
    return Interval(max(part.low for part in parts), max(part.high for part in parts))


def square_root(x: Interval) -> Interval:
    """The square root by integer square roots, floor below and ceiling above."""
    if x.low < 0:
        raise ValueError(f"scalar: square root of {float(x.low)}; give numbers >= 0")
    low, high = _root_below(x.low), _root_below(x.high)
    if low * low == x.low and high * high == x.high:
        return Interval.outward(low, high)
    return Interval.outward(low, high * (1 + Fraction(1, 2 ** (current().bits + 7))))


def _root_below(x: Fraction) -> Fraction:
    """A number r with r <= sqrt(x) < r (1 + 2**-(bits + 7)); exact for squares."""
    if x == 0:
        return x
    shift = current().bits + 10 + x.denominator.bit_length()
    # floor(sqrt(x) 2**shift): at least bits + 10 significant bits, since
    # sqrt(x) >= 2**-ceil(denominator bits / 2).
    root = math.isqrt((x.numerator << (2 * shift)) // x.denominator)
    return Fraction(root, 1 << shift)
