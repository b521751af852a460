"""How far one dot product may stray, unit by unit: scalars, no tensors.

Write p_k for the exact products, S = sum |p_k|, v = sum p_k. A partial sum over any
subset is at most M = max(sum of positive p, sum of negative p) = (S + |v|) / 2,
whatever the order; every bound here is a factor c with |got - v| <= c M.

nearest, unit roundoff u: a tree of additions over m leaves errs by at most
    M ((1 + u)^(m - 1) - 1): by induction, since for subtrees a + b = m
    e = (e_a + e_b)(1 + u) + u M and (x - 1) + (y - 1) <= x y - 1 for x, y >= 1.
truncate, n terms a step, F and Fout fraction bits: all but the largest of a step's
    terms are cut by less than 2^(E - F) <= 2^-F (M + e), the sum then by 2^-Fout of
    itself: M + e grows by (1 + n 2^-F)(1 + 2^-Fout) a step. A subnormal operand counts
    as its type's least normal value in E, as does every element of a scaled FP4 block;
    products taken that large add at most n 2^-F of their sum, each to its own step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from oracle.formats import get
from oracle.numerics import Accumulator, Numerics

Of = Literal["value", "partial", "total"]
_WIDER: tuple[Of, ...] = ("value", "partial", "total")

#: Probability that any element of one GEMM exceeds its statistical bound, under its
#: assumptions.
FAMILY = 2.0**-20

FP32_ROUNDOFF = 2.0**-24


@dataclass(frozen=True, slots=True)
class DotError:
    """Factors of what a dot product may be off by, and what underflow adds.

    worst always holds. likely holds for all elements of the tap but with FAMILY; None
    where a unit truncates: its errors all go one way and add up to half of worst.
    """

    worst: float
    likely: float | None
    underflow: float
    #: What the factors are of: M; S where chains of their own each reach their own M;
    #: the value where the sum itself is exact.
    of: Of
    #: Of the largest products as the unit aligns them, where operands are subnormal.
    alignment: float


@dataclass(frozen=True, slots=True)
class _Roundings:
    """`count` roundings of partial sums, each by at most `most` of M."""

    count: float
    most: float


@lru_cache(maxsize=4096)
def dot_error(
    numerics: Numerics,
    depth: int,
    elements: int,
    *,
    blocks: int = 1,
    bias: bool = False,
) -> DotError:
    """The largest error over the units that `numerics` admits, for K = `depth`.

    `elements` of the tap share FAMILY; `blocks` runs of K carry scales that are applied
    to their partial sums: two roundings each.
    """
    worst, likely = 0.0, 0.0
    for unit in numerics.units:
        roundings = _roundings(unit, numerics, depth, blocks, bias)
        factor = math.expm1(sum(r.count * math.log1p(r.most) for r in roundings))
        # Hoeffding: errors |e_j| <= a_j, independent, of mean zero, exceed
        # lambda sqrt(sum a_j^2) with probability 2 exp(-lambda^2 / 2). Every rounding
        # acts on a partial sum of at most M (1 + factor).
        spread = math.sqrt(2.0 * math.log(2.0 * max(elements, 1) / FAMILY))
        square = sum(r.count * r.most**2 for r in roundings)
        worst = max(worst, factor)
        likely = max(likely, spread * math.sqrt(square) * (1.0 + factor))
    biased = any(unit.biased for unit in numerics.units)
    return DotError(
        worst,
        None if biased or likely >= worst else likely,
        max(_underflow(unit, numerics, depth) for unit in numerics.units),
        max((_of(unit, numerics, blocks) for unit in numerics.units), key=_WIDER.index),
        max(unit.terms * 2.0**-unit.fraction * unit.biased for unit in numerics.units)
        * (1.0 + worst),
    )


def _of(unit: Accumulator, numerics: Numerics, blocks: int) -> Of:
    if unit.promote:
        return "total"
    alone = unit.rounding == "exact" and blocks == numerics.split_k == 1
    return "value" if alone else "partial"


def _roundings(
    unit: Accumulator, numerics: Numerics, depth: int, blocks: int, bias: bool
) -> list[_Roundings]:
    """All roundings from the exact products to the result."""
    splits = numerics.split_k
    roundings = _chain(unit, depth, splits, blocks)
    outside = unit.roundoff if unit.rounding == "nearest" else FP32_ROUNDOFF
    # Two scalings of the sum, or of every block's (together 2 u S <= 4 u M, in squares
    # 8 u^2 M^2); then the blocks and the bias are added up.
    scalings = 2 if blocks == 1 else 8 + blocks
    roundings.append(_Roundings(scalings + bias, outside))
    if splits > 1:
        partial = 2.0 ** -(get(numerics.partial).mantissa + 1)
        roundings.append(_Roundings(2 * splits - 1, partial))
    return roundings


def _chain(unit: Accumulator, depth: int, splits: int, blocks: int) -> list[_Roundings]:
    """Roundings between the exact products and the sum of all K of them."""
    if unit.rounding == "exact":
        # The integer sum becomes fp32; or every block's, u S <= 2 u M together, in
        # squares 4 u^2 M^2.
        return [_Roundings(1 if blocks == splits == 1 else 4, FP32_ROUNDOFF)]
    if unit.rounding == "nearest":
        # K - 1 sums; K products, whose errors add up to u S <= 2 u M in the worst case
        # and whose squares to u^2 S^2 <= 4 u^2 M^2.
        return [_Roundings(depth + 3, unit.roundoff)]
    length = unit.terms * unit.group
    steps = blocks * math.ceil(depth / blocks / length) + splits - 1
    roundings = []
    if unit.promote:
        promotions = -(-depth // unit.promote) + splits - 1
        roundings.append(_Roundings(promotions, FP32_ROUNDOFF))
        steps = min(steps, -(-unit.promote // length))
    # One more cut term where the running sum starts from a bias of 24 bits.
    roundings.append(_Roundings(steps * unit.terms + 1, 2.0**-unit.fraction))
    roundings.append(_Roundings(steps, unit.roundoff))
    return roundings


def _underflow(unit: Accumulator, numerics: Numerics, depth: int) -> float:
    """What K products and sums lose below the least exponents."""
    each = 2.0 ** (unit.minimum_exponent - unit.fraction)
    if unit.biased:
        # fp32's own subnormals end above the alignment's.
        each = 2.0 * each + 2.0**-149
    if numerics.subnormals == "flush":
        each = max(each, 2.0**-126)
    lost = 2.0 * (depth + 1) * each
    if numerics.split_k > 1:
        lost += 2.0 * numerics.split_k * get(numerics.partial).quantum
    return lost
