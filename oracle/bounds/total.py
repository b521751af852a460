"""Sums over a short axis or into buckets: the k chosen experts, the shards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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
    """The sum over `axis`, every partial sum rounded to `type`; zero where it is empty.

    order ``slot``: from the first entry to the last, starting from zero; each partial
    sum is a rounding point, to 16 bits perhaps by way of fp32. ``any``: the tree of
    additions is unknown. Every partial sum is then at most M = max(sum of positives,
    sum of negatives) in magnitude, so n entries lose at most M ((1 + u)^n - 1), and
    nothing where M is at most 2^p quanta of the entries (p the significand bits of
    `type`). Type ``none``: the sum alone.
    """
    choose("total", "order", order, get_args(Order))
    count = tap.value.shape[axis]
    if order == "slot" and count:
        step = "fp32" if type in ("bf16", "fp16") else "none"
        partial = rounded(tap.map(lambda t: t.select(axis, 0)), type, numerics)
        for j in range(1, count):
            entry = tap.map(lambda t, j=j: t.select(axis, j))  # type: ignore[misc]
            partial = rounded(add(partial, entry, step, numerics), type, numerics)
        return partial
    value = tap.value
    sums = _Sums(
        value.sum(axis),
        torch.maximum(value.clamp_min(0).sum(axis), value.clamp_max(0).sum(axis).neg()),
        quantum(value.movedim(axis, -1)),
        count,
    )
    return sums.tap(tap, lambda radius: radius.sum(axis), type, numerics)


def scatter(
    tap: Tap, index: torch.Tensor, size: int, type: str, numerics: Numerics
) -> Tap:
    """Sums of the entries that share an index, in any order, as `total` takes them.

    Shapes: tap [n]; index i64[n] in 0..size - 1; the result [size].
    """

    def add_up(entries: torch.Tensor) -> torch.Tensor:
        sums = torch.zeros(size, dtype=torch.float64, device=index.device)
        return sums.index_add_(0, index, entries)

    value = tap.value
    finest = torch.full((size,), torch.inf, dtype=torch.float64, device=index.device)
    finest.scatter_reduce_(0, index, quantum(value[:, None]), "amin")
    sums = _Sums(
        add_up(value),
        torch.maximum(add_up(value.clamp_min(0.0)), add_up(value.clamp_max(0.0)).neg()),
        finest,
        torch.bincount(index, minlength=size),
    )
    return sums.tap(tap, add_up, type, numerics)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums with the largest partial sum, the finest quantum and the count of each."""

    value: torch.Tensor
    reach: torch.Tensor
    finest: torch.Tensor
    count: torch.Tensor | int

    def tap(
        self,
        entries: Tap,
        add_up: Callable[[torch.Tensor], torch.Tensor],
        type: str,
        numerics: Numerics,
    ) -> Tap:
        """The sums in any order; `add_up` adds radii the way the entries are added."""
        exact = self._exact(type, numerics) | ~self.value.isfinite()

        def rule(radius: Radius) -> Radius:
            if radius is None:
                lost = self._lost(self.reach, type, numerics).masked_fill_(exact, 0.0)
                return lost if bool(lost.any()) else None
            spread = add_up(radius.expand_as(entries.value))
            lost = self._lost(self.reach + spread, type, numerics)
            return lost.masked_fill_(exact & (spread == 0.0), 0.0).add_(spread).mul_(UP)

        return carried(self.value, (entries,), rule)

    def _lost(self, reach: torch.Tensor, type: str, numerics: Numerics) -> torch.Tensor:
        """What the roundings of values up to about `reach` can lose together."""
        # The float64 sum itself.
        lost = reach * 2.0**-52 * self.count
        if type == "none":
            return lost
        entry = get(type)
        floor = entry.least_normal if flushes(type, numerics) else entry.quantum / 2
        growth = math.log1p(2.0 ** -(entry.mantissa + 1)) * torch.as_tensor(
            self.count, dtype=torch.float64
        )
        lost += reach * torch.expm1(growth) + floor * self.count
        return lost.masked_fill_(reach + lost > entry.maximum, torch.inf)

    def _exact(self, type: str, numerics: Numerics) -> torch.Tensor:
        """Whether every partial sum, in any order, is a value of `type`."""
        entry = get("fp64" if type == "none" else type)
        exact = self.reach <= self.finest * 2.0 ** (entry.mantissa + 1)
        least = entry.least_normal if flushes(type, numerics) else entry.quantum
        return exact & (self.finest >= least) & (self.reach <= entry.maximum)
