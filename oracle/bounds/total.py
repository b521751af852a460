"""Sums over a short axis: the k chosen experts, the shards."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch

from oracle.bounds.arithmetic import add
from oracle.bounds.quanta import quantum
from oracle.bounds.radius import UP, Radius, carried
from oracle.bounds.rounding import flushes, rounded
from oracle.formats import get
from oracle.numerics import Numerics
from oracle.spec import choose
from oracle.trace import Tap

Order = Literal["any", "slot"]


def total(
    tap: Tap, axis: int, type: str, numerics: Numerics, order: Order = "any"
) -> Tap:
    """The sum over `axis`, every partial sum rounded to `type`.

    order ``slot``: from the first entry to the last, starting from zero; each partial
    sum is a rounding point. ``any``: the tree of additions is unknown; every partial
    sum is at most M = max(sum of positives, sum of negatives) in magnitude, so n
    entries lose at most n half ulps of M, and nothing where M is at most 2^p quanta of
    the entries (p the significand bits of `type`). Type ``none``: the sum alone.
    """
    choose("total", "order", order, get_args(Order))
    entries = [
        tap.map(lambda tensor, j=j: tensor.select(axis, j))  # type: ignore[misc]
        for j in range(tap.value.shape[axis])
    ]
    if not entries:
        return Tap(tap.value.sum(axis))
    if order == "slot":
        partial = rounded(entries[0], type, numerics)
        for entry in entries[1:]:
            partial = rounded(add(partial, entry, "none", numerics), type, numerics)
        return partial
    sums = entries[0]
    for entry in entries[1:]:
        sums = add(sums, entry, "none", numerics)
    if type == "none":
        return sums
    positive = tap.value.clamp_min(0.0).sum(axis)
    reach = torch.maximum(positive, tap.value.clamp_max(0.0).sum(axis).neg())

    def rule(radius: Radius) -> Radius:
        far = reach if radius is None else reach + radius
        lost = _lost(far, len(entries), type, numerics)
        keeps = _representable(tap.value, axis, reach, type, numerics)
        if radius is not None:
            keeps &= radius == 0.0
        lost = lost.masked_fill_(keeps | ~sums.value.isfinite(), 0.0)
        if radius is None:
            return lost if bool(lost.any()) else None
        return (radius + lost).mul_(UP)

    return carried(sums.value, (sums,), rule)


def _lost(
    reach: torch.Tensor, count: int, type: str, numerics: Numerics
) -> torch.Tensor:
    """What `count` roundings of values up to about `reach` can lose together."""
    entry = get(type)
    unit = 2.0 ** -(entry.mantissa + 1)
    floor = entry.quantum / 2
    if flushes(type, numerics):
        floor = entry.least_normal
    lost = reach * math.expm1(count * math.log1p(unit)) + count * floor
    return lost.masked_fill_(reach + lost > entry.maximum, torch.inf).mul_(UP)


def _representable(
    entries: torch.Tensor, axis: int, reach: torch.Tensor, type: str, numerics: Numerics
) -> torch.Tensor:
    """Whether every partial sum, in any order, is a value of `type`."""
    entry = get(type)
    finest = quantum(entries.movedim(axis, -1))
    least = entry.least_normal if flushes(type, numerics) else entry.quantum
    keeps = (reach <= finest * 2.0 ** (entry.mantissa + 1)) & (finest >= least)
    return keeps & (reach <= entry.maximum)
