"""Element formats from their definitions: the value of a code, the code of a value.

A value is a Fraction, or a float where no Fraction will do: -0.0, infinities, NaN.
The representable values of every format stand in the order of their codes, so the
nearest one is found by bisection; no format needs its own rounding code.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial

from oracle.scalar.interval import Number

Value = Fraction | float


@dataclass(frozen=True, slots=True)
class Element:
    """Sign-magnitude floats (`exponent` bits > 0) or two's complement fixed point.

    `last` is the code of the largest finite magnitude; with `infinity` the next code is
    infinity, and all codes beyond are NaN. Fixed point: value = code * 2**-mantissa.
    """

    exponent: int
    mantissa: int
    bias: int
    last: int
    infinity: bool = False
    nan: bool = True
    signed: bool = True

    @property
    def quantum(self) -> Fraction:
        """Distance of the values next to zero."""
        least = max(self.bias - (1 if self.signed else 0), 0)
        return Fraction(1, 1 << (least + self.mantissa))

    @property
    def sign_bit(self) -> int:
        """The code of -0."""
        return 1 << (self.exponent + self.mantissa)


def _ieee(exponent: int, mantissa: int) -> Element:
    bias = (1 << (exponent - 1)) - 1
    last = (((1 << exponent) - 1) << mantissa) - 1
    return Element(exponent, mantissa, bias, last, infinity=True)


ELEMENTS: dict[str, Element] = {
    "e2m1": Element(2, 1, 1, 0x7, nan=False),
    "e2m3": Element(2, 3, 1, 0x1F, nan=False),
    "e3m2": Element(3, 2, 3, 0x1F, nan=False),
    "e4m3": Element(4, 3, 7, 0x7E),
    "e5m2": _ieee(5, 2),
    "e8m0": Element(8, 0, 127, 0xFE, signed=False),
    "int8": Element(0, 0, 0, 127, nan=False),
    "int4": Element(0, 0, 0, 7, nan=False),
    "mxint8": Element(0, 6, 0, 127, nan=False),
    "fp16": _ieee(5, 10),
    "bf16": _ieee(8, 7),
    "fp32": _ieee(8, 23),
    "fp64": _ieee(11, 52),
}


def element(name: str) -> Element:
    """The format of that name; raises ValueError for an unknown one."""
    if name not in ELEMENTS:
        raise ValueError(f"scalar: element {name!r} is unknown; use {list(ELEMENTS)}")
    return ELEMENTS[name]


def is_negative(value: Number) -> bool:
    """Whether the sign is minus, -0.0 included."""
    return math.copysign(1.0, value) < 0 if isinstance(value, float) else value < 0


def as_value(x: Number) -> Value:
    """A number as a Fraction where it can be one."""
    if isinstance(x, float) and (not math.isfinite(x) or (x == 0 and is_negative(x))):
        return x
    return Fraction(x)


def _quanta(format: Element, code: int) -> int:
    """Value of a non-negative code in units of `quantum`, finite codes never ending."""
    if format.exponent == 0:
        return code
    field, significand = divmod(code, 1 << format.mantissa)
    if not format.signed:
        # E8M0 has no subnormals and no zero: byte 0 is 2**-127.
        return 1 << field
    if field:
        significand += 1 << format.mantissa
    return significand << max(field - 1, 0)


def _magnitude(format: Element, code: int) -> Fraction:
    return _quanta(format, code) * format.quantum


@lru_cache(maxsize=1 << 12)
def decode(code: int, name: str) -> Value:
    """The value of a code (int8, int4, mxint8: a signed number)."""
    format = element(name)
    if format.exponent == 0:
        return Fraction(code, 1 << format.mantissa)
    magnitude = code & (format.sign_bit - 1)
    negative = bool(code & format.sign_bit) and format.signed
    if magnitude > format.last:
        if format.infinity and magnitude == format.last + 1:
            return -math.inf if negative else math.inf
        return math.nan
    value = _magnitude(format, magnitude)
    if not negative:
        return value
    return -value if value else -0.0


@lru_cache
def largest(name: str) -> Fraction:
    """The largest finite value."""
    format = element(name)
    return _magnitude(format, format.last)


def _nearest(format: Element, x: Fraction, rounding: str) -> int:
    """Code of the value next to x >= 0, on the grid continued beyond `last`."""
    count = format.last + 2
    units = x / format.quantum
    values = range(count)
    below = bisect_right(values, math.floor(units), key=partial(_quanta, format)) - 1
    if below < 0:
        return 0
    low = _quanta(format, below)
    if low == units or rounding == "toward_zero" or below == count - 1:
        return below
    middle = Fraction(low + _quanta(format, below + 1), 2)
    if units != middle:
        return below + (units > middle)
    if rounding == "nearest_even":
        # One digit of precision leaves no even neighbour: IEEE 754, 4.3.1, takes the
        # larger one.
        return below + (below % 2 if format.signed else 1)
    return below + {"half_away": 1, "half_toward_zero": 0}[rounding]


def encode(
    x: Number, name: str, rounding: str = "nearest_even", saturate: bool = True
) -> int:
    """Code of the nearest value: ties by `rounding`, overflow saturated or not.

    What rounds past the largest value becomes it when saturating (infinities too), else
    infinity, else NaN; formats that have neither always saturate. ``toward_zero`` never
    leaves the finite range, except from an infinity. E8M0 takes the magnitude, zero
    being nearest to 2**-127. NaN in a format that has none: the largest value in floats
    (as NVIDIA's conversions have it), 0 in integers.
    """
    format = element(name)
    x = as_value(x)
    if isinstance(x, float) and math.isnan(x):
        return _nan(format)
    negative = is_negative(x) and format.signed
    if isinstance(x, float) and math.isinf(x):
        magnitude = format.last + 1
    else:
        magnitude = _nearest(format, abs(Fraction(x)), rounding)
    if format.exponent == 0 and negative:
        lowest = format.last + (name != "mxint8")
        return -min(magnitude, lowest)
    if magnitude > format.last:
        cut = rounding == "toward_zero" and math.isfinite(x)
        if saturate or cut or not (format.infinity or format.nan):
            magnitude = format.last
        elif not format.infinity:
            magnitude = _nan(format)
    return magnitude | (format.sign_bit if negative and format.exponent else 0)


def _nan(format: Element) -> int:
    """A positive NaN, or what stands in for it."""
    if not format.nan:
        return format.last if format.exponent else 0
    return format.last + 2 if format.infinity else format.last + 1


def round_to(
    x: Number, name: str, rounding: str = "nearest_even", saturate: bool = False
) -> Value:
    """The representable value nearest to `x`: decode(encode(x)).

    >>> round_to(Fraction(1, 10), "bf16")
    Fraction(205, 2048)
    """
    return decode(encode(x, name, rounding, saturate), name)
