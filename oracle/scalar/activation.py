"""The gated activations, one element: enclosures of h(gate, up).

g' = min(g, L) and u' = clamp(u, -L, L) before ("before"), or act(g) capped at L from
above ("after"); then h = g' sigmoid(alpha g') (u' + beta) and its relatives.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from oracle.scalar.elementary import erf, pi, sigmoid, tanh
from oracle.scalar.interval import Interval, Number, current, square_root

GATED = ("swiglu", "geglu_tanh", "geglu_erf", "softcap")


def root_of_two_over_pi() -> Interval:
    """sqrt(2 / pi), of GELU's tanh form."""
    low, high = pi(2 * current().bits)
    return square_root(Interval.outward(2 / high, 2 / low))


def silu(x: Interval, alpha: Number = 1) -> Interval:
    """x sigmoid(alpha x)."""
    return x * sigmoid(x * alpha)


def gelu_tanh(x: Interval) -> Interval:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    cubic = Interval.outward(Fraction(44715, 10**6), Fraction(44715, 10**6))
    inner = root_of_two_over_pi() * (x + cubic * (x * x * x))
    return x * Fraction(1, 2) * (tanh(inner) + 1)


def gelu_erf(x: Interval) -> Interval:
    """x/2 (1 + erf(x / sqrt 2))."""
    return x * Fraction(1, 2) * (erf(x / square_root(Interval.of(2))) + 1)


def activate(
    gate: Interval | Number | None,
    up: Interval | Number,
    activation: Any,
    *,
    alpha: Number | None = None,
    beta: Number | None = None,
    limit: Number | None = None,
) -> Interval:
    """h(gate, up), with an expert's own alpha, beta and limit where given.

    `gate` is None for the ungated kinds; these and softcap take no limit. A limit of 0
    or infinity is none.
    """
    u, kind = Interval.of(up), activation.kind
    if kind not in GATED:
        return _ungated(kind, u)
    if gate is None:
        raise ValueError(f"scalar: {kind} needs a gate beside up={up}")
    g = Interval.of(gate)
    if kind == "softcap":
        capped = _cap(g, activation.gate_cap) * sigmoid(g)
        return capped * _cap(u, activation.up_cap)
    alpha = activation.alpha if alpha is None else alpha
    beta = activation.beta if beta is None else beta
    limit = activation.limit if limit is None else limit
    if not (limit and limit < math.inf):
        limit = None
    if limit is not None:
        u = u.clamp(-limit, limit)
        if activation.clamp == "before":
            g = g.clamp(high=limit)
    if kind == "swiglu":
        left = silu(g, alpha)
    else:
        left = gelu_tanh(g) if kind == "geglu_tanh" else gelu_erf(g)
    if limit is not None and activation.clamp == "after":
        left = left.clamp(high=limit)
    return left * (u + beta if beta else u)


def _cap(x: Interval, cap: float) -> Interval:
    """cap tanh(x / cap)."""
    return tanh(x / cap) * cap


def _ungated(kind: str, x: Interval) -> Interval:
    """The kinds of one half."""
    if kind == "silu":
        return silu(x)
    if kind == "gelu_erf":
        return gelu_erf(x)
    if kind == "relu2":
        positive = x.clamp(low=0)
        return positive * positive
    if kind == "identity":
        return x
    raise ValueError(f"scalar: activation {kind!r} is unknown")
