"""The scale of one block from its largest magnitude, by comparing fractions.

Each power-of-two rule is evaluated from its textual definition, X being the scale:

* ``floor``: X = (largest power of two <= amax) / (largest power of two of the element);
  OCP MX v1.0, section 6.3.
* ``ceil``: the smallest power of two >= amax instead.
* ``even``: amax first rounded, half up, to the element's mantissa width, then floor.
* ``rceil``: the smallest power of two >= amax / (largest value of the element).

``divide`` is no power of two: amax / (largest value), rounded to the scale's type.
"""

from __future__ import annotations

from fractions import Fraction

from oracle.scalar.elements import decode, element, encode, largest, round_to


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
    return (x / quantum + Fraction(1, 2)).__floor__() * quantum


def power_of_two_byte(amax: Fraction, rule: str, name: str, minimum: int) -> int:
    """E8M0 byte of the scale, within minimum..254; an all-zero block gets the minimum.

    >>> [power_of_two_byte(Fraction(7), r, "e2m1", 0) for r in ("floor", "rceil")]
    [127, 128]
    """
    if amax == 0:
        return minimum
    largest_power = power_below(largest(name))
    if rule == "floor":
        exponent = power_below(amax) - largest_power
    elif rule == "ceil":
        exponent = power_above(amax) - largest_power
    elif rule == "even":
        rounded = significant(amax, element(name).mantissa)
        exponent = power_below(rounded) - largest_power
    elif rule == "rceil":
        exponent = power_above(amax / largest(name))
    else:
        raise ValueError(f"scalar: scale rule {rule!r} does not give a power of two")
    return min(max(exponent + 127, minimum), 254)


def fp32(x: Fraction) -> Fraction:
    """x rounded to fp32; raises OverflowError past its range."""
    value = round_to(x, "fp32")
    if isinstance(value, float) and value != 0:
        raise OverflowError(f"scalar: {float(x)} overflows fp32")
    return Fraction(value)


def e4m3_scale(ratio: Fraction) -> int:
    """E4M3 byte of a non-negative block scale, nearest even, saturated to 448."""
    return encode(ratio, "e4m3")


def scale_value(stored: int | Fraction, scale: str) -> Fraction | float:
    """What a stored scale multiplies by: a byte of E8M0 or E4M3, or the number."""
    return decode(int(stored), scale) if scale in ("e8m0", "e4m3") else Fraction(stored)
