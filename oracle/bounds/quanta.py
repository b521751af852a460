"""The lowest set bit of float64 values: what decides where sums are exact."""

from __future__ import annotations

import torch

_MANTISSA = (1 << 52) - 1


def quantum(values: torch.Tensor) -> torch.Tensor:
    """Largest power of two of which all values along the last axis are multiples.

    Shapes: values f64[..., K] -> f64[...]; Inf where all are zero, 0 where one is not
    finite (or where the power lies below float64's least normal value).

    >>> quantum(torch.tensor([[6.0, 0.5], [0.0, 0.0]], dtype=torch.float64)).tolist()
    [0.5, inf]
    """
    if not values.shape[-1]:
        return torch.full_like(values.sum(-1), torch.inf)
    bits = values.contiguous().view(torch.int64)
    exponent = (bits >> 52) & 0x7FF
    mantissa = (bits & _MANTISSA) | (1 << 52)
    lowest = mantissa & -mantissa
    # lowest * 2^(exponent - 1075), built from its bits; lowest is a power of two.
    place = (lowest.to(torch.float64).view(torch.int64) >> 52) - 1023
    field = (exponent + place - 52).clamp_(min=0)
    power = (field << 52).view(torch.float64)
    power = power.masked_fill_(exponent == 0x7FF, 0.0)
    return power.masked_fill_(values == 0, torch.inf).amin(-1)
