"""Block quantisation of a matrix of numbers: one tile, one scale, one code at a time.

Sources: OCP MX v1.0 sections 5 and 6 (MX formats); NVFP4: arXiv 2509.25149, appendix
B; block FP8: the DeepSeek-V3 report, section 3.3. Every fp32 operation of the last two
is a Fraction rounded to fp32; MX has none (a power of two divides exactly).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from oracle.scalar.elements import (
    Value,
    decode,
    encode,
    is_negative,
    largest,
)
from oracle.scalar.interval import Number
from oracle.scalar.scales import e4m3_scale, fp32, power_of_two_byte, scale_value

Matrix = Sequence[Sequence[Number]]


@dataclass(frozen=True, slots=True)
class Quantized:
    """Codes [N][K], scales [ceil(N / rows)][ceil(K / columns)], and a global scale."""

    codes: list[list[int]]
    scales: list[list[int | Fraction]]
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
            yield (
                top // height,
                left // width,
                [
                    (row, column)
                    for row in range(top, min(top + height, rows))
                    for column in range(left, min(left + width, columns))
                ],
            )


def global_scale_of(matrix: Matrix, element: str) -> Fraction:
    """NVFP4's decode scale 1 / (largest(element) * 448 / amax), each step in fp32.

    An all-zero tensor has 1.
    """
    amax = max((abs(Fraction(x)) for row in matrix for x in row), default=Fraction(0))
    if amax == 0:
        return Fraction(1)
    return fp32(1 / fp32(largest(element) * 448 / amax))


def quantize(
    matrix: Matrix, format: Any, global_scale: Number | None = None
) -> Quantized:
    """Quantise finite numbers; raises ValueError for NaN and infinities."""
    if not all(math.isfinite(x) for row in matrix for x in row):
        raise ValueError("scalar: a block holds NaN or infinity; give finite numbers")
    whole = None
    if format.global_scale:
        given = global_scale is not None
        whole = fp32(Fraction(global_scale)) if given else None  # type: ignore[arg-type]
        whole = whole or global_scale_of(matrix, format.element)
    rows, columns = len(matrix), len(matrix[0]) if matrix else 0
    codes = [[0] * columns for _ in range(rows)]
    scales: dict[tuple[int, int], int | Fraction] = {}
    for i, j, positions in tiles(rows, columns, format):
        amax = max(abs(Fraction(matrix[r][c])) for r, c in positions)
        scale = block_scale(amax, format, whole)
        scales[i, j] = scale
        for r, c in positions:
            codes[r][c] = element_code(matrix[r][c], scale, format, whole)
    height = 1 + max((i for i, _ in scales), default=-1)
    width = 1 + max((j for _, j in scales), default=-1)
    grid = [[scales[i, j] for j in range(width)] for i in range(height)]
    return Quantized(codes, grid, whole)


def block_scale(
    amax: Fraction, format: Any, whole: Fraction | None = None
) -> int | Fraction:
    """The stored scale of a block whose largest magnitude is `amax`."""
    amax = max(amax, Fraction(format.amax_floor))
    if format.scale == "e8m0":
        return power_of_two_byte(
            amax, format.scale_rule, format.element, format.minimum_byte
        )
    scale = fp32(amax / largest(format.element))
    if whole is not None:
        scale = fp32(scale * fp32(1 / whole))
    return e4m3_scale(scale) if format.scale == "e4m3" else scale


def element_code(
    x: Number, scale: int | Fraction, format: Any, whole: Fraction | None = None
) -> int:
    """Code of x / scale (times the global one), saturated to the largest value.

    A scale of zero makes every code zero.
    """
    divisor = Fraction(scale_value(scale, format.scale))
    if whole is not None:
        divisor = fp32(divisor * whole)
    if divisor == 0:
        quotient: Value = Fraction(0)
    elif format.scale == "e8m0":
        quotient = Fraction(x) / divisor
    elif format.apply == "reciprocal":
        quotient = fp32(Fraction(x) * fp32(1 / divisor))
    else:
        quotient = fp32(Fraction(x) / divisor)
    if quotient == 0 and is_negative(x):
        quotient = -0.0
    code = encode(quotient, format.element, format.rounding, saturate=True)
    if not format.keep_negative_zero and decode(code, format.element) == 0:
        return 0
    return code


def dequantize(blocks: Quantized, format: Any) -> list[list[Value]]:
    """code value * scale value (* global scale), exactly; a NaN scale makes NaN."""
    rows, columns = len(blocks.codes), len(blocks.codes[0]) if blocks.codes else 0
    values: list[list[Value]] = [[Fraction(0)] * columns for _ in range(rows)]
    for i, j, positions in tiles(rows, columns, format):
        scale = scale_value(blocks.scales[i][j], format.scale)
        for r, c in positions:
            values[r][c] = _times(decode(blocks.codes[r][c], format.element), scale)
            if blocks.global_scale is not None:
                values[r][c] = _times(values[r][c], blocks.global_scale)
    return values


def _times(x: Value, scale: Value) -> Value:
    """The product, in floats where either is no Fraction (-0.0, infinity, NaN)."""
    if isinstance(x, Fraction) and isinstance(scale, Fraction):
        return x * scale
    return float(x) * float(scale)
