"""Score functions on taps, wide enough for every usual way to evaluate them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from oracle import bounds
from oracle.bounds.rounding import flushes
from oracle.formats import round_to
from oracle.numerics import Numerics
from oracle.trace import Tap

#: Past this l, log(1 + e^l) is l to float64's last bit.
_LINEAR = 60.0


@dataclass(frozen=True)
class Arithmetic:
    """The router's arithmetic under `numerics`.

    Functions are evaluated in fp32 (fp64 if `numerics.router` says so) and include what
    the usual formulations differ by; 16-bit routers round their results.
    """

    numerics: Numerics

    @property
    def type(self) -> str:
        """Type of sums and products."""
        return "fp32" if self.numerics.router == "none" else self.numerics.router

    @property
    def narrow(self) -> bool:
        """Whether scores are rounded to a 16-bit type."""
        return self.numerics.router in ("bf16", "fp16")

    @property
    def internal(self) -> str:
        """Type that functions are evaluated in."""
        return "fp64" if self.type == "fp64" else "fp32"

    @property
    def unit(self) -> float:
        """Relative error of one rounding inside a function."""
        return 2.0**-53 if self.internal == "fp64" else 2.0**-24

    @cached_property
    def unsettled(self) -> Arithmetic:
        """The same without results that every evaluation in its type has exactly."""
        functions = ("exp", "sigmoid", "tanh", "log", "sqrt", "divide")
        return Arithmetic(
            self.numerics.but(
                **{
                    name: replace(getattr(self.numerics, name), landmarks=False)
                    for name in functions
                }
            )
        )

    def step(self, tap: Tap) -> Tap:
        """The result of a function, which a 16-bit router may round."""
        tap = self._flushed(tap)
        return bounds.inexact(tap, self.type, self.numerics) if self.narrow else tap

    def point(self, tap: Tap) -> Tap:
        """The scores, which a 16-bit router does round."""
        return bounds.rounded(tap, self.type, self.numerics) if self.narrow else tap

    def constant(self, value: float, like: Tap) -> Tap:
        """A constant that kernels hold in fp32, or in a 16-bit router's own type."""
        tap = bounds.constant(value, like)
        if not self.narrow:
            return tap
        off = (round_to(tap.value, self.type) - tap.value).abs()
        return with_radius(tap, torch.maximum(radius(tap), off))

    def add(self, a: Tap, b: Tap) -> Tap:
        return bounds.add(a, b, self.type, self.numerics)

    def multiply(self, a: Tap, b: Tap) -> Tap:
        return bounds.multiply(a, b, self.type, self.numerics)

    def summed(self, tap: Tap, type: str) -> Tap:
        """A sum of keys: rounded to fp32 or fp64; to 16 bits, where a register may not.

        The declared rounding keeps ties of large biases exact. On its way to 16 bits a
        sum may be rounded to fp32 first.
        """
        if type in ("fp32", "fp64"):
            return bounds.rounded(tap, type, self.numerics)
        wide = bounds.inexact(tap, "fp32", self.numerics)
        return bounds.inexact(wide, type, self.numerics)

    def divide(self, a: Tap, b: Tap) -> Tap:
        """a / b, or a * (1 / b) with one more rounding; 0 / b is 0 without error."""
        result = bounds.divide(a, b, self.numerics)
        more = (self.unit * result.value.abs()).nan_to_num(nan=0.0, posinf=0.0)
        dyadic = torch.frexp(b.value).mantissa.abs() == 0.5
        more = more.masked_fill((radius(b) == 0) & dyadic, 0.0)
        zero = (a.value == 0) & (radius(a) == 0) & (result.value == 0)
        worst = (radius(result) + more).masked_fill(zero, 0.0)
        # 0 / 0 is possible, hence NaN.
        worst = worst.masked_fill(
            (b.value.abs() <= radius(b)) & (b.value != 0), torch.inf
        )
        return self.step(with_radius(result, worst))

    def score(self, logits: Tap, name: str) -> Tap:
        """`Routing.score` of the logits over the last axis, not yet rounded."""
        if name == "softmax":
            terms = self.exponentials(logits)
            return self.divide(terms, self.total(terms))
        if name == "sigmoid":
            result = bounds.sigmoid(self._base_two(logits), self.numerics)
            result = self._flushed(result)
        elif name == "sqrtsoftplus":
            root = self.step(self.softplus(logits))
            result = self._flushed(bounds.sqrt(root, self.numerics))
        else:
            return logits
        return _exact_at_infinity(result, logits)

    def exponentials(self, logits: Tap, *, in_logarithms: bool = False) -> Tap:
        """e^(l - max l) over the last axis.

        The argument may be formed as (l - m) log2 e or l log2 e - m log2 e, m log2 e
        rounded by itself or not: three roundings of values up to |l| + |m|.
        `in_logarithms`: it may also be l less the logarithm of the sum of all e^l.
        """
        value = logits.value
        top = value.amax(dim=-1, keepdim=True)
        spread = 3 * self.unit * (value.abs() + top.abs())
        if in_logarithms:
            own = self.numerics.log.relative + 2 * self.unit
            spread = spread + own * (math.log(value.shape[-1]) + top.abs())
        if logits.worst is not None:
            spread = spread + logits.worst
        finite = value.isfinite() & top.isfinite()
        argument = Tap(value - top, spread.masked_fill(~finite, 0.0))
        return _exact_at_infinity(self._exp(argument), logits)

    def total(self, terms: Tap) -> Tap:
        """The sum [T, 1] of exponentials over the last axis, in any order.

        Partial sums with maxima of their own are rescaled where they meet in a tree: a
        product with an exponential on every level, itself exact where all terms are
        exactly 0 or 1.
        """
        total = bounds.total(terms, -1, self.internal, self.numerics)
        levels = (terms.value.shape[-1] - 1).bit_length()
        rescaling = math.expm1(
            levels * math.log1p(self.numerics.exp.relative + self.unit)
        )
        worst = (total.value * (rescaling + 2.0**-50)).nan_to_num(0.0)
        widened = (worst + radius(total)) * (1 + rescaling)
        plain = ((terms.value == 0) | (terms.value == 1)) & (radius(terms) == 0)
        total = with_radius(
            total, torch.where(plain.all(dim=-1), radius(total), widened)
        )
        return total.map(lambda tensor: tensor[..., None])

    def softplus(self, logits: Tap) -> Tap:
        """log(1 + e^l) as log1p(e^l), or l + log1p(e^-l), or l where it is large."""
        value = logits.value
        power = self._exp(self._base_two(bounds.clamp_max(logits, _LINEAR)))
        low = self._flushed(bounds.log1p(power, self.numerics))
        linear = value > _LINEAR
        if not bool(linear.any()):
            return low
        off = (self.numerics.log.relative + 3 * self.unit) * value.abs()
        if logits.worst is not None:
            off = off + logits.worst
        worst = torch.where(linear, off, radius(low)).masked_fill(value.isinf(), 0.0)
        return Tap(torch.where(linear, value, low.value), worst)

    def log_sigmoid(self, logits: Tap) -> Tap:
        """-log(1 + e^-l)."""

        def negative(tap: Tap) -> Tap:
            return Tap(-tap.value, tap.worst)

        return negative(self.softplus(negative(logits)))

    def tanh(self, tap: Tap) -> Tap:
        return self.step(bounds.tanh(self._base_two(tap), self.numerics))

    def _exp(self, argument: Tap) -> Tap:
        return self._flushed(bounds.exp(argument, self.numerics))

    def _flushed(self, tap: Tap) -> Tap:
        """The tap after a function whose subnormal results may become zero."""
        if flushes(self.internal, self.numerics):
            return bounds.inexact(tap, self.internal, self.numerics)
        return tap

    def _base_two(self, tap: Tap) -> Tap:
        """The argument of an exponential that may be taken to base 2: two roundings."""
        spread = 2 * self.unit * tap.value.abs() + radius(tap)
        return with_radius(tap, spread.masked_fill(~tap.value.isfinite(), 0.0))


def with_radius(tap: Tap, worst: torch.Tensor) -> Tap:
    """The tap with another worst case and no statistical bound."""
    return Tap(tap.value, worst if bool(worst.any()) else None)


def radius(tap: Tap) -> torch.Tensor:
    """The worst case, zeros where the tap is exact."""
    return torch.zeros_like(tap.value) if tap.worst is None else tap.worst


def _exact_at_infinity(result: Tap, logits: Tap) -> Tap:
    """Scores of infinite logits are their limits, whatever the formula."""
    if result.worst is None:
        return result
    infinite = logits.value.isinf()
    return with_radius(result, result.worst.masked_fill(infinite, 0.0))
