"""What a matrix unit computes, in integers: written down apart from oracle and probes.

One instruction adds blocks of products one after another. A block's terms are its
products and, unless `joined` is false, the sum so far. Each term is cut to a multiple
of 2^(E - fraction), E being the largest exponent among the terms that are not zero (of
operands as stored, a product's not normalised); the sum of those is exact, and is then
rounded to `out_fraction` bits behind its leading one. Where `joined` is false, blocks
start from zero and c is added last, by an fp32 addition.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: Stands for the exponent of a term that is zero.
_NOTHING = -(1 << 20)


@dataclass(frozen=True, slots=True)
class Float:
    """A binary format: its stored bits, of which the lowest `ignored` count nothing."""

    bits: int
    mantissa: int
    bias: int
    #: Codes of NaN: all ones in exponent and mantissa alone (E4M3), else IEEE's.
    finite_top: bool = False
    ignored: int = 0

    @property
    def least(self) -> int:
        """The exponent of the least normal value."""
        return 1 - self.bias

    @property
    def infinity(self) -> int:
        """The code of Inf; past it lie NaNs."""
        if self.finite_top:
            return (1 << self.bits - self.ignored - 1) - 1
        exponents = self.bits - self.ignored - 1 - self.mantissa
        return (1 << exponents) - 1 << self.mantissa

    def parts(self, codes: torch.Tensor) -> Parts:
        """Signed significands, exponents as stored, and what is no number."""
        codes = (codes & (1 << self.bits) - 1) >> self.ignored
        top = self.bits - self.ignored - 1
        magnitude = codes & (1 << top) - 1
        stored = magnitude >> self.mantissa
        size = magnitude - (stored << self.mantissa)
        size += torch.where(stored > 0, 1 << self.mantissa, 0)
        negative = codes >> top & 1 == 1
        infinite = (magnitude == self.infinity) & (not self.finite_top)
        nan = magnitude > self.infinity - self.finite_top
        size = size.masked_fill(infinite | nan, 0)
        signed = torch.where(negative, -size, size)
        exponent = stored.clamp_min(1) - self.bias
        return Parts(signed, exponent, negative, infinite, nan)


@dataclass(frozen=True, slots=True)
class Parts:
    """Values significand 2^(exponent - mantissa), or Inf, or NaN."""

    significand: torch.Tensor
    exponent: torch.Tensor
    negative: torch.Tensor
    infinite: torch.Tensor
    nan: torch.Tensor


FLOATS = {
    "bf16": Float(16, 7, 127),
    "fp16": Float(16, 10, 15),
    "fp32": Float(32, 23, 127),
    "tf32": Float(32, 10, 127, ignored=13),
    "e4m3": Float(8, 3, 7, finite_top=True),
    "e5m2": Float(8, 2, 15),
}


@dataclass(frozen=True, slots=True)
class Model:
    """One instruction's arithmetic; see the module. `blocks` are sets of k."""

    operand: str
    result: str
    blocks: tuple[tuple[int, ...], ...]
    joined: bool
    fraction: int
    out_fraction: int
    #: How the sum is rounded: "zero" or "even" (to nearest).
    out_rounding: str
    #: Exponent below which E does not go.
    floor: int
    #: Whether a sum of nothing but -0 is -0.
    keeps_minus_zero: bool = False


def dot(
    model: Model, x: torch.Tensor, y: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """The result bits of instructions in a row: x, y i64[P, K] codes, c i64[P] bits."""
    if model.result == "int32":
        wide = (x << 56 >> 56) * (y << 56 >> 56)
        return wide.sum(1) + c & 0xFFFFFFFF
    depth = sum(map(len, model.blocks))
    for start in range(0, x.shape[1], depth):
        run = slice(start, start + depth)
        c = _instruction(model, x[:, run], y[:, run], c)
    return c


def _instruction(
    model: Model, x: torch.Tensor, y: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    total = c if model.joined else torch.zeros_like(c)
    for block in model.blocks:
        total = _block(model, x[:, list(block)], y[:, list(block)], total)
    if model.joined:
        return total
    return _bits(_value(total) + _value(c))


def _value(bits: torch.Tensor) -> torch.Tensor:
    return (bits - (bits >> 31 << 32)).to(torch.int32).view(torch.float32)


def _bits(values: torch.Tensor) -> torch.Tensor:
    bits = values.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    return bits.masked_fill(values.isnan(), 0x7FFFFFFF)


def _block(
    model: Model, x: torch.Tensor, y: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    operand, result = FLOATS[model.operand], FLOATS[model.result]
    a, b, start = operand.parts(x), operand.parts(y), result.parts(c)
    product = a.significand * b.significand
    exponent = a.exponent + b.exponent
    none = _NOTHING
    top = torch.maximum(
        exponent.masked_fill(product == 0, none).amax(1),
        start.exponent.masked_fill(start.significand == 0, none),
    ).clamp_min(model.floor)
    grain = top - model.fraction
    total = _cut(product, exponent - 2 * operand.mantissa - grain[:, None]).sum(1)
    total += _cut(start.significand, start.exponent - result.mantissa - grain)
    bits = _rounded(model, result, total, grain)
    negative = a.negative ^ b.negative
    if model.keeps_minus_zero:
        zero = (product == 0).all(1) & (start.significand == 0)
        minus = zero & negative.all(1) & start.negative
        bits = torch.where(minus, 1 << result.bits - 1, bits)
    return _special(result, bits, a, b, start)


def _cut(significand: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """significand 2^shift, cut toward zero."""
    size = significand.abs()
    size = torch.where(
        shift >= 0, size << shift.clamp(0, 40), size >> (-shift).clamp(0, 62)
    )
    return torch.where(significand < 0, -size, size)


def _rounded(
    model: Model, result: Float, total: torch.Tensor, grain: torch.Tensor
) -> torch.Tensor:
    """The bits of total 2^grain."""
    size = total.abs()
    leading = torch.frexp(size.to(torch.float64)).exponent - 1
    exponent = (leading + grain).clamp_min(result.least)
    drop = exponent - model.out_fraction - grain
    down = drop.clamp(0, 62)
    kept = torch.where(drop > 0, size >> down, size << (-drop).clamp(0, 40))
    if model.out_rounding == "even":
        rest, half = size - (size >> down << down), 1 << (down - 1).clamp_min(0)
        up = (rest > half) | ((rest == half) & (kept & 1 == 1))
        kept += up & (drop > 0)
    bits = (exponent + result.bias - 1 << result.mantissa) + (
        kept << result.mantissa - model.out_fraction
    )
    bits = bits.clamp_max(result.infinity).masked_fill(total == 0, 0)
    return torch.where(total < 0, bits | 1 << result.bits - 1, bits)


def _special(
    result: Float, bits: torch.Tensor, a: Parts, b: Parts, c: Parts
) -> torch.Tensor:
    """`bits`, or Inf or NaN where the terms say so."""
    zero_a = (a.significand == 0) & ~a.infinite & ~a.nan
    zero_b = (b.significand == 0) & ~b.infinite & ~b.nan
    nan = a.nan | b.nan | (a.infinite & zero_b) | (b.infinite & zero_a)
    infinite, negative = a.infinite | b.infinite, a.negative ^ b.negative
    minus = (infinite & negative).any(1) | (c.infinite & c.negative)
    plus = (infinite & ~negative).any(1) | (c.infinite & ~c.negative)
    wrong = nan.any(1) | c.nan | (minus & plus)
    sign = 1 << result.bits - 1
    bits = torch.where(plus, result.infinity, bits)
    bits = torch.where(minus, result.infinity | sign, bits)
    return bits.masked_fill(wrong, sign - 1)
