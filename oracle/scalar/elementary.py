"""Certified enclosures of exp, log1p, softplus, sigmoid, tanh and erf.

Every series here has positive terms, so rounding each term down gives a lower bound and
rounding each up, with a bound of the remainder, an upper one. Fixed-point integers with
guard bits carry them. Results are exact where the function is rational (exp 0 = 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from oracle.scalar.interval import Interval, current

Bounds = tuple[Fraction, Fraction]

#: Beyond this argument exp is not evaluated: below, it lies in [0, 2**-LIMIT].
LIMIT = 1 << 14
_GUARD = 32


def _inverse_series(q: int, bits: int, sign: int) -> tuple[int, int]:
    """atan(1/q) (sign -1) or atanh(1/q) (sign +1), scaled by 2**bits: low and high."""
    power, total, n, signed = (1 << bits) // q, 0, 0, 1
    while power:
        total += signed * (power // (2 * n + 1))
        power //= q * q
        signed *= sign
        n += 1
    # Each of the n terms lost less than 2 units, the tail is below 1.
    return total - 2 * n - 1, total + 2 * n + 1


@lru_cache
def ln2(bits: int) -> Bounds:
    """ln 2 = 2 atanh(1/3)."""
    low, high = _inverse_series(3, bits, 1)
    return Fraction(2 * low, 1 << bits), Fraction(2 * high, 1 << bits)


@lru_cache
def pi(bits: int) -> Bounds:
    """pi = 16 atan(1/5) - 4 atan(1/239) (Machin)."""
    low5, high5 = _inverse_series(5, bits, -1)
    low239, high239 = _inverse_series(239, bits, -1)
    low, high = 16 * low5 - 4 * high239, 16 * high5 - 4 * low239
    return Fraction(low, 1 << bits), Fraction(high, 1 << bits)


def _power_series(
    x: Bounds, bits: int, step: Callable[[int], tuple[int, int]]
) -> Bounds:
    """1 + a1 x + a1 a2 x^2 + ... for 0 <= x, where a_n = p/q = step(n).

    Summed until a term is a unit and the ratio of terms, which must fall, is below 1/2:
    then the rest is at most twice the next term.
    """
    one = 1 << bits
    low_x = (x[0].numerator << bits) // x[0].denominator
    high_x = -((-x[1].numerator << bits) // x[1].denominator)
    low = high = 0
    low_term = high_term = one
    n = 0
    while True:
        low, high = low + low_term, high + high_term
        n += 1
        p, q = step(n)
        low_term = low_term * low_x * p // (q << bits)
        high_term = -(-high_term * high_x * p // (q << bits))
        if high_term <= 1 and 2 * high_x * p <= q << bits:
            return Fraction(low, one), Fraction(high + 2 * high_term, one)


def exp_bounds(x: Fraction, bits: int) -> Bounds:
    """exp(x) = 2**k exp(r) with r = x - k ln 2 in [0, 1)."""
    if x == 0:
        return Fraction(1), Fraction(1)
    if x < -LIMIT:
        return Fraction(0), Fraction(1, 1 << LIMIT)
    if x > LIMIT:
        raise OverflowError(f"scalar: exp({float(x)}) is beyond exp({LIMIT})")
    bits += _GUARD
    low, high = ln2(bits + 16)
    k = x // low
    while True:
        ends = (x - k * low, x - k * high)
        if min(ends) >= 0:
            break
        k -= 1
    series = _power_series((min(ends), max(ends)), bits, lambda n: (1, n))
    scale = Fraction(2) ** int(k)
    return series[0] * scale, series[1] * scale


def log1p_bounds(y: Fraction, bits: int) -> Bounds:
    """log(1 + y), y >= 0: with 1 + y = 2**k m it is k ln 2 + 2 atanh((m-1)/(m+1))."""
    if y < 0:
        raise ValueError(f"scalar: log1p({float(y)}); only y >= 0 is needed and done")
    bits += _GUARD
    k = ((1 + y).numerator // (1 + y).denominator).bit_length() - 1
    m = (1 + y) / (1 << k)
    z = (m - 1) / (m + 1)
    # atanh(z) / z = sum z^2n / (2n + 1), z <= 1/3.
    low, high = _power_series((z * z, z * z), bits, lambda n: (2 * n - 1, 2 * n + 1))
    base = ln2(bits)
    return k * base[0] + 2 * z * low, k * base[1] + 2 * z * high


def softplus_bounds(x: Fraction, bits: int) -> Bounds:
    """log(1 + e^x) = max(x, 0) + log1p(e^-|x|)."""
    low, high = exp_bounds(-abs(x), bits)
    above = max(x, Fraction(0))
    return above + log1p_bounds(low, bits)[0], above + log1p_bounds(high, bits)[1]


def sigmoid_bounds(x: Fraction, bits: int) -> Bounds:
    """1 / (1 + e^-x), as e^x / (1 + e^x) for negative x."""
    low, high = exp_bounds(-abs(x), bits)
    if x < 0:
        return low / (1 + low), high / (1 + high)
    return 1 / (1 + high), 1 / (1 + low)


def tanh_bounds(x: Fraction, bits: int) -> Bounds:
    """(1 - e) / (1 + e), e = e^-2|x|, odd; small x takes more bits: 1 - e cancels."""
    if x == 0:
        return Fraction(0), Fraction(0)
    if x < 0:
        low, high = tanh_bounds(-x, bits)
        return -high, -low
    lost = max(x.denominator.bit_length() - x.numerator.bit_length() + 1, 0)
    low, high = exp_bounds(-2 * x, bits + lost)
    return (1 - high) / (1 + high), (1 - low) / (1 + low)


def erf_bounds(x: Fraction, bits: int) -> Bounds:
    """2/sqrt(pi) e^(-x^2) x (1 + 2x^2/3 + (2x^2)^2/(3 5) + ...), odd.

    Far out, 1 - e^(-x^2) <= erf(x) <= 1 is narrow enough.
    """
    if x == 0:
        return Fraction(0), Fraction(0)
    if x < 0:
        low, high = erf_bounds(-x, bits)
        return -high, -low
    if x * x > bits + _GUARD:
        return 1 - exp_bounds(-x * x, bits)[1], Fraction(1)
    bits += _GUARD
    square = 2 * x * x
    low, high = _power_series((square, square), bits, lambda n: (1, 2 * n + 1))
    below, above = exp_bounds(-x * x, bits)
    # 2/sqrt(pi) = sqrt(4/pi), by an integer square root of 4/pi 4**bits.
    low_pi, high_pi = pi(2 * bits)
    low *= below * x * _root(4 / high_pi, bits)[0]
    high *= above * x * _root(4 / low_pi, bits)[1]
    return low, min(high, Fraction(1))


def _root(x: Fraction, bits: int) -> Bounds:
    """sqrt(x) for x near 1."""
    root = math.isqrt((x.numerator << (2 * bits)) // x.denominator)
    return Fraction(root, 1 << bits), Fraction(root + 1, 1 << bits)


def _enclose(function: Callable[[Fraction, int], Bounds], x: Interval) -> Interval:
    """An increasing function of an interval, widened by the error granted to it."""
    to = current()
    bits = to.bits + _GUARD
    low, high = function(x.low, bits)[0], function(x.high, bits)[1]
    low -= abs(low) * to.elementary + to.elementary_floor
    high += abs(high) * to.elementary + to.elementary_floor
    return Interval.outward(low, high)


def exp(x: Interval) -> Interval:
    """e^x.

    >>> (exp(Interval.of(1)).low, float(exp(Interval.of(0)).high))[1]
    1.0
    """
    return _enclose(exp_bounds, x)


def log1p(x: Interval) -> Interval:
    """log(1 + x) for x >= 0."""
    return _enclose(log1p_bounds, x)


def softplus(x: Interval) -> Interval:
    """log(1 + e^x)."""
    return _enclose(softplus_bounds, x)


def sigmoid(x: Interval) -> Interval:
    """1 / (1 + e^-x)."""
    return _enclose(sigmoid_bounds, x)


def tanh(x: Interval) -> Interval:
    """The hyperbolic tangent."""
    return _enclose(tanh_bounds, x)


def erf(x: Interval) -> Interval:
    """The error function."""
    return _enclose(erf_bounds, x)
