"""A whole layer, token by token, for sizes that a reader could follow by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from oracle.scalar.blocks import dequantize, quantize
from oracle.scalar.elements import round_to
from oracle.scalar.experts import (
    Expert,
    Matrix,
    combine,
    routed_row,
    shared_row,
)
from oracle.scalar.interval import Interval, Number
from oracle.scalar.routing import Routed, route


@dataclass(frozen=True, slots=True)
class Weights:
    """The layer's numbers; weights already decoded."""

    experts: Sequence[Expert]
    router_bias: Sequence[Number] | None = None
    per_expert_scale: Sequence[Number] | None = None
    hash_table: Sequence[Sequence[int]] | None = None
    shared: Expert | None = None
    shared_gate: Sequence[Number] = ()
    #: Whether the shared expert sees its operands quantised, as its weights are.
    shared_quantized: bool = False
    x_scale: Number | None = None


@dataclass(frozen=True, slots=True)
class Stages:
    """What every token went through: routing, then rows of enclosures."""

    routed_to: list[Routed] = field(default_factory=list)
    routed: list[list[Interval]] = field(default_factory=list)
    shared: list[list[Interval]] = field(default_factory=list)
    out: list[list[Interval]] = field(default_factory=list)


def quantized_inputs(x: Matrix, format: Any, scale: Number | None) -> Matrix:
    """x as GEMM1 sees it: through a block format, or rounded to a plain type."""
    if isinstance(format, str):
        return [[round_to(item, format) for item in row] for row in x]
    return dequantize(quantize(x, format, scale), format)


def forward(
    x: Matrix,
    logits: Matrix,
    layer: Any,
    weights: Weights,
    *,
    token_ids: Sequence[int] | None = None,
) -> Stages:
    """Route every token and run its experts; `out` is not rounded to a type."""
    stages = Stages()
    inputs = x
    if layer.weight_on != "input":
        inputs = quantized_inputs(x, layer.activations, weights.x_scale)
    for t, (row, seen) in enumerate(zip(x, inputs, strict=True)):
        table = weights.hash_table
        hashed = table[token_ids[t]] if table is not None and token_ids else None
        chosen = route(
            logits[t],
            layer,
            router_bias=weights.router_bias,
            per_expert_scale=weights.per_expert_scale,
            hashed=hashed,
        )
        routed = routed_row(
            seen, chosen.ids, chosen.weights, weights.experts, layer, identity=row
        )
        shared = None
        if weights.shared is not None:
            shared = shared_row(
                seen if weights.shared_quantized else row,
                weights.shared,
                layer,
                token=row,
                gate=weights.shared_gate,
                weights=chosen.shared,
                quantized=weights.shared_quantized,
            )
            stages.shared.append(shared)
        stages.routed_to.append(chosen)
        stages.routed.append(routed)
        stages.out.append(combine(routed, shared, layer))
    return stages
