"""One token through its experts: MLP, weight, shared expert, combination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from oracle.scalar.activation import GATED, activate
from oracle.scalar.blocks import dequantize, quantize
from oracle.scalar.elementary import sigmoid
from oracle.scalar.elements import Value, round_to
from oracle.scalar.interval import Interval, Number, dot, square_root, total
from oracle.scalar.keys import Undecided

Row = Sequence[Interval | Number]
Matrix = Sequence[Sequence[Number]]


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert's numbers: gate_up [2I][H] (gate first) or [I][H], down [H][I]."""

    gate_up: Matrix
    down: Matrix
    gate_up_bias: Sequence[Number] | None = None
    down_bias: Sequence[Number] | None = None
    alpha: Number | None = None
    beta: Number | None = None
    limit: Number | None = None
    x_scale: Number | None = None
    intermediate_scale: Number | None = None


def linear(x: Row, matrix: Matrix, bias: Sequence[Number] | None) -> list[Interval]:
    """matrix x + bias."""
    sums = [dot(x, row) for row in matrix]
    if bias is None:
        return sums
    return [value + b for value, b in zip(sums, bias, strict=True)]


def intermediate(x: Row, expert: Expert, activation: Any) -> list[Interval]:
    """h of GEMM1's result."""
    both = linear(x, expert.gate_up, expert.gate_up_bias)
    gates: list[Interval] | list[None] = [None] * len(both)
    ups = both
    if activation.kind in GATED:
        half = len(both) // 2
        gates, ups = both[:half], both[half:]
    return [
        activate(
            g, u, activation, alpha=expert.alpha, beta=expert.beta, limit=expert.limit
        )
        for g, u in zip(gates, ups, strict=True)
    ]


def through(
    row: Sequence[Interval], format: Any, scale: Number | None = None
) -> list[Interval]:
    """Enclosures as a GEMM sees them through a block format, with a global `scale`.

    Scale and code grow with the magnitudes, so that both ends of all enclosures giving
    the same bytes proves them for every number between; else raises Undecided. A global
    scale that would come from other rows too must be given.
    """
    if format.global_scale and scale is None:
        raise ValueError(
            f"scalar: {format.name} needs a given global scale for one row"
        )
    nearest = [_toward_zero(h) for h in row]
    farthest = [h.low if h.high <= 0 else h.high for h in row]
    blocks = quantize([nearest], format, scale)
    certain = quantize([farthest], format, scale) == blocks
    if any(h.low < 0 < h.high for h in row) or not certain:
        raise Undecided("scalar: an enclosure straddles a rounding boundary")
    return [Interval.of(v) for v in dequantize(blocks, format)[0]]


def rounded(h: Interval, name: str) -> Interval:
    """The enclosure of all roundings to a plain type, which do not decrease."""
    return Interval(Fraction(round_to(h.low, name)), Fraction(round_to(h.high, name)))


def requantized(h: Sequence[Interval], layer: Any, expert: Expert) -> Row:
    """The intermediate as GEMM2 sees it; a plain type changes nothing."""
    if isinstance(layer.requantize, str):
        return h
    return through(h, layer.requantize, expert.intermediate_scale)


def _toward_zero(h: Interval) -> Value:
    """The end of least magnitude, zero with the sign of the enclosure."""
    if h.high <= 0 and h.low < 0:
        return h.high or -0.0
    return h.low


def expert_row(
    x: Row, expert: Expert, layer: Any, weight: Interval | Number
) -> list[Interval]:
    """One expert's weighted contribution to one token.

    The weight multiplies x (before it is quantised or rounded for GEMM1), the
    intermediate (before it is requantised), or the output after its bias.
    """
    w = Interval.of(weight)
    if layer.weight_on == "input":
        weighted = [w * item for item in x]
        if isinstance(layer.activations, str):
            x = [rounded(item, layer.activations) for item in weighted]
        else:
            x = through(weighted, layer.activations, expert.x_scale)
    h = intermediate(x, expert, layer.activation)
    if layer.weight_on == "intermediate":
        h = [w * item for item in h]
    y = linear(requantized(h, layer, expert), expert.down, expert.down_bias)
    return [w * item for item in y] if layer.weight_on == "output" else y


def routed_row(
    x: Row,
    ids: Sequence[int],
    weights: Sequence[Interval | Number],
    experts: Sequence[Expert],
    layer: Any,
    *,
    identity: Row | None = None,
) -> list[Interval]:
    """The weighted sum over one token's slots, then the scale declared on the sum.

    An id of -1 contributes nothing, a repeated id each time, an id of E or more the
    token itself (`identity`: x before it is quantised).
    """
    contributions = []
    for i, w in zip(ids, weights, strict=True):
        if i >= layer.experts:
            contributions.append([Interval.of(w) * item for item in identity or x])
        elif i >= 0:
            contributions.append(expert_row(x, experts[i], layer, w))
    row = [total(parts[c] for parts in contributions) for c in range(layer.hidden)]
    if layer.routing.scale_on == "sum" and layer.routing.scale != 1:
        row = [item * layer.routing.scale for item in row]
    return row


def shared_row(
    x: Row,
    expert: Expert,
    layer: Any,
    *,
    token: Row = (),
    gate: Sequence[Number] = (),
    weights: Sequence[Interval] = (),
    quantized: bool = False,
) -> list[Interval]:
    """The shared expert's row, gated by sigmoid(token . gate) or weighted."""
    shared = layer.shared
    h = intermediate(x, expert, shared.activation or layer.activation)
    if shared.combine == "weighted":
        columns = shared.intermediate // shared.count
        h = [weights[c // columns] * item for c, item in enumerate(h)]
    y = linear(
        requantized(h, layer, expert) if quantized else h, expert.down, expert.down_bias
    )
    if shared.combine == "gated":
        factor = sigmoid(dot(token, gate))
        y = [factor * item for item in y]
    return y


def combine(
    routed: Sequence[Interval], shared: Sequence[Interval] | None, layer: Any
) -> list[Interval]:
    """routed + shared, halved or divided by sqrt(2) where the layer says so."""
    if shared is None:
        return list(routed)
    both = [r + s for r, s in zip(routed, shared, strict=True)]
    if layer.shared.combine == "average":
        return [item * Fraction(1, 2) for item in both]
    if layer.shared.combine == "rsqrt2":
        return [item / square_root(Interval.of(2)) for item in both]
    return both
