"""Operands of dot products: a pure function of the format and the number of each."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from .hardware_model import FLOATS, Float

#: Kinds of random dot products; `chained` ones take several instructions.
KINDS = (
    "bits", "near", "spread", "wide", "positive", "cancelling", "tiny", "integers",
    "large_c", "chained",
)  # fmt: skip
_MIX = (-0x61C8864680B583EB, -0x4B47D0C5A1A6C6E5, -0x6B2FB644ECCEEE15)


def mixed(seed: int, *shape: int) -> torch.Tensor:
    """63 random bits for each element: a 64-bit finaliser of a counter."""
    count = torch.arange(math.prod(shape), dtype=torch.int64).reshape(shape)
    value = (count + (seed << 40)) * _MIX[0]
    for shift, factor in ((30, _MIX[1]), (27, _MIX[2])):
        value = (value ^ (value >> shift & (1 << 64 - shift) - 1)) * factor
    return (value ^ (value >> 31 & (1 << 33) - 1)) & (1 << 63) - 1


def _between(bits: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Uniform from low to high, both included, by the upper half of the bits."""
    return low + (bits >> 20) % (high - low + 1)


def _floats(
    entry: Float, seed: int, shape: tuple[int, ...], low: int, high: int
) -> torch.Tensor:
    """Codes with random sign and mantissa, and exponents (unbiased) in a range."""
    bits = mixed(seed, *shape)
    largest = 2 * entry.bias if not entry.finite_top else 2 * entry.bias + 1
    low, high = (min(max(e + entry.bias, 0), largest) for e in (low, high))
    mantissa = entry.mantissa + entry.ignored
    exponent = _between(bits, low, high) << mantissa
    return (bits & (1 << mantissa) - 1) | exponent | (bits >> 62 & 1) << entry.bits - 1


def random(
    operand: str, result: str, depth: int, kind: str, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, y i64[count, K] codes and c i64[count] bits; K = depth, or 4 depth chained."""
    seed = 4 * KINDS.index(kind)
    length = 4 * depth if kind == "chained" else depth
    shape = (count, length)
    if operand == "s8":
        x, y = (mixed(seed + i, *shape) >> 30 & 0xFF for i in (0, 1))
        return x, y, mixed(seed + 2, count) >> 20 & 0xFFFFFFFF
    entry, sums = FLOATS[operand], FLOATS[result]
    sign = 1 << entry.bits - 1
    if kind == "bits":
        x, y = (mixed(seed + i, *shape) >> 20 & 2 * sign - 1 for i in (0, 1))
        return x, y, mixed(seed + 2, count) >> 20 & (1 << sums.bits) - 1
    half = 3 if result == "fp16" else 6
    ranges = {
        "near": ((-1, 1), (-1, 1), (-3, 3)),
        "spread": ((-half, half), (-half, half), (-2 * half, 2 * half)),
        "wide": ((-15, 7), (-15, 7), (-24, 14)),
        "positive": ((-2, 1), (-2, 1), (-2, 5)),
        "cancelling": ((-4, 3), (-4, 3), (-30, 2)),
        "tiny": ((-200, entry.least + 2), (-24, 1), (-200, sums.least + 4)),
        "integers": ((0, 3), (0, 3), (0, 6)),
        "large_c": ((-7, 2), (-7, 2), (2, 14)),
        "chained": ((-3, 3), (-3, 3), (-6, 6)),
    }
    of_x, of_y, of_c = ranges[kind]
    x = _floats(entry, seed, shape, *of_x)
    y = _floats(entry, seed + 1, shape, *of_y)
    c = _floats(sums, seed + 2, (count,), *of_c)
    if kind == "positive":
        return x & sign - 1, y & sign - 1, c & (1 << sums.bits - 1) - 1
    if kind == "integers":
        whole = (1 << entry.mantissa + entry.ignored - min(entry.mantissa, 3)) - 1
        x, y = x & ~whole, y & ~whole
        c = c & ~((1 << sums.mantissa - 6) - 1)
    if kind == "cancelling":
        # The second half takes the first away again, but for every fourth product.
        middle = length // 2
        keep = torch.arange(middle) % 4 != 3
        x[:, middle:] = torch.where(keep, x[:, :middle], x[:, middle:])
        y[:, middle:] = torch.where(keep, y[:, :middle] ^ sign, y[:, middle:])
        small = torch.arange(length) % 4 == 3
        x = torch.where(small, _floats(entry, seed + 3, shape, -14, -4), x)
    return x, y, c


def code(entry: Float, value: float) -> int:
    """The code of a value; ValueError unless it is representable."""
    sign = int(math.copysign(1.0, value) < 0) << entry.bits - 1
    value = abs(value)
    if math.isnan(value):
        return (1 << entry.bits - 1) - 1
    if math.isinf(value):
        return sign | entry.infinity << entry.ignored
    if value == 0.0:
        return sign
    exponent = max(math.frexp(value)[1] - 1, entry.least)
    steps = math.ldexp(value, entry.mantissa - exponent)
    magnitude = int(steps) + (exponent + entry.bias - 1 << entry.mantissa)
    if steps != int(steps) or magnitude > entry.infinity - entry.finite_top:
        raise ValueError(f"{value} is no value of {entry}")
    return sign | magnitude << entry.ignored


@lru_cache(maxsize=4096)
def value(entry: Float, bits: int) -> float:
    """The value of a code."""
    parts = entry.parts(torch.tensor([bits]))
    if parts.nan:
        return math.nan
    sign = -1.0 if parts.negative else 1.0
    if parts.infinite:
        return sign * math.inf
    exponent = int(parts.exponent) - entry.mantissa
    return sign * math.ldexp(abs(int(parts.significand)), exponent)
