"""The product-key router and its one-neuron experts, by exhaustive search.

Source: flash-algo/omni-moe: expert i * n + j has the score X[i] + Y[j]; each expert is
one neuron (u, v) with output silu(<x, u>) v.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from oracle.scalar.activation import silu
from oracle.scalar.elementary import sigmoid
from oracle.scalar.elements import as_value, round_to
from oracle.scalar.interval import Interval, Number, dot, exact, total


def route(
    x: Sequence[Number], y: Sequence[Number], k: int, sum_type: str | None = None
) -> tuple[list[Fraction], list[int]]:
    """The k best of all n^2 sums, descending, equal ones by lowest flat index.

    With a `sum_type` ("fp32", "bf16" ...) every sum is rounded to it before it is
    compared, which makes ties.

    >>> route([0, 1], [0, 1], 3)[1]
    [3, 1, 2]
    """
    n = len(x)
    if len(y) != n:
        raise ValueError(f"scalar: {n} row and {len(y)} column logits; give n of each")
    if not 0 <= k <= n * n:
        raise ValueError(f"scalar: k={k} of {n * n} experts; give 0 <= k <= n^2")
    sums = [exact(a) + exact(b) for a in x for b in y]
    if sum_type is not None:
        sums = [Fraction(round_to(as_value(s), sum_type)) for s in sums]
    ranked = sorted(range(n * n), key=lambda flat: (-sums[flat], flat))[:k]
    return [sums[flat] for flat in ranked], ranked


def route_backward(
    d_scores: Sequence[Number], ids: Sequence[int], n: int
) -> tuple[list[Fraction], list[Fraction]]:
    """dX[i], dY[j]: the gradients of the chosen scores that X[i] or Y[j] is part of."""
    d_x, d_y = [Fraction(0)] * n, [Fraction(0)] * n
    for gradient, flat in zip(d_scores, ids, strict=True):
        if flat < 0:
            continue
        d_x[flat // n] += exact(gradient)
        d_y[flat % n] += exact(gradient)
    return d_x, d_y


def experts(
    x: Sequence[Number],
    ids: Sequence[int],
    weights: Sequence[Number | Interval],
    up: Sequence[Sequence[Number]],
    down: Sequence[Sequence[Number]],
) -> list[Interval]:
    """y = sum over slots of w silu(<x, up[e]>) down[e]; an id of -1 adds nothing."""
    chosen = [(w, e) for w, e in zip(weights, ids, strict=True) if e >= 0]
    scaled = [(silu(dot(x, up[e])) * w, e) for w, e in chosen]
    return [total(a * down[e][c] for a, e in scaled) for c in range(len(x))]


@dataclass(frozen=True, slots=True)
class Gradients:
    """Of one token: x [H], weights [k], and of the experts' rows, summed over slots."""

    x: list[Interval]
    weights: list[Interval]
    up: list[list[Interval]]
    down: list[list[Interval]]


def experts_backward(
    d_out: Sequence[Number],
    x: Sequence[Number],
    ids: Sequence[int],
    weights: Sequence[Number],
    up: Sequence[Sequence[Number]],
    down: Sequence[Sequence[Number]],
) -> Gradients:
    """Gradients of `experts`, written out for every slot.

    With s = <x, u>, p = <d_out, v> and g = sigmoid(s): dw = p silu(s), dv = silu(s) w
    d_out, ds = p w (g + s g (1 - g)), dx = ds u, du = ds x.
    """
    zero = Interval.of(0)
    d_weights, slots = [], []
    for w, e in zip(weights, ids, strict=True):
        if e < 0:
            d_weights.append(zero)
            continue
        s, p = dot(x, up[e]), dot(d_out, down[e])
        g = sigmoid(s)
        d_weights.append(p * (s * g))
        slots.append((e, p * w * (g + s * g * (1 - g)), s * g * w))
    columns = range(len(x))
    return Gradients(
        [total(ds * up[e][c] for e, ds, _ in slots) for c in columns],
        d_weights,
        [
            [total(ds * x[c] for own, ds, _ in slots if own == e) for c in columns]
            for e in range(len(up))
        ],
        [
            [total(a * d_out[c] for own, _, a in slots if own == e) for c in columns]
            for e in range(len(up))
        ],
    )
