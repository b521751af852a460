"""Bit-accurate emulation of the matrix units' accumulators, in the order of K.

One step of a truncating unit adds n products a_k b_k and the running sum c:

    E   = largest exponent among the nonzero products (exponent of a_k plus exponent of
          b_k, each as stored: a subnormal's is its format's least) and c, at least Emin
    sum = exact sum of all terms, each cut toward zero to a multiple of 2^(E - F)
    c'  = sum cut toward zero to Fout fraction bits of its own exponent, -126 or more

(Fasi et al. 2021, section 4; Khattak and Mikaitis 2026; MMA-Sim 2511.10909, "fused dot
add".) FP4 units sum groups of 16 products exactly and align them by the exponents of
their scales. Everything here is exact in float64: a term has at most 2^(F + 3) units,
F <= 35.
"""

from __future__ import annotations

import torch

from oracle.formats import get, round_to
from oracle.numerics import Accumulator

#: Stands for the exponent of zero: below all others, also after one addition.
_NOTHING = -(1 << 20)


def accumulate(
    x: torch.Tensor,
    w: torch.Tensor,
    unit: Accumulator,
    *,
    formats: tuple[str, str] = ("bf16", "bf16"),
    scales: tuple[torch.Tensor, torch.Tensor] | None = None,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """x w^T as `unit` accumulates it, from K = 0 upwards, in one chain.

    Shapes: x f64[R, K] and w f64[N, K] of values of `formats`; scales f64[R, K / block]
    and f64[N, K / block], for units that apply them inside; start f64[R, N] or None for
    zero; the result f64[R, N] of values of the accumulator's type.

    ``nearest`` units fuse each product into the sum and round once; ``exact`` ones
    round the whole sum to fp32. A short last step is padded with zeros. With `promote`,
    the chain restarts every so many products and is added to an fp32 sum, to nearest.
    """
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1]:
        raise ValueError(
            f"accumulate: x {tuple(x.shape)} and w {tuple(w.shape)} must be [R, K] and "
            "[N, K]"
        )
    total = x.new_zeros(x.shape[0], w.shape[0]) if start is None else start.clone()
    if unit.rounding == "exact":
        return round_to(x @ w.T + total, "fp32")
    if unit.rounding == "nearest":
        return _fused(x, w, unit, total)
    operands = _Operands(x, w, unit, formats, scales)
    if not unit.promote:
        return operands.chain(0, x.shape[1], total)
    for first in range(0, x.shape[1], unit.promote):
        part = operands.chain(first, first + unit.promote, torch.zeros_like(total))
        total = _nearest_sum(total, part, "fp32")
    return total


def _fused(
    x: torch.Tensor, w: torch.Tensor, unit: Accumulator, total: torch.Tensor
) -> torch.Tensor:
    type = unit.name if unit.name in ("fp64", "fp16", "bf16") else "fp32"
    for k in range(x.shape[1]):
        total = _nearest_sum(total, x[:, k, None] * w[:, k], type)
    return total


def _nearest_sum(a: torch.Tensor, b: torch.Tensor, type: str) -> torch.Tensor:
    """a + b rounded once: the float64 sum is first rounded to odd, which keeps ties."""
    if type == "fp64":
        return a + b
    sums = a + b
    back = sums - a
    lost = (a - (sums - back)) + (b - back)
    bits = sums.view(torch.int64)
    # The neighbour toward what was lost, if the last bit is even.
    toward = torch.where((lost > 0) == (sums > 0), bits + 1, bits - 1)
    odd = torch.where((lost != 0) & (bits & 1 == 0), toward, bits)
    return round_to(odd.view(torch.float64), type)


class _Operands:
    """Operands with their exponents, cut into steps."""

    def __init__(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        unit: Accumulator,
        formats: tuple[str, str],
        scales: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        self.unit = unit
        self.x, self.w = x, w
        self.x_exponent, self.w_exponent = (
            _exponent(values, get(name).minimum_exponent)
            for values, name in zip((x, w), formats, strict=True)
        )
        if scales is not None:
            block = x.shape[1] // scales[0].shape[1]
            x_scale, w_scale = (s.repeat_interleave(block, dim=1) for s in scales)
            self.x, self.w = x * x_scale, w * w_scale
            own = 0 if unit.group > 1 else 1
            self.x_exponent = self.x_exponent * own + _exponent(x_scale)
            self.w_exponent = self.w_exponent * own + _exponent(w_scale)

    def chain(self, first: int, stop: int, total: torch.Tensor) -> torch.Tensor:
        """The running sum `total` after the products from `first` up to `stop`."""
        length = self.unit.terms * self.unit.group
        for k in range(first, min(stop, self.x.shape[1]), length):
            total = self._step(slice(k, min(k + length, stop)), total)
        return total

    def _step(self, run: slice, total: torch.Tensor) -> torch.Tensor:
        unit = self.unit
        terms = self.x[:, None, run] * self.w[None, :, run]
        exponents = self.x_exponent[:, None, run] + self.w_exponent[None, :, run]
        if unit.group > 1:
            terms = terms.reshape(*terms.shape[:-1], -1, unit.group).sum(-1)
            exponents = exponents[..., :: unit.group]
        top = torch.maximum(exponents.amax(-1), _exponent(total, -126))
        top = top.clamp_min(unit.minimum_exponent)
        scale = _power(unit.fraction - top)
        cut = (terms * scale[..., None]).trunc_().sum(-1) + (total * scale).trunc_()
        return _cut(cut / scale, unit.out_fraction)


def _cut(values: torch.Tensor, fraction: int) -> torch.Tensor:
    """Values cut toward zero to `fraction` bits of their exponent; zero is positive."""
    scale = _power(fraction - _exponent(values).clamp_min(-126))
    return (values * scale).trunc_() / scale + 0.0


def _power(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent from its bits."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def _exponent(values: torch.Tensor, least: int = -1074) -> torch.Tensor:
    """floor(log2 |v|), at least `least`; far below all others for zero."""
    exponent = torch.frexp(values).exponent - 1
    return exponent.clamp_(min=least).masked_fill_(values == 0, _NOTHING)
