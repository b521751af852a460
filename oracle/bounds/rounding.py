"""Rounding points: those that every implementation has, and those it may skip."""

from __future__ import annotations

import torch

from oracle.bounds.radius import Radius, likely_of
from oracle.formats import get, round_to
from oracle.numerics import Numerics
from oracle.trace import Tap


def rounded(tap: Tap, type: str, numerics: Numerics) -> Tap:
    """The tap after a declared rounding point: everything is rounded, once, to `type`.

    Rounding is monotone: what lay in v +- r lies in [round(v - r), round(v + r)], so
    the radius collapses to 0 away from the boundaries between representable values.
    Past the largest value the result is Inf; where only part of v +- r overflows, the
    radius is infinite. NaN stays NaN. With subnormals flushed, a result in the
    subnormal range may be itself or zero. ``"none"`` leaves the tap as it is.
    """
    return _apply(tap, type, numerics, skippable=False)


def inexact(tap: Tap, type: str, numerics: Numerics) -> Tap:
    """The tap after a rounding to `type` that a fused kernel may leave out.

    The value stays; the radius grows to cover v +- r both rounded and not, so an exact
    value that `type` has stays exact. Where numerics.fused is false nothing is left
    out, and this is `rounded`.
    """
    return _apply(tap, type, numerics, skippable=numerics.fused)


def flushes(type: str, numerics: Numerics) -> bool:
    """Whether subnormal results may become zero: in types with fp32's exponents."""
    return numerics.subnormals == "flush" and type in ("fp32", "bf16")


def _apply(tap: Tap, type: str, numerics: Numerics, *, skippable: bool) -> Tap:
    if type == "none":
        return tap
    flush = flushes(type, numerics)
    nearest = round_to(tap.value, type)
    value = tap.value if skippable else nearest
    # The two ends of an exact element coincide with its rounded value.
    worst = _hull(tap.value, tap.worst, nearest, value, type, flush)
    if worst is None or tap.likely is None:
        return Tap(value, worst)
    likely = _hull(tap.value, likely_of(tap), nearest, value, type, flush)
    return Tap(value, worst, likely, tap.probability)


def _hull(
    centre: torch.Tensor,
    radius: Radius,
    nearest: torch.Tensor,
    value: torch.Tensor,
    type: str,
    flush: bool,
) -> Radius:
    """Distance from `value` to the farthest result of rounding centre +- radius."""
    skippable = value is centre
    if radius is None and not skippable and not flush:
        return None
    if radius is None:
        low, high = nearest, nearest.clone() if flush else nearest
        low = low.clone() if flush else low
    else:
        # Outward, so that the float64 sums below cannot fall short of v +- r.
        reach = (centre.abs().add_(radius)).mul_(2.0**-52).add_(radius)
        reach = torch.where(radius > 0, reach, radius)
        low, high = round_to(centre - reach, type), round_to(centre + reach, type)
    if flush:
        least = get(type).least_normal
        low.masked_fill_((low > 0) & (low < least), 0.0)
        high.masked_fill_((high < 0) & (high > -least), 0.0)
    far = torch.maximum(high - value, value - low)
    if skippable and radius is not None:
        far = torch.maximum(far, radius)
    if radius is None and not bool(far.any()):
        return None
    return _settle(far, low, high, radius)


def _settle(
    far: torch.Tensor, low: torch.Tensor, high: torch.Tensor, radius: Radius
) -> torch.Tensor:
    """Replace NaN radii: 0 where the value is one infinity or NaN, else infinite."""
    undefined = far.isnan()
    if bool(undefined.any()):
        free = low != high
        free &= ~(low.isnan() & high.isnan())
        if radius is not None:
            free |= radius == torch.inf
        far = torch.where(undefined, torch.where(free, torch.inf, 0.0).to(far), far)
    return far
