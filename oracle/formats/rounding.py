"""Rounding float64 values to the values of an element format, in one pass."""

from __future__ import annotations

from typing import get_args

import torch

from oracle.formats.element import ElementFormat, get
from oracle.numerics import Subnormals
from oracle.spec import Rounding, choose

_EXPONENT_FIELD = 0x7FF << 52


def _quanta_exponents(values: torch.Tensor, entry: ElementFormat) -> torch.Tensor:
    """Float64 exponent field of each value, held to the normal range of `entry`."""
    field = values.view(torch.int64) & _EXPONENT_FIELD
    low = (entry.minimum_exponent + 1023) << 52
    high = (entry.maximum_exponent + 1023) << 52
    return field.clamp_(low, high)


def _nearest_even(values: torch.Tensor, entry: ElementFormat) -> torch.Tensor:
    """Round half to even by adding and taking away 1.5 * 2^52 quanta.

    The float64 addition itself then rounds to whole quanta: |v| < 2^52 quanta keeps the
    sum inside one binade whose ulp is the quantum.
    """
    if entry.kind == "integer":
        anchor: torch.Tensor | float = 1.5 * 2.0**52 * entry.quantum
    else:
        field = _quanta_exponents(values, entry)
        half = 1 << 51
        anchor = field.add_(((52 - entry.mantissa) << 52) + half).view(torch.float64)
    return (values + anchor).sub_(anchor)


def _by_fraction(
    values: torch.Tensor, entry: ElementFormat, rounding: Rounding
) -> torch.Tensor:
    """Round by the exact fraction of a quantum that lies beyond the truncated value."""
    if entry.kind == "integer":
        quantum: torch.Tensor | float = entry.quantum
    else:
        field = _quanta_exponents(values, entry)
        quantum = field.sub_(entry.mantissa << 52).view(torch.float64)
    magnitude = values.abs() / quantum
    whole = magnitude.trunc()
    if rounding != "toward_zero":
        rest = magnitude - whole
        up = rest >= 0.5 if rounding == "half_away" else rest > 0.5
        whole += up
    if entry.kind == "integer":
        # Floats get their sign back with that of zero; an integer zero has none.
        whole = torch.where(values < 0, 0.0 - whole, whole)
    return whole * quantum


def round_to(
    values: torch.Tensor,
    name: str,
    *,
    rounding: Rounding = "nearest_even",
    saturate: bool = False,
    subnormals: Subnormals = "keep",
) -> torch.Tensor:
    """The representable value next to each value: decode(encode(v)) without the codes.

    Shapes: values: f64[...] -> f64[...]

    Exact for every float64, subnormals of either format included; the sign of zero is
    kept (integers and E8M0 have none). Past the largest value: saturated, else Inf, NaN
    in E4M3, and the largest value where the format has neither. NaN stays NaN, also in
    formats that cannot encode it. ``subnormals="flush"`` turns results below the least
    normal value into zero of their sign. E8M0 takes the magnitude, nothing below
    2^-127, and its ties go up.

    Raises TypeError unless `values` is float64; ValueError for an unknown name or mode.

    >>> round_to(torch.tensor([2.5, -0.2, 1e9], dtype=torch.float64), "e2m1").tolist()
    [2.0, -0.0, 6.0]
    """
    entry = get(name)
    choose("round_to", "rounding", rounding, get_args(Rounding))
    choose("round_to", "subnormals", subnormals, get_args(Subnormals))
    if values.dtype is not torch.float64:
        raise TypeError(f"round_to: values are {values.dtype}; convert them to float64")
    if name == "fp64":
        result = values.clone()
    elif rounding == "nearest_even":
        result = _nearest_even(values, entry)
    else:
        result = _by_fraction(values, entry, rounding)
    if entry.kind == "float":
        result.copysign_(values)
    elif entry.kind == "scale":
        result.abs_()
    _overflow(result, values, entry, rounding, saturate)
    if entry.kind == "scale":
        result.clamp_(min=entry.least_normal)
    elif subnormals == "flush":
        result = torch.where(result.abs() < entry.least_normal, result * 0.0, result)
    return result


def _overflow(
    result: torch.Tensor,
    values: torch.Tensor,
    entry: ElementFormat,
    rounding: Rounding,
    saturate: bool,
) -> None:
    """Settle in place what lies past the largest value; nothing to do mostly."""
    if not result.numel():
        return
    low, high = (float(end) for end in result.aminmax())
    lowest = -entry.maximum if entry.kind == "scale" else entry.lowest
    if low >= lowest and high <= entry.maximum:
        return
    if saturate or (entry.infinity is None and entry.nan is None):
        result.clamp_(lowest, entry.maximum)
        return
    beyond = result.abs() > entry.maximum
    if rounding == "toward_zero":
        # Truncation never reaches infinity from a finite value.
        finite = beyond & values.isfinite()
        result[finite] = result[finite].sign() * entry.maximum
        beyond &= ~finite
    if entry.infinity is None:
        result[beyond] = torch.nan
    else:
        result[beyond] = result[beyond].sign() * torch.inf
