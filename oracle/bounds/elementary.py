"""Elementary functions of taps, with the errors that implementations of them have.

got = f(v')(1 + d) + e for some v' in v +- r, |d| <= relative, |e| <= absolute. All
functions here are monotone, so f(v +- r) brackets f(v'). The errors come from
`Numerics`; they include the function's own rounding to fp32, any further rounding is
`rounded` or `inexact`.

Where an `Elementary` has landmarks, results that every implementation in its type
returns exactly count as exact:

* the ends: sigmoid less than a quarter ulp below 1 is 1, for 1 + e^-v is; tanh and erf
  are at +-1 once they are 2^-17 ulps away; below half the least subnormal a result is
  zero, past the largest value it is Inf;
* the landmarks: exp(0) = 1, sigmoid(0) = 1/2, tanh, erf, log1p and sqrt of 0 = 0,
  division by 2^n; quotients and roots that fp32 has, where they are correctly rounded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from oracle.bounds.radius import UP, Radius, carried, distance
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
        if numerics.sqrt.relative > 2.0**-24:
            # sqrt.approx is off by an ulp at some powers of 4.
            return roots == 0
        return _fits_fp32(roots) & (roots * roots == values)

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
        # 1 / 0 and 0 / 0 are certain; what else is NaN here divides by a possible zero.
        certain = ~value.isfinite() & (spread.isnan() | (spread == 0))
        far.masked_fill_(certain, 0.0).masked_fill_(far.isnan(), torch.inf)
        return far if bool(far.any()) else None

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
    value = _at_ends(true, true, error, least, most)
    known = None
    if error.landmarks:
        known = tap.value == 0 if landmark is None else landmark(tap.value, true)

    def stray(argument: torch.Tensor, sign: float) -> torch.Tensor:
        """The farthest that an implementation may return on one side."""
        result = true if argument is tap.value else function(argument)
        relative: torch.Tensor | float = error.relative + _OWN
        if error.slope:
            relative = argument.abs().mul_(error.slope).add_(relative)
        far = result.abs().mul_(relative).add_(error.absolute).mul_(sign).add_(result)
        if least is not None or most is not None:
            far.clamp_(least, most)
        return _at_ends(far, result, error, least, most)

    def rule(radius: Radius) -> Radius:
        low = high = tap.value
        if radius is not None:
            reach = (tap.value.abs() + radius).mul_(2.0**-52).add_(radius)
            if known is not None:
                reach = reach.masked_fill_(radius == 0, 0.0)
            low, high = tap.value - reach, tap.value + reach
        far = distance(value, stray(low, -1.0), stray(high, 1.0)).mul_(UP)
        if known is not None:
            exact = known if radius is None else known & (radius == 0)
            far.masked_fill_(exact, 0.0)
        if radius is None:
            return far if bool(far.any()) else None
        return far

    return carried(value, (tap,), rule)


def _at_ends(
    values: torch.Tensor,
    result: torch.Tensor,
    error: Elementary,
    least: float | None,
    most: float | None,
) -> torch.Tensor:
    """`values`, but the end itself wherever `result` is settled at one."""
    if not error.landmarks or not result.numel():
        return values
    entry = get(error.type)
    # Between 0 and 1: a sum with 1 rounds. Between -1 and 1: all are settled by then.
    close = 2.0 ** -(entry.mantissa + (2 if least == 0.0 else 17))
    low, high = (float(end) for end in result.aminmax())
    for limit, extreme in ((least, low), (most, high)):
        if limit and not abs(extreme - limit) > close:
            values = torch.where((result - limit).abs() <= close, limit, values)
    nothing = entry.quantum / 2 * (1.0 - 2.0**-10)
    if least == 0.0 and not low > nothing:
        values = torch.where(result <= nothing, 0.0, values)
    # Whatever the error, overflow for sure; and any value that may overflow is open.
    over = entry.maximum * (1.0 + 2.0**-20) / (1.0 - error.relative)
    if most is None and not high < entry.maximum / 2:
        values = torch.where(result >= over, torch.inf, values)
        values = torch.where(values > entry.maximum, torch.inf, values)
    return values


def _fits_fp32(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float32).to(torch.float64) == values


def _power_of_two(values: torch.Tensor) -> torch.Tensor:
    return torch.frexp(values).mantissa.abs() == 0.5
