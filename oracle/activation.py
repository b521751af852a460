"""The gated and plain activations between the two GEMMs, with their bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from oracle import bounds
from oracle.bounds.radius import carried
from oracle.numerics import Numerics
from oracle.spec import Activation
from oracle.trace import Tap

#: What float64 itself adds to a tail: erfc(x) takes up 2 x^2 times the relative error
#: of its argument, x stays below 27.3 until it underflows; the rest is its own ulps.
_OWN = 2.0**-40
#: A per-row override of a constant: f[R], or None for the activation's own.
PerRow = torch.Tensor | None


def activate(
    gate_up: Tap,
    activation: Activation,
    numerics: Numerics,
    *,
    alpha: PerRow = None,
    beta: PerRow = None,
    limit: PerRow = None,
) -> Tap:
    """The activated intermediate, before any routing weight and before its rounding.

    Shapes: gate_up [R, 2I], gate columns first ([R, I] when ungated); alpha, beta,
    limit f[R]; the result [R, I].

    swiglu: g' sigmoid(alpha g') (u' + beta), g' = min(g, L), u' = clamp(u, -L, L)
    (gpt-oss `swiglu`, DeepSeek-V4 `Expert`); with ``clamp="after"`` min(silu(g), L)
    (u' + beta) (Step-3.5). geglu_tanh and geglu_erf put GELU in silu's place (Gemma-4).
    softcap: c1 tanh(g / c1) sigmoid(g) c2 tanh(u / c2) (Inkling-2, Kimi-K3). silu,
    gelu_erf, relu2 = max(u, 0)^2 (Nemotron) and identity are ungated and take no limit.

    Every operation may be rounded to `numerics.activation` or fused with the next; so
    may gate and up be where they come in another type.
    NaN propagates; a limit of None or 0 is off; sigmoid(-inf) * -inf is NaN.

    Raises ValueError if the columns are odd though the activation is gated, or a
    per-row override has another length than R.
    """
    rows, columns = gate_up.value.shape
    for name, override in (("alpha", alpha), ("beta", beta), ("limit", limit)):
        if override is not None and tuple(override.shape) != (rows,):
            raise ValueError(
                f"activate: {name} has shape {tuple(override.shape)}; give one value "
                f"for each of the {rows} rows"
            )
    if activation.gated and columns % 2:
        raise ValueError(
            f"activate: {columns} columns cannot hold a gate and an up half; give 2I"
        )

    def run(part: slice) -> Tap:
        overrides = [None if o is None else o[part] for o in (alpha, beta, limit)]
        rows = _operands(gate_up.map(lambda tensor: tensor[part]), numerics)
        return _activated(rows, activation, _Arithmetic(numerics), *overrides)

    return bounds.by_rows(run, rows, columns)


def _operands(gate_up: Tap, numerics: Numerics) -> Tap:
    """gate and up as the activation's arithmetic takes them, rounded at most once.

    What passed GEMM1's rounding point in the same type is in it already.
    """
    if gate_up.worst is not None and numerics.gate_up == numerics.activation:
        return gate_up
    return bounds.inexact(gate_up, numerics.activation, numerics)


def _activated(
    gate_up: Tap,
    activation: Activation,
    step: _Arithmetic,
    alpha: PerRow,
    beta: PerRow,
    limit: PerRow,
) -> Tap:
    """`activate` for rows few enough to stay in the cache."""
    if not activation.gated:
        return _plain(gate_up, activation, step)
    gate, up = _split(gate_up)
    top = step.column(limit, activation.limit or 0.0, gate).value
    top = torch.where(top > 0, top, torch.full_like(top, math.inf))
    if activation.kind == "softcap":
        capped = step.capped(gate, activation.gate_cap)
        return step.times(
            step.times(capped, step.sigmoid(gate)), step.capped(up, activation.up_cap)
        )
    up = bounds.clamp(up, -top, top)
    up = step.plus(up, step.column(beta, activation.beta, up))
    if activation.clamp == "before":
        gate = bounds.clamp_max(gate, top)
    curve: Callable[[Tap], Tap] = {
        "swiglu": lambda g: step.swish(g, step.column(alpha, activation.alpha, g)),
        "geglu_tanh": step.gelu_tanh,
        "geglu_erf": step.gelu_erf,
    }[activation.kind]
    curved = curve(gate)
    if activation.clamp == "after":
        curved = bounds.clamp_max(curved, top)
    return step.times(curved, up)


class _Arithmetic:
    """Operations that each round at most once to the type of the activation."""

    def __init__(self, numerics: Numerics) -> None:
        self.numerics = numerics
        self.type = numerics.activation

    def tap(self, operand: Tap | float, like: Tap) -> Tap:
        if isinstance(operand, Tap):
            return operand
        return bounds.constant(operand, like, self.type)

    def column(self, override: PerRow, default: float, like: Tap) -> Tap:
        """The override as [R, 1], in the type or wider, or the default for all rows."""
        if override is None:
            return self.tap(default, like)
        own = bounds.exactly(override.to(like.value.device, torch.float64)[:, None])
        return bounds.inexact(own, self.type, self.numerics)

    def plus(self, a: Tap, b: Tap | float) -> Tap:
        return bounds.add(a, self.tap(b, a), self.type, self.numerics)

    def times(self, a: Tap, b: Tap | float) -> Tap:
        return bounds.multiply(a, self.tap(b, a), self.type, self.numerics)

    def sigmoid(self, a: Tap) -> Tap:
        value = bounds.sigmoid(a, self.numerics)
        return bounds.inexact(value, self.type, self.numerics)

    def tanh(self, a: Tap) -> Tap:
        value = bounds.tanh(a, self.numerics)
        return bounds.inexact(value, self.type, self.numerics)

    def swish(self, g: Tap, alpha: Tap | float) -> Tap:
        return self.times(g, self.sigmoid(self.times(g, alpha)))

    def capped(self, a: Tap, cap: float) -> Tap:
        inner = bounds.divide(a, self.tap(cap, a), self.numerics)
        inner = bounds.inexact(inner, self.type, self.numerics)
        return self.times(self.tanh(inner), cap)

    def gelu_tanh(self, g: Tap) -> Tap:
        # Unfused or not: the order of these products, and how many, is no convention.
        free = _Arithmetic(self.numerics.but(fused=True))
        cube = free.times(free.times(g, g), free.times(g, 0.044715))
        inner = free.times(free.plus(g, cube), math.sqrt(2.0 / math.pi))
        tail = 2.0 * torch.sigmoid(2.0 * _highest(inner))
        tail = tail * (1.0 + 4.0 * self.numerics.sigmoid.relative + _OWN)
        return self.times(self.times(g, 0.5), self.from_one(self.tanh(inner), tail))

    def gelu_erf(self, g: Tap) -> Tap:
        inner = self.times(g, math.sqrt(0.5))
        curve = bounds.erf(inner, self.numerics)
        curve = bounds.inexact(curve, self.type, self.numerics)
        tail = torch.erfc(-_highest(inner))
        tail = tail * (1.0 + 4.0 * self.numerics.erf.relative + _OWN)
        return self.times(self.times(g, 0.5), self.from_one(curve, tail))

    def from_one(self, curve: Tap, tail: torch.Tensor) -> Tap:
        """1 + curve, which cancels near curve = -1, or the same without cancelling.

        Implementations with erfc or 2 sigmoid return up to the small `tail` where
        1 + curve has a few ulps of 1 left, or nothing.
        """
        total = self.plus(curve, 1.0)
        away = (tail - total.value).abs().nan_to_num(nan=0.0)
        away = away.masked_fill(curve.value >= 0, 0.0)
        if not bool(away.any()):
            return total

        def rule(radius: torch.Tensor | None) -> torch.Tensor:
            return away if radius is None else torch.maximum(radius, away)

        return carried(total.value, (total,), rule)


def _plain(up: Tap, activation: Activation, step: _Arithmetic) -> Tap:
    if activation.kind == "identity":
        return up
    if activation.kind == "relu2":
        positive = bounds.clamp_min(up, 0.0)
        return step.times(positive, positive)
    if activation.kind == "gelu_erf":
        return step.gelu_erf(up)
    return step.swish(up, 1.0)


def _highest(tap: Tap) -> torch.Tensor:
    """The upper end of every element."""
    return tap.value if tap.worst is None else tap.value + tap.worst


def _split(gate_up: Tap) -> tuple[Tap, Tap]:
    half = gate_up.value.shape[-1] // 2
    return gate_up.map(lambda t: t[..., :half]), gate_up.map(lambda t: t[..., half:])
