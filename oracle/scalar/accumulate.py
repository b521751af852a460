"""Matrix units as arithmetic on fractions: one step, and a chain over K.

Sources: Fasi, Higham, Mikaitis, Pranesh 2021 (fused multi-term addition of tensor
cores); Khattak, Mikaitis 2026 and MMA-Sim 2511.10909 (its parameters).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from oracle.scalar.elements import round_to
from oracle.scalar.interval import Number, exact
from oracle.scalar.scales import power_below

#: Smallest exponent of normal fp32 numbers, which running sums have too.
FP32_EXPONENT = -126
_NEAREST_TYPES = {52: "fp64", 23: "fp32", 10: "fp16", 7: "bf16"}


@dataclass(frozen=True, slots=True)
class Product:
    """One product a b under the scales of its blocks.

    `least`: exponents of the formats' least normal values. Subnormals are not
    normalised before they are aligned.
    """

    a: Number
    b: Number
    scale_a: Number = 1
    scale_b: Number = 1
    least: tuple[int, int] = (FP32_EXPONENT, FP32_EXPONENT)

    @property
    def value(self) -> Fraction:
        """a b scale_a scale_b."""
        return exact(self.a) * exact(self.b) * exact(self.scale_a) * exact(self.scale_b)

    @property
    def scale_exponent(self) -> int:
        """Exponent of both scales."""
        return power_below(exact(self.scale_a)) + power_below(exact(self.scale_b))

    @property
    def exponent(self) -> int:
        """Sum of the factors' exponents; the significand lies below 4."""
        pairs = zip((self.a, self.b), self.least, strict=True)
        own = sum(max(power_below(abs(exact(v))), least) for v, least in pairs)
        return own + self.scale_exponent


def toward_zero(x: Fraction, exponent: int) -> Fraction:
    """x cut to a multiple of 2**exponent."""
    quantum = Fraction(2) ** exponent
    return abs(x) // quantum * quantum * (1 if x > 0 else -1)


def step(products: Sequence[Product], c: Number, unit: Any) -> Fraction:
    """c plus the products as the unit adds them.

    Truncating units: E is the largest exponent of the nonzero terms and of c, not below
    the unit's minimum; every term is cut toward zero to a multiple of
    2**(E - fraction); the exact sum is cut to `out_fraction` bits of its own exponent.
    Where the unit has groups, a group's exact sum is one term, aligned by its scales.
    Rounding units add the exact terms and round the sum to nearest, ties to even.
    """
    start = exact(c)
    terms = [start]
    exponents = [max(power_below(abs(start)), FP32_EXPONENT)] if start else []
    for first in range(0, len(products), unit.group):
        members = products[first : first + unit.group]
        value = sum((p.value for p in members), Fraction(0))
        terms.append(value)
        if any(p.value for p in members):
            alone = unit.group == 1
            exponents.append(
                members[0].exponent if alone else members[0].scale_exponent
            )
    total = sum(terms, Fraction(0))
    if unit.rounding == "nearest":
        return Fraction(round_to(total, _NEAREST_TYPES[unit.out_fraction]))
    if unit.rounding == "exact" or not exponents:
        return total
    grid = max(*exponents, unit.minimum_exponent) - unit.fraction
    total = sum((toward_zero(term, grid) for term in terms), Fraction(0))
    if total == 0:
        return total
    own = max(power_below(abs(total)), FP32_EXPONENT)
    return toward_zero(total, own - unit.out_fraction)


def chain(products: Sequence[Product], unit: Any, start: Number = 0) -> Fraction:
    """The sum of the products in the order given, in steps of the unit's length.

    With `promote` the sum so far goes into an fp32 register, rounded to nearest, and
    starts again from zero. Units that sum integers round the whole sum to fp32.
    """
    register, running = exact(start), exact(start)
    if unit.promote:
        running = Fraction(0)
    length = unit.terms * unit.group
    for first in range(0, len(products), length):
        stop = first + length
        running = step(products[first:stop], running, unit)
        if unit.promote and (stop % unit.promote == 0 or stop >= len(products)):
            register = Fraction(round_to(register + running, "fp32"))
            running = Fraction(0)
    if unit.rounding == "exact":
        return Fraction(round_to(running, "fp32"))
    return register if unit.promote else running
