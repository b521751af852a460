"""Codes to values and values to codes, for every element format."""

from __future__ import annotations

from functools import lru_cache

import torch

from oracle.formats.element import ElementFormat, get
from oracle.formats.rounding import round_to
from oracle.spec import Rounding

_SOURCES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def decode(codes: torch.Tensor, name: str) -> torch.Tensor:
    """The value of each code.

    Shapes: codes: integer[...] -> f64[...]

    E8M0: 2^(code - 127), so byte 0 is 2^-127, and 255 is NaN. Codes of sixteen bits and
    more may come signed or not; codes of int4 are sign extended from four bits.

    Raises TypeError unless `codes` is an integer tensor, ValueError for a code wider
    than the format.

    >>> decode(torch.tensor([0x7, 0x8, 0x1], dtype=torch.uint8), "e2m1").tolist()
    [6.0, -0.0, 0.5]
    """
    entry = get(name)
    check_codes(codes, name)
    if entry.bits > 8:
        return _decode_bits(codes.to(torch.int64), entry)
    indices = codes.to(torch.int32) & (2**entry.bits - 1)
    return value_table(name, codes.device)[indices]


def check_codes(codes: torch.Tensor, name: str) -> None:
    """TypeError unless `codes` are integers, ValueError for a code that is too wide."""
    entry = get(name)
    if codes.dtype not in _INTEGERS:
        raise TypeError(
            f"decode: codes of {name} are {codes.dtype}; view them as an integer type"
        )
    narrow = entry.bits == 8 and codes.dtype.itemsize == 1
    if not codes.numel() or entry.bits > 8 or narrow:
        return
    low, high = (int(end) for end in codes.aminmax())
    least = -(2 ** (entry.bits - 1)) if entry.kind == "integer" else 0
    if low < least or high >= 2**entry.bits:
        raise ValueError(
            f"decode: codes span {low}..{high}; {entry.name} has {entry.bits} bits, "
            "one code per element: unpack packed bytes first"
        )


@lru_cache(maxsize=64)
def value_table(
    name: str, device: torch.device, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Values of all codes of a format of at most eight bits."""
    entry = get(name)
    codes = torch.arange(2**entry.bits, dtype=torch.int64, device=device)
    return _decode_bits(codes, entry).to(dtype)


def _decode_bits(codes: torch.Tensor, entry: ElementFormat) -> torch.Tensor:
    """Decode int64 codes by moving their fields into those of a float64."""
    if entry.kind == "integer":
        wrap = (codes & (1 << (entry.bits - 1))) << 1
        return (codes - wrap).to(torch.float64) * entry.quantum
    if entry.kind == "scale":
        values = ((codes + (1023 - entry.bias)) << 52).view(torch.float64)
        return values.masked_fill_(codes == 255, torch.nan)
    if entry.bits == 64:
        return codes.view(torch.float64)
    magnitude = codes & (2 ** (entry.bits - 1) - 1)
    shift = 52 - entry.mantissa
    values = ((magnitude << shift) + ((1023 - entry.bias) << 52)).view(torch.float64)
    subnormal = magnitude < (1 << entry.mantissa)
    steps = magnitude.to(torch.float64)
    values = torch.where(subnormal, steps * entry.quantum, values)
    if entry.infinity is not None:
        values.masked_fill_(magnitude > entry.infinity, torch.nan)
        values.masked_fill_(magnitude == entry.infinity, torch.inf)
    elif entry.nan is not None:
        values.masked_fill_(magnitude == entry.nan, torch.nan)
    negative = (codes >> (entry.bits - 1)) & 1
    return torch.where(negative.bool(), -values, values)


def encode(
    values: torch.Tensor,
    name: str,
    rounding: Rounding = "nearest_even",
    saturate: bool = True,
) -> torch.Tensor:
    """The code of the representable value next to each value, rounded once.

    Shapes: values: f64, f32, bf16 or fp16 [...] -> u8[...] for the float formats of up
    to eight bits, i8 for int8, int4 and mxint8, i16, i32 or i64 for the wider ones

    ``saturate=False``: past the largest value lies Inf, or NaN in E4M3 and E8M0;
    formats with neither saturate always. NaN becomes the canonical positive NaN, a
    negative overflow of E4M3 the negative one; in E2M1, E2M3 and E3M2 NaN becomes the
    largest value (as NVIDIA converts it), in integers 0.

    Raises TypeError for other types of `values`, ValueError for unknown names.

    >>> encode(torch.tensor([5.0, 0.26, -0.0]), "e2m1").tolist()
    [6, 1, 8]
    """
    entry = get(name)
    if values.dtype not in _SOURCES:
        raise TypeError(
            f"encode: values are {values.dtype}; give float64, float32, bfloat16 or "
            "float16"
        )
    values = values.to(torch.float64)
    exact = round_to(values, name, rounding=rounding, saturate=saturate)
    codes = _codes_of(exact, entry)
    missing = exact.isnan()
    if bool(missing.any()):
        nan = entry.nan_stand_in if entry.nan is None else entry.nan
        codes[missing] = nan
        if entry.kind == "float" and entry.infinity is None:
            codes[missing & (values < 0)] = nan | 1 << (entry.bits - 1)
    return codes.to(entry.storage)


def _codes_of(exact: torch.Tensor, entry: ElementFormat) -> torch.Tensor:
    """Int64 codes of values that are representable or infinite; of NaN anything."""
    if entry.kind == "integer":
        return (exact.nan_to_num(0.0) / entry.quantum).to(torch.int64)
    bits = exact.view(torch.int64)
    magnitude = bits & (2**63 - 1)
    rebias = (1023 - entry.bias) << entry.mantissa
    codes = (magnitude >> (52 - entry.mantissa)) - rebias
    if entry.kind == "float":
        if entry.bits < 64:
            small = exact.abs() < entry.least_normal
            steps = torch.where(small, exact.abs(), 0.0) / entry.quantum
            codes = torch.where(small, steps.to(torch.int64), codes)
        if entry.infinity is not None:
            codes = torch.where(exact.isinf(), entry.infinity, codes)
        codes |= ((bits >> 63) & 1) << (entry.bits - 1)
    return codes
