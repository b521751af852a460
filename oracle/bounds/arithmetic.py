"""Sums, products and clamps of taps."""

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
    # TwoSum (Knuth): what the float64 sum itself lost.
    back = value - a.value
    lost = (a.value - (value - back)).add_(b.value - back).abs_()
    lost = lost.nan_to_num_(nan=0.0)
    slack = lost if bool(lost.any()) else None

    def rule(ra: Radius, rb: Radius) -> Radius:
        total = plus(ra, rb, slack)
        return None if total is None else total.expand_as(value)

    return inexact(carried(value, (a, b), rule), type, numerics)


def multiply(a: Tap, b: Tap, type: str, numerics: Numerics) -> Tap:
    """a * b, rounded at most once to `type`; exact if both are and `type` has it.

    |a'b' - ab| <= |a| rb + |b| ra + ra rb. An infinite radius stays infinite.

    Shapes: a, b f64[...], broadcast against each other.
    """
    value = a.value * b.value
    slack = _lost_product(a.value, b.value, value)

    def rule(ra: Radius, rb: Radius) -> Radius:
        parts: list[Radius] = [slack]
        if ra is not None:
            parts.append((b.value.abs() + rb if rb is not None else b.value.abs()) * ra)
        if rb is not None:
            parts.append(a.value.abs() * rb)
        total = plus(*parts)
        return None if total is None else _defined(total.expand_as(value), value)

    return inexact(carried(value, (a, b), rule), type, numerics)


def _lost_product(
    a: torch.Tensor, b: torch.Tensor, value: torch.Tensor
) -> torch.Tensor | None:
    """Bound on what the float64 product lost: nothing where both factors fit fp32."""
    wide = _wider_than_fp32(a) | _wider_than_fp32(b)
    if not bool(wide.any()):
        return None
    return (value.abs() * 2.0**-52).masked_fill_(~wide, 0.0).nan_to_num_(nan=0.0)


def _wider_than_fp32(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float32).to(torch.float64).ne(values) & values.isfinite()


def _defined(radius: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """0 * Inf counts as unbounded unless the value itself is NaN or infinite."""
    undefined = radius.isnan()
    if not bool(undefined.any()):
        return radius
    unbounded = torch.where(value.isfinite(), torch.inf, 0.0).to(radius)
    return torch.where(undefined, unbounded, radius)


def clamp(tap: Tap, low: Limit | None, high: Limit | None) -> Tap:
    """min(max(v, low), high), exactly; NaN propagates.

    Clamping is monotone: where all of v +- r lies beyond a limit the radius is 0.
    Shapes: low, high: numbers or f64 that broadcast to the tap; None is no limit.
    """

    def limit(values: torch.Tensor) -> torch.Tensor:
        if low is not None:
            values = torch.maximum(values, _like(low, values))
        if high is not None:
            values = torch.minimum(values, _like(high, values))
        return values

    value = limit(tap.value)

    def rule(radius: Radius) -> Radius:
        if radius is None:
            return None
        above = limit(tap.value + radius).sub_(value)
        below = value - limit(tap.value - radius)
        # NaN: an infinite value, or a NaN one; both keep the radius they had.
        far = torch.maximum(above, below).mul_(UP)
        return torch.where(far.isnan(), radius, torch.minimum(far, radius))

    return carried(value, (tap,), rule)


def clamp_min(tap: Tap, low: Limit) -> Tap:
    """max(v, low), exactly; NaN propagates."""
    return clamp(tap, low, None)


def clamp_max(tap: Tap, high: Limit) -> Tap:
    """min(v, high), exactly; NaN propagates."""
    return clamp(tap, None, high)


def _like(limit: Limit, values: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(limit, dtype=torch.float64, device=values.device)
