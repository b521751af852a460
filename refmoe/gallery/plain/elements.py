"""Element formats in plain torch: tables of values, and the code next to a number."""

from __future__ import annotations

from functools import lru_cache

import torch

from oracle.spec import BlockFormat

#: Mantissa bits, bias and number of finite codes with a clear sign.
_FLOATS = {
    "e2m1": (1, 1, 8), "e2m3": (3, 1, 32), "e3m2": (2, 3, 32),
    "e4m3": (3, 7, 127), "e5m2": (2, 15, 124),
}  # fmt: skip
#: Bits, distance of two values, least code.
_INTEGERS = {"int8": (8, 1.0, -128), "int4": (4, 1.0, -8), "mxint8": (8, 2.0**-6, -127)}


@lru_cache
def magnitudes(element: str) -> torch.Tensor:
    """f64 values of the codes 0, 1, 2 ... of a float format, rising."""
    mantissa, bias, count = _FLOATS[element]
    code = torch.arange(count)
    field, exponent = code % 2**mantissa, code // 2**mantissa
    whole = torch.where(exponent > 0, 2**mantissa + field, field)
    power = exponent.clamp_min(1) - bias - mantissa
    return torch.ldexp(whole.double(), power)


def largest(form: BlockFormat) -> float:
    """What amax is mapped onto."""
    if form.maximum is not None:
        return form.maximum
    if form.element in _FLOATS:
        return float(magnitudes(form.element)[-1])
    bits, step, _ = _INTEGERS[form.element]
    return ((1 << (bits - 1)) - 1) * step


@lru_cache
def values(element: str) -> torch.Tensor:
    """f64 values of all codes from 0 to 255, or as many as there are."""
    if element in _INTEGERS:
        bits, step, _ = _INTEGERS[element]
        code = torch.arange(2**bits)
        return torch.where(code < 2 ** (bits - 1), code, code - 2**bits) * step
    half = magnitudes(element)
    bits = {"e2m1": 4, "e2m3": 6, "e3m2": 6}.get(element, 8)
    missing = torch.full((2 ** (bits - 1) - len(half),), torch.nan)
    if element == "e5m2":
        missing[0] = torch.inf
    half = torch.cat([half, missing.double()])
    return torch.cat([half, -half])


def fraction_bits(element: str) -> int:
    """Mantissa bits of a float format, bits behind the point of an integer one."""
    if element in _FLOATS:
        return _FLOATS[element][0]
    return 6 if element == "mxint8" else 0


def encode(scaled: torch.Tensor, form: BlockFormat) -> torch.Tensor:
    """The codes of scaled values, saturated."""
    if form.element in _INTEGERS:
        bits, step, low = _INTEGERS[form.element]
        whole = scaled / step
        nearest = whole.round()
        if form.rounding != "nearest_even":
            nearest = _to_whole(whole, form.rounding)
        return nearest.clamp(low, 2 ** (bits - 1) - 1).to(torch.int8)
    table = magnitudes(form.element).to(scaled.dtype)
    size = scaled.abs().contiguous()
    if form.rounding == "toward_zero":
        code = torch.bucketize(size, table[1:], right=True)
    else:
        middles = (table[1:] + table[:-1]) / 2
        below = torch.bucketize(size, middles)
        above = torch.bucketize(size, middles, right=True)
        even = torch.where(below % 2 == 0, below, above)
        code = {"nearest_even": even, "half_away": above}.get(form.rounding, below)
    bits = {"e2m1": 4, "e2m3": 6, "e3m2": 6}.get(form.element, 8)
    # The sign of 0 / 0 depends on the processor.
    negative = scaled.signbit() & ~scaled.isnan()
    if not form.keep_negative_zero:
        negative = negative & (code > 0)
    return (code + negative * (1 << (bits - 1))).to(torch.uint8)


def _to_whole(whole: torch.Tensor, rounding: str) -> torch.Tensor:
    size = whole.abs()
    if rounding == "toward_zero":
        return whole.trunc()
    shift = (size + 0.5).floor() if rounding == "half_away" else (size - 0.5).ceil()
    return shift * whole.sign()
