"""The scale of one block from its largest magnitude, by comparing fractions.

Each power-of-two rule is evaluated from its textual definition, X being the scale:

* ``floor``: X = (largest power of two <= amax) / (largest power of two of the element);
  OCP MX v1.0, section 6.3.
* ``ceil``: the smallest power of two >= amax instead.
* ``even``: amax first rounded, half up, to the element's mantissa width, then floor.
* ``rceil``: the smallest power of two >= amax / (largest value of the element).

The others are rounded to fp32 after every operation: ``divide`` amax / M, ``multiply``
amax * (1 / M), ``invert`` 1 / (M * (1 / amax)).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from oracle.scalar.elements import Value, element, largest, round_to

POWER_RULES = ("floor", "ceil", "even", "rceil")


def power_below(x: Fraction) -> int:
    """The e of the largest 2**e <= x, for x > 0."""
    e = x.numerator.bit_length() - x.denominator.bit_length()
    while Fraction(2) ** e > x:
        e -= 1
    return e


def power_above(x: Fraction) -> int:
    """The e of the smallest 2**e >= x, for x > 0."""
    e = power_below(x)
    return e if Fraction(2) ** e == x else e + 1


def significant(x: Fraction, mantissa: int) -> Fraction:
    """x > 0 rounded half up to `mantissa` bits after the leading one."""
    quantum = Fraction(2) ** (power_below(x) - mantissa)
    return math.floor(x / quantum + Fraction(1, 2)) * quantum


def maximum_of(format: Any) -> Fraction:
    """What amax is mapped onto."""
    if format.maximum is not None:
        return Fraction(format.maximum)
    return largest(format.element)


def power_of_two_byte(amax: Value, format: Any) -> int:
    """E8M0 byte of the scale, within minimum..254; an all-zero block gets the minimum.

    An infinite amax counts as 2**128, and as more than any scale covers under rceil.
    """
    rule, maximum = format.scale_rule, maximum_of(format)
    least: int = format.minimum_byte
    if amax == 0:
        return least
    if amax == math.inf:
        if rule == "rceil":
            return 254
        amax = Fraction(2) ** 128
    amax = Fraction(amax)
    if rule == "floor":
        exponent = power_below(amax) - power_below(maximum)
    elif rule == "ceil":
        exponent = power_above(amax) - power_below(maximum)
    elif rule == "even":
        rounded = significant(amax, element(format.element).mantissa)
        exponent = power_below(rounded) - power_below(maximum)
    elif rule == "rceil":
        exponent = power_above(amax / maximum)
    else:
        raise ValueError(f"scalar: scale rule {rule!r} does not give a power of two")
    return min(max(exponent + 127, least), 254)


def fp32(x: Value) -> Fraction:
    """x rounded to fp32, the largest number past its range."""
    return Fraction(round_to(x, "fp32", saturate=True))


def inverse(x: Fraction, numerator: Fraction = Fraction(1)) -> Fraction:
    """numerator / x in fp32; division by zero gives the largest number."""
    return fp32(numerator / x if x else math.inf)


def multiplier(amax: Fraction, format: Any) -> Fraction:
    """M / amax in fp32; under ``invert`` M * (1 / amax), rounded twice."""
    maximum = maximum_of(format)
    if format.scale_rule == "invert":
        return fp32(maximum * inverse(amax))
    return inverse(amax, maximum)


def ratio(amax: Fraction, format: Any) -> Fraction:
    """amax / M by the format's rule, in the type that the scale is kept in."""
    rule, maximum = format.scale_rule, maximum_of(format)
    if rule in POWER_RULES:
        value = Fraction(2) ** (power_of_two_byte(amax, format) - 127)
    elif rule == "divide":
        value = fp32(amax / maximum)
    elif rule == "multiply":
        value = fp32(amax * inverse(maximum))
    elif rule == "invert":
        value = inverse(multiplier(amax, format))
    else:
        raise ValueError(f"scalar: scale rule {rule!r} is unknown")
    return Fraction(round_to(value, format.scale, saturate=True))
