"""Sums, products and clamps of taps.

Values are computed in float64: exactly for fp32 operands, but for a relative 2^-53
where exponents lie far apart, which a rounding to fp32 or fp64 afterwards cannot tell
(Figueroa 1995: 53 >= 2 * 24 + 2). So exact operands stay exact wherever the type has
the result.
"""

from __future__ import annotations

import torch

from oracle.bounds.radius import UP, Radius, carried, plus
from oracle.bounds.rounding import inexact
from oracle.numerics import Numerics
from oracle.trace import Tap

Limit = torch.Tensor | float


def add(a: Tap, b: Tap, type: str, numerics: Numerics) -> Tap:
    """a + b, rounded at most once to `type`; exact if both are and `type` has the sum.

    Shapes: a, b f64[...], broadcast against each other.
    """
    value = a.value + b.value

    def rule(ra: Radius, rb: Radius) -> Radius:
        total = plus(ra, rb)
        return None if total is None else total.expand_as(value)

    return _computed(carried(value, (a, b), rule), type, numerics)


def multiply(a: Tap, b: Tap, type: str, numerics: Numerics) -> Tap:
    """a * b, rounded at most once to `type`; exact if both are and `type` has it.

    |a'b' - ab| <= |a| rb + |b| ra + ra rb. An infinite radius stays infinite.

    Shapes: a, b f64[...], broadcast against each other.
    """
    value = a.value * b.value
    a_size = a.value.abs() if b.worst is not None else None
    b_size = b.value.abs() if a.worst is not None else None

    def rule(ra: Radius, rb: Radius) -> Radius:
        spread: Radius = None
        if ra is not None and b_size is not None:
            spread = (b_size if rb is None else b_size + rb) * ra
        if rb is not None and a_size is not None:
            spread = a_size * rb if spread is None else spread + a_size * rb
        if spread is None:
            return None
        return _defined((spread * UP).expand_as(value), value)

    return _computed(carried(value, (a, b), rule), type, numerics)


def _computed(tap: Tap, type: str, numerics: Numerics) -> Tap:
    """The result of one operation, rounded at most once to `type`."""
    if type != "none" or tap.worst is None:
        return inexact(tap, type, numerics)
    # The float64 operation's own rounding, where the value was uncertain anyway.
    own = (tap.value.abs() * 2.0**-52).nan_to_num_(nan=0.0, posinf=0.0)

    def rule(radius: Radius) -> Radius:
        return None if radius is None else torch.where(radius > 0, radius + own, radius)

    return carried(tap.value, (tap,), rule)


def _defined(radius: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """0 * Inf counts as unbounded unless the value itself is NaN or infinite."""
    if not radius.numel() or float(radius.sum()) < torch.inf:
        return radius
    open_ended = torch.where(value.isfinite(), torch.inf, 0.0).to(radius)
    return torch.where(radius.isnan(), open_ended, radius)


def clamp(tap: Tap, low: Limit | None, high: Limit | None) -> Tap:
    """min(max(v, low), high), exactly; NaN propagates.

    Clamping is monotone: where all of v +- r lies beyond a limit the radius is 0.
    Shapes: low, high: numbers or f64 that broadcast to the tap; None is no limit.
    """
    value = tap.value
    lowest = _limit(-torch.inf if low is None else low, value)
    highest = _limit(torch.inf if high is None else high, value)

    def limited(values: torch.Tensor) -> torch.Tensor:
        return torch.minimum(torch.maximum(values, lowest), highest)

    if not value.numel() or _inside(tap, float(lowest.max()), float(highest.min())):
        return tap
    clamped = limited(value)

    def rule(radius: Radius) -> Radius:
        if radius is None:
            return None
        far = limited(value + radius).sub_(clamped)
        far = torch.maximum(far, clamped - limited(value - radius)).mul_(UP)
        # NaN: an infinite value, or a NaN one; both keep the radius they had.
        return torch.where(far.isnan(), radius, torch.minimum(far, radius))

    return carried(clamped, (tap,), rule)


def _inside(tap: Tap, low: float, high: float) -> bool:
    """Whether all of the tap, radii included, lies strictly between the limits."""
    least, most = (float(end) for end in tap.value.aminmax())
    reach = 0.0 if tap.worst is None else float(tap.worst.max()) * UP
    return least - reach > low and most + reach < high


def clamp_min(tap: Tap, low: Limit) -> Tap:
    """max(v, low), exactly; NaN propagates."""
    return clamp(tap, low, None)


def clamp_max(tap: Tap, high: Limit) -> Tap:
    """min(v, high), exactly; NaN propagates."""
    return clamp(tap, None, high)


def _limit(limit: Limit, values: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(limit, dtype=torch.float64, device=values.device)
