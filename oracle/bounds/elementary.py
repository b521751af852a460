"""Elementary functions of taps, with the errors that implementations of them have.

got = f(v')(1 + d) + e for some v' in v +- r, |d| <= relative, |e| <= absolute. All
functions here are monotone, so f(v +- r) brackets f(v'). The errors come from
`Numerics`; they include the function's own rounding to fp32, any further rounding is
`rounded` or `inexact`.

Where an `Elementary` has landmarks, results that every implementation in its type
returns exactly count as exact:

* the ends: within a quarter ulp of a limit (1 of sigmoid, tanh, erf) it is the limit,
  below half the least subnormal it is zero, past the largest value it is Inf;
* the landmarks: exp(0) = 1, sigmoid(0) = 1/2, tanh, erf, log1p and sqrt of 0 = 0, the
  square root of 4^n, division by 2^n.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from oracle.bounds.radius import UP, Radius, carried
from oracle.formats import get
from oracle.numerics import Elementary, Numerics
from oracle.trace import Tap

Function = Callable[[torch.Tensor], torch.Tensor]

#: Relative error of torch's own float64 functions, with room.
_OWN = 2.0**-49


def exp(tap: Tap, numerics: Numerics) -> Tap:
    """e^v; zero below the least subnormal, Inf past the largest value."""
    return _monotone(tap, torch.exp, numerics.exp, 0.0, None)


def sigmoid(tap: Tap, numerics: Numerics) -> Tap:
    """1 / (1 + e^-v).

    >>> far = Tap(torch.tensor([-4096.0, 0.0, 32.0], dtype=torch.float64))
    >>> result = sigmoid(far, Numerics())
    >>> result.value.tolist(), result.exact
    ([0.0, 0.5, 1.0], True)
    """
    return _monotone(tap, torch.sigmoid, numerics.sigmoid, 0.0, 1.0)


def tanh(tap: Tap, numerics: Numerics) -> Tap:
    """Hyperbolic tangent."""
    return _monotone(tap, torch.tanh, numerics.tanh, -1.0, 1.0)


def erf(tap: Tap, numerics: Numerics) -> Tap:
    """Error function."""
    return _monotone(tap, torch.erf, numerics.erf, -1.0, 1.0)


def log1p(tap: Tap, numerics: Numerics) -> Tap:
    """ln(1 + v); NaN below -1."""
    return _monotone(tap, torch.log1p, numerics.log, None, None)


def sqrt(tap: Tap, numerics: Numerics) -> Tap:
    """Square root; NaN below zero. A radius that reaches below zero is cut there."""

    def root(values: torch.Tensor) -> torch.Tensor:
        return torch.where(tap.value >= 0, values.clamp_min(0.0), values).sqrt()

    def landmark(values: torch.Tensor, roots: torch.Tensor) -> torch.Tensor:
        rooted = _fits_fp32(roots) & (roots * roots == values)
        if numerics.sqrt.relative > 2.0**-24:
            rooted &= _power_of_two(roots) | (roots == 0)
        return rooted

    return _monotone(tap, root, numerics.sqrt, 0.0, None, landmark)


def divide(a: Tap, b: Tap, numerics: Numerics) -> Tap:
    """a / b; the radius is infinite where b may be zero but is not.

    |a'/b' - a/b| <= (ra + |a/b| rb) / (|b| - rb). Exact where both are, fp32 has the
    quotient, and the division is correctly rounded or by a power of two.
    """
    error = numerics.divide
    value = a.value / b.value
    known = torch.zeros_like(value, dtype=torch.bool)
    if error.landmarks:
        known = _fits_fp32(value) & _fits_fp32(b.value) & (value * b.value == a.value)
        if error.relative > 2.0**-24:
            known &= _power_of_two(b.value)

    def rule(ra: Radius, rb: Radius) -> Radius:
        size = value.abs()
        spread = torch.zeros_like(value)
        if ra is not None:
            spread = spread + ra / b.value.abs()
        if rb is not None:
            rest = (b.value.abs() - rb).clamp_min(0.0)
            spread = (size * rb + (0.0 if ra is None else ra)) / rest
        far = ((size + spread) * (error.relative + _OWN) + error.absolute) + spread
        far = far.masked_fill_(known & (spread == 0), 0.0).mul_(UP)
        return _finish(far, value, spread)

    return carried(value, (a, b), rule)


def _monotone(
    tap: Tap,
    function: Function,
    error: Elementary,
    least: float | None,
    most: float | None,
    landmark: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> Tap:
    """`function` of the tap: increasing, between `least` and `most`.

    `landmark(v, f(v))` tells where f(v) is returned exactly; by default at zero.
    """
    true = function(tap.value)
    value, _ = _settled(true, error, least, most)

    def stray(argument: torch.Tensor, sign: float) -> torch.Tensor:
        result = function(argument) if argument is not tap.value else true
        end, at_end = _settled(result, error, least, most)
        relative = argument.abs().mul_(error.slope).add_(error.relative + _OWN)
        off = result.abs().mul_(relative).add_(error.absolute)
        far = result + off.mul_(sign)
        if error.type != "none":
            largest = get(error.type).maximum
            far.masked_fill_(far > largest, torch.inf)
        if least is not None or most is not None:
            far.clamp_(least, most)
        return torch.where(at_end, end, far)

    def rule(radius: Radius) -> Radius:
        if radius is None:
            low, high = stray(tap.value, -1.0), stray(tap.value, 1.0)
        else:
            reach = (tap.value.abs() + radius).mul_(2.0**-52).add_(radius)
            reach.masked_fill_(radius == 0, 0.0)
            low = stray(tap.value - reach, -1.0)
            high = stray(tap.value + reach, 1.0)
        far = torch.maximum(high - value, value - low)
        # An infinite value on both sides leaves NaN behind, and means no error.
        far.masked_fill_((low == high) & (low == value), 0.0)
        if error.landmarks:
            known = tap.value == 0 if landmark is None else landmark(tap.value, true)
            if radius is not None:
                known &= radius == 0
            far.masked_fill_(known, 0.0)
        return _finish(far.mul_(UP), value, radius)

    return carried(value, (tap,), rule)


def _settled(
    result: torch.Tensor, error: Elementary, least: float | None, most: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The results with those at an end put there exactly, and which they are."""
    if error.type == "none" or not error.landmarks:
        return result, torch.zeros_like(result, dtype=torch.bool)
    entry = get(error.type)
    quarter = 2.0 ** -(entry.mantissa + 2)
    at_end = torch.zeros_like(result, dtype=torch.bool)
    end = result
    for limit in (least, most):
        if limit:
            near = (result - limit).abs() <= quarter
            end, at_end = end.masked_fill(near, limit), at_end | near
    if least == 0.0:
        near = result.abs() <= entry.quantum / 2 * (1.0 - 2.0**-10)
        end, at_end = end.masked_fill(near, 0.0), at_end | near
    over = result * (1.0 - error.relative) >= entry.maximum * (1.0 + 2.0**-20)
    if most is None and bool(over.any()):
        end, at_end = end.masked_fill(over, torch.inf), at_end | over
    return end, at_end


def _finish(far: torch.Tensor, value: torch.Tensor, radius: Radius) -> Radius:
    """Settle NaN radii: unbounded ones stay so, a NaN value has none."""
    undefined = far.isnan()
    if bool(undefined.any()):
        unbounded = (
            torch.zeros_like(undefined) if radius is None else radius == torch.inf
        )
        far = torch.where(
            undefined, torch.where(unbounded, torch.inf, 0.0).to(far), far
        )
    return far if radius is not None or bool(far.any()) else None


def _fits_fp32(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float32).to(torch.float64) == values


def _power_of_two(values: torch.Tensor) -> torch.Tensor:
    return torch.frexp(values).mantissa.abs() == 0.5
