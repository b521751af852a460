"""Matrix units as arithmetic on fractions: one step, and a chain over K.

Sources: Fasi, Higham, Mikaitis, Pranesh 2021 (fused multi-term addition of tensor
cores); Khattak, Mikaitis 2026 and MMA-Sim 2511.10909 (its parameters).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from oracle.scalar.elements import round_to
from oracle.scalar.interval import Number, exact
from oracle.scalar.scales import power_below

#: Smallest exponent of normal fp32 numbers, which running sums have too.
FP32_EXPONENT = -126
_NEAREST_TYPES = {52: "fp64", 23: "fp32", 10: "fp16", 7: "bf16"}


def toward_zero(x: Fraction, exponent: int) -> Fraction:
    """x cut to a multiple of 2**exponent."""
    quantum = Fraction(2) ** exponent
    return abs(x) // quantum * quantum * (1 if x > 0 else -1)


def step(
    a: Sequence[Number],
    b: Sequence[Number],
    c: Number,
    unit: Any,
    operand_exponent: int = FP32_EXPONENT,
) -> Fraction:
    """c plus the products a_i b_i as the unit adds them.

    Truncating units: E is the largest of the products' exponents (the sum of the
    operands' own, at least `operand_exponent` each: subnormals are not normalised) and
    c's, not below the unit's minimum; every term is cut toward zero to a multiple of
    2**(E - fraction); the exact sum is cut to `out_fraction` bits of its own exponent.
    Rounding units add the exact terms and round the sum to nearest, ties to even.
    """
    terms = [exact(p) * exact(q) for p, q in zip(a, b, strict=True)]
    start = exact(c)
    if unit.rounding == "nearest":
        result = start + sum(terms)
        if unit.out_fraction not in _NEAREST_TYPES:
            return result
        return Fraction(round_to(result, _NEAREST_TYPES[unit.out_fraction]))
    exponents = [
        sum(max(power_below(abs(exact(v))), operand_exponent) for v in pair)
        for pair in zip(a, b, strict=True)
        if all(pair)
    ]
    if start:
        exponents.append(max(power_below(abs(start)), FP32_EXPONENT))
    if not exponents:
        return Fraction(0)
    grid = max(*exponents, unit.minimum_exponent) - unit.fraction
    result = sum((toward_zero(term, grid) for term in [*terms, start]), Fraction(0))
    if result == 0:
        return result
    own = max(power_below(abs(result)), FP32_EXPONENT)
    return toward_zero(result, own - unit.out_fraction)


def chain(
    a: Sequence[Number],
    b: Sequence[Number],
    unit: Any,
    operand_exponent: int = FP32_EXPONENT,
) -> Fraction:
    """The dot product of a and b in steps of `terms`, promoted to fp32 if declared."""
    register, running = Fraction(0), Fraction(0)
    for first in range(0, len(a), unit.terms):
        stop = first + unit.terms
        running = step(a[first:stop], b[first:stop], running, unit, operand_exponent)
        if unit.promote and stop % unit.promote == 0:
            register = Fraction(round_to(register + running, "fp32"))
            running = Fraction(0)
    if unit.promote and running:
        return Fraction(round_to(register + running, "fp32"))
    return register if unit.promote else running
