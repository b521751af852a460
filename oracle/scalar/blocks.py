"""Block quantisation of a matrix of numbers: one tile, one scale, one code at a time.

Sources: OCP MX v1.0 sections 5 and 6 (MX formats); NVFP4: `oracle.scalar.nvfp4`; block
FP8: the DeepSeek-V3 report, section 3.3. Every fp32 operation of the last two is a
Fraction rounded to fp32; MX has none (a power of two divides exactly).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from oracle.scalar import nvfp4
from oracle.scalar.elements import (
    Value,
    as_value,
    decode,
    encode,
    is_negative,
    largest,
)
from oracle.scalar.interval import Number
from oracle.scalar.scales import (
    POWER_RULES,
    fp32,
    inverse,
    multiplier,
    power_of_two_byte,
    ratio,
)

Matrix = Sequence[Sequence[Number]]
Scale = int | Value


@dataclass(frozen=True, slots=True)
class Quantized:
    """Codes [N][K], scales [ceil(N / rows)][ceil(K / columns)], and a global scale.

    Scales of E8M0 and E4M3 are bytes, others numbers.
    """

    codes: list[list[int]]
    scales: list[list[Scale]]
    global_scale: Fraction | None = None


def tiles(
    rows: int, columns: int, format: Any
) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """(block row, block column, positions) of every tile; 0 is the whole axis."""
    height, width = format.block[0] or rows, format.block[1] or columns
    if not format.ragged and (rows % height or columns % width):
        raise ValueError(
            f"scalar: {rows} x {columns} does not divide into blocks of {height} x "
            f"{width}; pad it or declare the format ragged"
        )
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            down = range(top, min(top + height, rows))
            across = range(left, min(left + width, columns))
            yield top // height, left // width, [(r, c) for r in down for c in across]


def quantize(
    matrix: Matrix, format: Any, global_scale: Number | None = None
) -> Quantized:
    """Quantise; NaN and infinities by the format's policy.

    ``error`` raises ValueError; ``propagate`` makes the block NaN with codes of zero;
    ``saturate`` keeps NaN out of amax and lets it and infinities become codes.
    """
    rows, columns = len(matrix), len(matrix[0]) if matrix else 0
    whole = _whole(matrix, format, global_scale)
    codes = [[0] * columns for _ in range(rows)]
    scales: dict[tuple[int, int], Scale] = {}
    for i, j, positions in tiles(rows, columns, format):
        block = [as_value(matrix[r][c]) for r, c in positions]
        amax = peak(block, format)
        if amax is None:
            scales[i, j] = {"e8m0": 255, "e4m3": 127}.get(format.scale, math.nan)
            continue
        scale = block_scale(amax, format, whole)
        scales[i, j] = scale
        for (r, c), x in zip(positions, block, strict=True):
            codes[r][c] = element_code(x, scale, amax, format, whole)
    height = 1 + max((i for i, _ in scales), default=-1)
    width = 1 + max((j for _, j in scales), default=-1)
    grid = [[scales[i, j] for j in range(width)] for i in range(height)]
    return Quantized(codes, grid, whole.decode if format.global_scale else None)


def peak(block: Sequence[Value], format: Any) -> Value | None:
    """The largest magnitude, None for a block that is to become NaN."""
    broken = [x for x in block if isinstance(x, float) and not math.isfinite(x)]
    if broken and format.nonfinite == "error":
        raise ValueError(f"scalar: a block holds {broken[0]}; give finite numbers")
    if broken and format.nonfinite == "propagate":
        return None
    top: Value = Fraction(0)
    for x in block:
        magnitude: Value = -x if is_negative(x) else x
        if magnitude > top:
            top = magnitude
    return top


def _whole(matrix: Matrix, format: Any, given: Number | None) -> nvfp4.Whole:
    """The global scale: given, from the tensor's finite numbers, or none."""
    if not format.global_scale:
        return nvfp4.ONE
    if given is not None:
        return nvfp4.given(fp32(Fraction(given)))
    finite = [abs(Fraction(x)) for row in matrix for x in row if math.isfinite(x)]
    return nvfp4.whole_of(max(finite, default=Fraction(0)), format)


def block_scale(amax: Value, format: Any, whole: nvfp4.Whole = nvfp4.ONE) -> Scale:
    """The stored scale of a block whose largest magnitude is `amax`."""
    zero = amax == 0
    if zero and format.zero_scale is not None:
        if format.scale in ("e8m0", "e4m3"):
            return encode(format.zero_scale, format.scale)
        return fp32(Fraction(format.zero_scale))
    amax = max(amax, fp32(Fraction(format.amax_floor)))
    if format.scale == "e8m0":
        return power_of_two_byte(amax, format)
    if format.scale == "e4m3":
        return nvfp4.block_byte(_held(amax), whole, format)
    return ratio(_held(amax), format)


def _held(amax: Value) -> Fraction:
    """amax no larger than fp32's largest number."""
    return Fraction(min(amax, largest("fp32")))


def scale_value(stored: Scale, format: Any) -> Value:
    """What a stored scale multiplies by."""
    if format.scale in ("e8m0", "e4m3"):
        return decode(int(stored), format.scale)
    return as_value(stored)


def element_code(
    x: Value, scale: Scale, amax: Value, format: Any, whole: nvfp4.Whole = nvfp4.ONE
) -> int:
    """Code of x under its block's scale, saturated to the largest value.

    Exactly x / scale under a power of two; else one fp32 operation: x / scale,
    x * (1 / scale) or x * (M / amax). A scale of zero makes every code zero.
    """
    if isinstance(x, float) and not math.isfinite(x):
        result: Value = x
    elif format.scale == "e4m3":
        result = nvfp4.quotient(Fraction(x), int(scale), whole, format)
    else:
        result = _quotient(
            Fraction(x), Fraction(scale_value(scale, format)), amax, format
        )
    if result == 0 and is_negative(x):
        result = -0.0
    code = encode(result, format.element, format.rounding, saturate=True)
    if not format.keep_negative_zero and decode(code, format.element) == 0:
        return 0
    return code


def _quotient(x: Fraction, scale: Fraction, amax: Value, format: Any) -> Fraction:
    if format.scale_rule in POWER_RULES:
        return x / scale
    if format.apply == "inverse":
        floored = max(_held(amax), fp32(Fraction(format.amax_floor)))
        return fp32(x * multiplier(floored, format))
    if scale == 0:
        return scale
    return fp32(x * inverse(scale)) if format.apply == "reciprocal" else fp32(x / scale)


def dequantize(blocks: Quantized, format: Any) -> list[list[Value]]:
    """code value * scale value (* global scale), exactly; a NaN scale makes NaN."""
    rows, columns = len(blocks.codes), len(blocks.codes[0]) if blocks.codes else 0
    values: list[list[Value]] = [[Fraction(0)] * columns for _ in range(rows)]
    for i, j, positions in tiles(rows, columns, format):
        scale = scale_value(blocks.scales[i][j], format)
        if blocks.global_scale is not None:
            scale = _times(scale, blocks.global_scale)
        for r, c in positions:
            values[r][c] = _times(decode(blocks.codes[r][c], format.element), scale)
    return values


def _times(x: Value, scale: Value) -> Value:
    """The product, in floats where either is no Fraction (-0.0, infinity, NaN)."""
    if isinstance(x, Fraction) and isinstance(scale, Fraction):
        return x * scale
    return float(x) * float(scale)
