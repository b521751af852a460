"""Whether another arithmetic explains a result, or is merely wide enough for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from oracle.bounds.accumulation import FAMILY
from oracle.numerics import ROUNDING_POINTS, Numerics
from refmoe.compare import outside
from refmoe.judged import Call

#: A chain of roundings to one type has at most this many, of which a fused kernel may
#: skip all but one. Independent errors add up in squares: it still strays 1 / 4 as far.
_ROUNDINGS = 16


@dataclass(frozen=True, slots=True)
class Evidence:
    """Elements beyond the declared bound: how many are, and how many would be.

    `predicted` counts those of an implementation that takes every rounding of the other
    arithmetic; 0 where that differs in its bounds alone, which predicts nothing.
    """

    observed: int = 0
    predicted: int = 0

    def __add__(self, other: Evidence) -> Evidence:
        return Evidence(
            self.observed + other.observed, self.predicted + other.predicted
        )

    @property
    def explains(self) -> bool:
        """Whether so few elements would be beyond the bound, if the arithmetic held.

        A mistake smaller than an arithmetic's errors lies inside its bound, but moves
        fewer elements. With m = predicted / sqrt(roundings) expected at least, the
        chance of `observed` or fewer is below exp(n - m) (m / n)^n (Chernoff).
        """
        least = self.predicted / math.sqrt(_ROUNDINGS)
        count = self.observed
        if count >= least:
            return True
        chance = count - least + (count * math.log(least / count) if count else 0.0)
        return chance > math.log(FAMILY)


def evidence(call: Call, numerics: Numerics) -> Evidence:
    """How far `numerics` explains what the call returned beside its declaration."""
    if all(
        getattr(numerics, point) == getattr(call.numerics, point)
        for point in ROUNDING_POINTS
    ):
        return Evidence()
    declared = call.trace()
    rounded = call.under(numerics.but(fused=False)).trace()
    got = call.outcome.outputs
    observed = predicted = 0
    for name, tensor in got.items():
        if name not in declared or not tensor.is_floating_point():
            continue
        tap, other = declared[name], rounded[name].value.to(tensor.dtype)
        observed += int(outside(tap, tensor, call.numerics).sum())
        predicted += int(outside(tap, other, call.numerics).sum())
    return Evidence(observed, predicted)
