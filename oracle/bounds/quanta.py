"""The lowest set bit of float64 values: what decides where sums are exact."""

from __future__ import annotations

import torch

_MANTISSA, _FIELD = (1 << 52) - 1, 0x7FF


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
    exponent = (bits >> 52).bitwise_and_(_FIELD)
    lowest = (bits & _MANTISSA).bitwise_or_(1 << 52)
    lowest.bitwise_and_(lowest.neg())
    # lowest * 2^(exponent - 1075) by its exponent field: lowest is a power of two.
    field = lowest.to(torch.float64).view(torch.int64).bitwise_right_shift_(52)
    field.add_(exponent).sub_(1075).clamp_(min=0)
    field.masked_fill_(exponent == _FIELD, 0).masked_fill_(values == 0, _FIELD)
    return (field.amin(-1) << 52).view(torch.float64)
