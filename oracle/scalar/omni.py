"""The product-key router and its one-neuron experts, by exhaustive search.

Source: flash-algo/omni-moe: expert i * n + j has the score X[i] + Y[j]; each expert is
one neuron (u, v) with output silu(<x, u>) v.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from oracle.scalar.activation import silu
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
