"""Rounding points: those that every implementation has, and those it may skip."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.bounds.radius import Radius, distance
from oracle.formats import ElementFormat, get, round_to
from oracle.numerics import Numerics
from oracle.trace import Tap


def rounded(tap: Tap, type: str, numerics: Numerics) -> Tap:
    """The tap after a declared rounding point: everything is rounded, once, to `type`.

    Rounding is monotone: what lay in v +- r lies in [round(v - r), round(v + r)], so
    the radius collapses to 0 away from the boundaries between representable values.
    Past the largest value the result is Inf; where only part of v +- r overflows, the
    radius is infinite. NaN stays NaN. With subnormals flushed, a result in the
    subnormal range may be itself or zero. ``"none"`` leaves the tap as it is.

    >>> value = torch.tensor([1.0, 1.0039], dtype=torch.float64)
    >>> tap = rounded(Tap(value, value * 0.001), "bf16", Numerics())
    >>> tap.worst.tolist()
    [0.0, 0.0078125]
    """
    if type == "none":
        return tap
    entry = get(type)
    value = round_to(tap.value, type)
    least = entry.least_normal if flushes(type, numerics) else 0.0
    if tap.worst is None:
        tap = Tap(value, _flushed(value, least))
        return replace(tap, least_normal=entry.least_normal)
    radii = [tap.worst] if tap.likely is None else [tap.worst, tap.likely]
    radii = [radius.expand_as(value) for radius in radii]
    near = _may_move(tap.value, radii[0], value, entry, least)
    moved = _moved(tap.value, radii, value, near, type, least)
    likely = None if tap.likely is None else moved[1]
    return Tap(
        value, moved[0], likely, tap.probability, least_normal=entry.least_normal
    )


def _moved(
    centre: torch.Tensor,
    radii: list[torch.Tensor],
    value: torch.Tensor,
    near: torch.Tensor,
    type: str,
    least: float,
) -> list[torch.Tensor]:
    """How far from `value` anything in centre +- radius may round; 0 unless `near`."""
    place = near.flatten().nonzero()[:, 0]
    if 8 * len(place) > near.numel():
        # Gathering that many costs more than it saves.
        return [distance(value, *_ends(centre, r, type, least)) for r in radii]
    result = []
    for radius in radii:
        ends = _ends(centre.flatten()[place], radius.flatten()[place], type, least)
        far = torch.zeros_like(value).flatten()
        far[place] = distance(value.flatten()[place], *ends)
        result.append(far.view_as(value))
    return result


def inexact(tap: Tap, type: str, numerics: Numerics) -> Tap:
    """The tap after a rounding to `type` that a fused kernel may leave out.

    The value stays; the radius grows by the unit roundoff of |v| + r. Values without
    radius move to their neighbour at most: an exact value that `type` has stays exact.
    Where numerics.fused is false nothing is left out, and this is `rounded`.
    """
    if type == "none":
        return tap
    if not numerics.fused:
        return rounded(tap, type, numerics)
    entry, value = get(type), tap.value
    least = entry.least_normal if flushes(type, numerics) else 0.0
    if tap.worst is None:
        alone = (round_to(value, type) - value).abs_()
        alone = torch.maximum(alone, _lost(value, least)) if least else alone
        alone = alone.masked_fill_(alone.isnan(), 0.0)
        return Tap(value, alone) if bool(alone.any()) else tap
    worst = _grown(value, tap.worst, entry, least)
    if tap.likely is None:
        return Tap(value, worst)
    likely = _grown(value, tap.likely, entry, least)
    return Tap(value, worst, likely, tap.probability)


def flushes(type: str, numerics: Numerics) -> bool:
    """Whether subnormal results may become zero: in types with fp32's exponents."""
    return numerics.subnormals == "flush" and type in ("fp32", "bf16")


def _grown(
    value: torch.Tensor, radius: torch.Tensor, entry: ElementFormat, least: float
) -> torch.Tensor:
    """Radius after one more rounding, or none, of anything in value +- radius."""
    # 2^-20 of the roundoff covers the float64 arithmetic of value and radius as well.
    unit = 2.0 ** -(entry.mantissa + 1) * (1.0 + 2.0**-20)
    if entry.mantissa == 52:
        unit = 2.0**-51
    grown = (value.abs() + radius).mul_(unit).add_(max(entry.quantum / 2, least))
    # Beyond the largest value a rounding goes to infinity, and skipping it does not.
    settled = bool((grown < entry.maximum * unit).all())
    grown.add_(radius)
    if not settled:
        grown.masked_fill_(~(value.abs() + radius < entry.maximum), torch.inf)
        known = value.isinf() | value.isnan()
        grown.masked_fill_(known & (radius < torch.inf), 0.0)
    certain = radius.expand_as(grown) == 0
    if bool(certain.any()):
        alone = value[certain]
        off = (round_to(alone, entry.name) - alone).abs_()
        off.masked_fill_(off.isnan(), 0.0)
        grown[certain] = torch.maximum(off, _lost(alone, least)) if least else off
    return grown


def _may_move(
    centre: torch.Tensor,
    radius: torch.Tensor,
    value: torch.Tensor,
    entry: ElementFormat,
    least: float,
) -> torch.Tensor:
    """Whether anything in centre +- radius may round to another value than `value`.

    It cannot while it stays closer to `value` than half the gap on its smaller side:
    half an ulp of the float64 just below |value|.
    """
    field = value.abs().view(torch.int64).sub_(1).clamp_(min=0)
    field &= 0x7FF << 52
    field.clamp_(min=(entry.minimum_exponent + 1023) << 52)
    gap = field.sub_((entry.mantissa + 1) << 52).view(torch.float64)
    # A float64 sum that rounds up to the gap counts as touching it.
    stays = (centre - value).abs_().add_(radius).mul_(1.0 + 2.0**-50) < gap
    if least:
        stays &= _lost(value, least) == 0
    return stays.logical_not_()


def _ends(
    centre: torch.Tensor, radius: torch.Tensor, type: str, least: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and largest result of rounding centre +- radius, taken outward."""
    reach = (centre.abs() + radius).mul_(2.0**-52).add_(radius)
    reach.masked_fill_(radius == 0, 0.0)
    reach.masked_fill_(centre.isinf(), 0.0)
    low, high = round_to(centre - reach, type), round_to(centre + reach, type)
    if least:
        low.masked_fill_((low > 0) & (low < least), 0.0)
        high.masked_fill_((high < 0) & (high > -least), 0.0)
        low = torch.where((low <= 0) & (high >= 0), low.clamp(max=0.0), low)
    # An infinite centre less an infinite radius is NaN.
    low.masked_fill_(radius.isinf(), -torch.inf)
    return low, high.masked_fill_(radius.isinf(), torch.inf)


def _lost(values: torch.Tensor, least: float) -> torch.Tensor:
    """What flushing would take away: the magnitude of subnormal values."""
    size = values.abs()
    return size.masked_fill_(size >= least, 0.0)


def _flushed(value: torch.Tensor, least: float) -> Radius:
    if not least:
        return None
    lost = _lost(value, least)
    return lost if bool(lost.any()) else None
