"""Where a dot product is exact in any order, on every admitted unit.

Let q be a power of two that divides every product (and the bias), M the largest partial
sum in any order. Every partial sum is a multiple of q of at most M, so it is exact

* nearest: if it has at most p = Fout + 1 significand bits: M <= 2^p q;
* truncate: if no cut reaches q. A step's alignment exponent E has 2^E <= M, hence
  M < 2^(F + 1) q gives E - F <= log2 q (E and log2 q are integers): no term is cut; and
  M < 2^(Fout + 1) q likewise keeps the result.

Split-K partials must fit their type alike. Integer units sum exactly; their result
becomes fp32. q of a row of x times q of a row of w divides all their products, and
scales applied to partial sums only coarsen them: code sums have fewer quanta.
"""

from __future__ import annotations

import torch

from oracle.bounds.quanta import quantum
from oracle.formats import get
from oracle.numerics import Accumulator, Numerics
from oracle.trace import Tap

#: Columns of w that are looked at before all of them are.
_SAMPLE = 8


def exact_sums(
    x: Tap,
    w: Tap,
    reach: torch.Tensor,
    numerics: Numerics,
    bias: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Whether each dot product is exact: bool[R, N], or None where none is.

    Shapes: x [R, K]; w [N, K]; reach f64[R, N], at least M; bias f64[N].
    """
    if not reach.numel():
        return None
    certain_x, certain_w = _certain(x), _certain(w)
    quanta, least = quanta_limit(numerics)
    x_quantum = quantum(x.value).masked_fill_(~certain_x, 0.0)
    if numerics.subnormals == "flush":
        # A subnormal operand may be read as zero.
        x_quantum = x_quantum.masked_fill_(x_quantum < 2.0**-126, 0.0)
    coarsest = quantum(w.value[:, :_SAMPLE]).masked_fill_(~certain_w, 0.0)
    if not bool((reach < quanta * (x_quantum[:, None] * coarsest)).any()):
        return None
    w_quantum = quantum(w.value).masked_fill_(~certain_w, 0.0)
    if numerics.subnormals == "flush":
        w_quantum = w_quantum.masked_fill_(w_quantum < 2.0**-126, 0.0)
    finest = x_quantum[:, None] * w_quantum
    if bias is not None:
        finest = torch.minimum(finest, quantum(bias[:, None]))
    exact = (reach < quanta * finest) & (finest >= least)
    exact &= reach < least_maximum(numerics)
    return exact if bool(exact.any()) else None


def quanta_limit(numerics: Numerics) -> tuple[float, float]:
    """Quanta below which every sum is exact, and the least quantum there may be.

    >>> quanta_limit(Numerics())[0] == 2.0**24
    True
    >>> quanta_limit(Numerics(accumulate="qgmma_hopper"))[0] == 2.0**14
    True
    """
    bits = min(_bits(unit) for unit in numerics.units)
    least = max(_least(unit) for unit in numerics.units)
    if numerics.split_k > 1:
        partial = get(numerics.partial)
        bits = min(bits, partial.mantissa + 1)
        least = max(least, partial.quantum)
    if numerics.subnormals == "flush":
        least = max(least, 2.0**-126)
    return 2.0**bits, least


def least_maximum(numerics: Numerics) -> float:
    """The largest magnitude that no admitted unit and no partial overflows at."""
    largest = [
        get(unit.name if unit.name in ("fp64", "fp16", "bf16") else "fp32").maximum
        for unit in numerics.units
    ]
    if numerics.split_k > 1:
        largest.append(get(numerics.partial).maximum)
    return min(largest)


def _bits(unit: Accumulator) -> int:
    if unit.rounding == "exact":
        return 24
    if unit.rounding == "nearest":
        return unit.out_fraction + 1
    return min(unit.fraction, unit.out_fraction) + 1


def _least(unit: Accumulator) -> float:
    if unit.rounding == "exact":
        return 2.0**-149
    return max(2.0 ** (unit.minimum_exponent - unit.fraction), 2.0**-149 * unit.biased)


def _certain(tap: Tap) -> torch.Tensor:
    """Rows without any radius: bool[R]."""
    if tap.worst is None:
        return tap.value.new_ones(tap.value.shape[0], dtype=torch.bool)
    return ~tap.worst.expand_as(tap.value).ne(0.0).any(-1)
