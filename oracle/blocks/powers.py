"""Power-of-two scales from the bits of amax: floor, ceil, even, rceil.

With amax = m 2^e, 1 <= m < 2, and the element's (or the format's) maximum = mu 2^E, the
scale is 2^(e + up - E), where `up` is 0 or 1:

* ``floor``: 0. OCP Microscaling v1.0, section 6.3.
* ``ceil``: m > 1.
* ``even``: m >= 2 - 2^-(M + 1), M the element's mantissa bits: amax rounded half up
  to M bits would reach the next power of two.
* ``rceil``: m > mu: the least power of two not below amax / maximum. cuBLAS manual,
  block scaling.

Nothing is divided and no logarithm taken: both err next to powers of two.
"""

from __future__ import annotations

import math

import torch

from oracle.formats import get
from oracle.spec import BlockFormat

BIAS = 127
NAN_BYTE = 0xFF
_FRACTION = (1 << 52) - 1


def power_bytes(amax: torch.Tensor, format: BlockFormat) -> torch.Tensor:
    """E8M0 byte of the scale of each block, held to `minimum_byte`..254.

    Shapes: amax f64[...] >= 0 -> i64[...]

    amax = 0 gives `minimum_byte`. Infinity counts as 2^128, under rceil as more than
    any scale covers (byte 254), as the vendors' conversions saturate. NaN gives 255.
    """
    element = get(format.element)
    maximum = format.maximum or element.maximum
    significand, exponent = math.frexp(maximum)
    bits = amax.view(torch.int64)
    fraction = bits & _FRACTION
    power = (bits >> 52) - 1023
    power -= exponent - 1
    if format.scale_rule == "ceil":
        power += fraction > 0
    elif format.scale_rule == "even":
        power += fraction >= _FRACTION + 1 - (1 << (51 - element.mantissa))
    elif format.scale_rule == "rceil":
        power += fraction > int((2 * significand - 1) * 2.0**52)
    power = power.clamp_(format.minimum_byte - BIAS, BIAS) + BIAS
    infinite = amax.isinf()
    if infinite.any():
        power[infinite] = 254 if format.scale_rule == "rceil" else 256 - exponent
    return power.masked_fill_(amax.isnan(), NAN_BYTE)


def power_value(stored: torch.Tensor) -> torch.Tensor:
    """2^(byte - 127) as float64, NaN for byte 255: byte 0 is 2^-127, not zero."""
    stored = stored.to(torch.int64)
    value = ((stored + (1023 - BIAS)) << 52).view(torch.float64)
    return value.masked_fill_(stored == NAN_BYTE, torch.nan)
