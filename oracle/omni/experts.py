"""One-neuron experts: each is a row of U and a row of V, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

from oracle import bounds
from oracle.activation import activate
from oracle.formats import round_to
from oracle.numerics import Numerics
from oracle.omni.checks import check_experts, plain_type
from oracle.spec import Activation
from oracle.trace import Tap

#: Elements held at once; larger problems go through in runs of tokens or columns.
_AT_ONCE = 1 << 21
#: Tokens whose dot products are taken together, all against all, to keep their own.
_TOGETHER = 8
_REFERENCE = Numerics()


class OmniGradients(NamedTuple):
    """Gradients of `omni_experts`: x [T, H], weights [T, k], up and down [E, H]."""

    x: Tap
    weights: Tap
    up: Tap
    down: Tap


def omni_experts(
    x: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    numerics: Numerics = _REFERENCE,
    *,
    product: str = "none",
) -> Tap:
    """y = sum over the slots of a V[id], a = silu(s) w, s = <x, U[id]>.

    Shapes: x: f[T, H], ids: i[T, k], weights: f[T, k], up = U, down = V: f[E, H] -> y:
    [T, H]

    Rounding points: s to `numerics.gate_up`, a to `intermediate`, a V to `weighted`,
    the sum over slots in `combine`, y to `output` or else the type of x; silu and its
    product with w in `activation`. s is a dot product on the declared unit; `product`
    names the type that every x u is rounded to where a kernel multiplies and adds apart
    (the sum is then in fp32). A slot with id -1 adds nothing, an id that stands twice
    adds twice (omni-moe, `OmniMoE`).

    Raises TypeError or ValueError if types, shapes or ids do not fit.
    """
    owner = "omni_experts"
    check_experts(owner, x, ids, up, down, weights=weights)
    output = numerics.output or plain_type(owner, x)
    s = _projected(x, up, ids, numerics, product)
    a = bounds.multiply(
        _silu(s, numerics), _exact(weights), numerics.activation, numerics
    )
    a = _without(bounds.rounded(a, numerics.intermediate, numerics), ids < 0)
    y = _mixed(a, down, ids, numerics)
    return bounds.rounded(y, output, numerics)


def omni_experts_backward(
    d_out: torch.Tensor,
    x: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    numerics: Numerics = _REFERENCE,
    *,
    product: str = "none",
) -> OmniGradients:
    """Gradients of `omni_experts` for the gradient d_out: f[T, H] of its result.

    With g = <d_out, V[id]>, a = silu(s) w and silu'(s) = sig + s sig (1 - sig):

        dw = g silu(s)      ds = g w silu'(s)      dx = sum over slots of ds U[id]
        dU[e] = sum of ds x over the slots with id e        dV[e] = sum of a d_out

    Sums are in any order, in the type `numerics.combine`; each gradient is rounded to
    `numerics.output` or else the type of what it is the gradient of. Slots with id -1
    have no gradient.

    Raises as `omni_experts` does.
    """
    owner = "omni_experts_backward"
    check_experts(owner, x, ids, up, down, weights=weights, d_out=d_out)
    empty = ids < 0

    def product_of(a: Tap, b: Tap) -> Tap:
        return bounds.multiply(a, b, numerics.activation, numerics)

    s = _projected(x, up, ids, numerics, product)
    g = _projected(d_out, down, ids, numerics, product)
    silu, own = _silu(s, numerics), _exact(weights)
    d_weights = _without(product_of(g, silu), empty)
    a = _without(product_of(silu, own), empty)
    d_s = _without(product_of(product_of(g, own), _slope(s, numerics)), empty)

    def finished(tap: Tap, like: torch.Tensor) -> Tap:
        return bounds.rounded(tap, numerics.output or plain_type(owner, like), numerics)

    return OmniGradients(
        finished(_mixed(d_s, up, ids, numerics), x),
        finished(d_weights, weights),
        finished(_collected(d_s, x, ids, len(up), numerics), up),
        finished(_collected(a, d_out, ids, len(down), numerics), down),
    )


def _projected(
    x: torch.Tensor,
    experts: torch.Tensor,
    ids: torch.Tensor,
    numerics: Numerics,
    product: str,
) -> Tap:
    """<x[t], experts[ids[t, j]]>, [T, k], rounded to `numerics.gate_up`."""
    tokens, slots = ids.shape
    width = x.shape[1]
    step = _TOGETHER
    if product != "none":
        step = max(1, _AT_ONCE // max(1, slots * width))
    parts = [_exact(x.new_zeros((0, slots)))]
    for start in range(0, tokens, step):
        own = x[start : start + step].to(torch.float64)
        index = ids[start : start + step].clamp_min(0).to(torch.int64)
        rows = experts[index].to(torch.float64)
        if product != "none":
            terms = round_to(own[:, None, :] * rows, product)
            parts.append(bounds.total(Tap(terms), 2, "fp32", numerics))
            continue
        every = bounds.matmul(Tap(own), Tap(rows.flatten(0, 1)), numerics)
        parts.append(every.map(_own_block))
    return bounds.rounded(bounds.concatenate(*parts), numerics.gate_up, numerics)


def _own_block(products: torch.Tensor) -> torch.Tensor:
    """Of [tokens, tokens * k] the products [tokens, k] of each token's own experts."""
    tokens = len(products)
    each = torch.arange(tokens, device=products.device)
    return products.view(tokens, tokens, -1)[each, each]


def _silu(s: Tap, numerics: Numerics) -> Tap:
    return activate(s, Activation("silu"), numerics)


def _slope(s: Tap, numerics: Numerics) -> Tap:
    """silu'(s) = sig + s sig (1 - sig)."""
    type = numerics.activation
    sig = bounds.inexact(bounds.sigmoid(s, numerics), type, numerics)
    one = bounds.constant(1.0, sig)
    rest = bounds.add(one, Tap(-sig.value, sig.worst, sig.likely), type, numerics)
    curved = bounds.multiply(s, sig, type, numerics)
    return bounds.add(
        sig, bounds.multiply(curved, rest, type, numerics), type, numerics
    )


def _mixed(
    factors: Tap, experts: torch.Tensor, ids: torch.Tensor, numerics: Numerics
) -> Tap:
    """Sum over the slots of factor times the expert's row, [T, H]."""
    order: Literal["any", "slot"] = "any"
    if numerics.combine_order == "slot":
        order = "slot"
    index = ids.clamp_min(0).to(torch.int64)
    per_slot = factors.map(lambda t: t[..., None])

    def some(columns: slice) -> Tap:
        rows = _exact(experts[:, columns][index])
        rows = bounds.multiply(per_slot, rows, "none", numerics)
        rows = bounds.rounded(rows, numerics.weighted, numerics)
        rows = _without(rows, (ids < 0)[..., None])
        return bounds.total(rows, 1, numerics.combine, numerics, order)

    return _by_columns(some, experts.shape[1], ids.numel())


def _collected(
    factors: Tap,
    tokens: torch.Tensor,
    ids: torch.Tensor,
    experts: int,
    numerics: Numerics,
) -> Tap:
    """Sum of factor times the token's row over the slots of each expert, [E, H]."""
    slots = (ids >= 0).flatten().nonzero().flatten()
    index = ids.flatten()[slots].to(torch.int64)
    own = factors.map(lambda t: t.flatten()[slots][:, None])
    rows = tokens[slots // max(1, ids.shape[1])]

    def some(columns: slice) -> Tap:
        part = _exact(rows[:, columns])
        width = part.value.shape[1]
        terms = bounds.multiply(own, part, numerics.weighted, numerics)
        place = index[:, None] * width + torch.arange(width, device=ids.device)
        sums = bounds.scatter(
            terms.map(torch.flatten), place.flatten(), experts * width,
            numerics.combine, numerics,
        )  # fmt: skip
        return sums.map(lambda t: t.view(experts, width))

    return _by_columns(some, tokens.shape[1], max(len(slots), experts))


def _by_columns(some: Callable[[slice], Tap], width: int, height: int) -> Tap:
    """The columns of a wide result, some at a time."""
    step = max(1, _AT_ONCE // max(1, height))
    parts = [some(slice(start, start + step)) for start in range(0, width, step)]
    return bounds.concatenate(*parts, axis=1)


def _without(tap: Tap, missing: torch.Tensor) -> Tap:
    return tap.map(lambda t: t.masked_fill(missing, 0.0))


def _exact(tensor: torch.Tensor) -> Tap:
    return bounds.exactly(tensor.to(torch.float64))
