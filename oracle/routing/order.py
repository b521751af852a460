"""The one order of routing: larger first, then by index; NaN comes last."""

from __future__ import annotations

import torch

_SIGN_FREE = (1 << 63) - 1
_LOWEST = -(1 << 63)


def sortable(values: torch.Tensor) -> torch.Tensor:
    """Integers that compare as the values do.

    Shapes: values: f64[...] -> i64[...]

    A float's bits are ordered as integers once the magnitude bits of negatives are
    flipped. -0 becomes +0; every NaN becomes the lowest integer, below -inf.

    >>> sortable(torch.tensor([-0.0, 0.0, float("nan")], dtype=torch.float64)).argmin()
    tensor(2)
    """
    bits = (values + 0.0).view(torch.int64)
    return torch.where(values.isnan(), _LOWEST, bits ^ ((bits >> 63) & _SIGN_FREE))


def descending(values: torch.Tensor) -> torch.Tensor:
    """Indices from the largest to the smallest key; among equal keys the lowest first.

    Shapes: values: f64[..., N] -> i64[..., N]

    >>> keys = torch.tensor([1.0, 2.0, -0.0, 2.0, 0.0], dtype=torch.float64)
    >>> descending(keys).tolist()
    [1, 3, 0, 2, 4]
    """
    return sortable(values).sort(dim=-1, descending=True, stable=True).indices


def first_equal(labels: torch.Tensor) -> torch.Tensor:
    """For every entry, the first index of its row that holds the same label.

    Shapes: labels: i64[T, N] -> i64[T, N]

    >>> first_equal(torch.tensor([[7, 5, 7, 5, 9]])).tolist()
    [[0, 1, 0, 1, 4]]
    """
    run, index = labels.sort(dim=-1, stable=True)
    place = torch.arange(labels.shape[-1], device=labels.device)
    starts = torch.ones_like(run, dtype=torch.bool)
    starts[:, 1:] = run[:, 1:] != run[:, :-1]
    begin = torch.where(starts, place, 0).cummax(dim=-1).values
    return torch.empty_like(labels).scatter_(1, index, index.gather(1, begin))
