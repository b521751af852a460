"""Mistakes of the experts' biases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oracle.params import Params
from oracle.spec import Activation, Layer
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

mistake = decorator("mistake", group="bias", models=("gpt-oss-120b",), shows="a bias")


@mistake("add_bias")
def bias_missing(stage: Stage, y: Tensor, bias: Tensor | None, owner: Tensor) -> Tensor:
    """Both biases are left out."""
    return y


@mistake("add_bias")
def bias_of_the_first_expert(
    stage: Stage, y: Tensor, bias: Tensor | None, owner: Tensor
) -> Tensor:
    """Every row gets the bias of expert 0."""
    return stage(y, bias, owner * 0)


@mistake("second_gemm", reference="torchtitan#4245")
def down_bias_per_rank(
    stage: Stage,
    hidden: Tensor,
    offsets: Tensor,
    owner: Tensor,
    params: Params,
    layer: Layer,
) -> Tensor:
    """Each of two ranks adds the replicated bias, and the sum counts it twice."""
    bias = params.down_bias
    moved = replace(params, down_bias=None if bias is None else 2 * bias)
    return stage(hidden, offsets, owner, moved, layer)


@mistake("activation", op="experts")
def bias_after_the_activation(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """The bias of GEMM1 is added behind the activation, its up half."""
    bias: Tensor | None = None if params is None else params.gate_up_bias
    if bias is None:
        return stage(gate_up, params, kind, owner)
    bias = bias.to(gate_up.dtype)[owner]
    hidden = stage(gate_up - bias, params, kind, owner)
    return hidden + bias.chunk(2, -1)[1]


@mistake("first_gemm")
def bias_halves_swapped(
    stage: Stage,
    x: Tensor,
    rows: Tensor,
    offsets: Tensor,
    owner: Tensor,
    own: Tensor,
    params: Params,
    layer: Layer,
) -> Tensor:
    """The weights are [gate | up], the bias is read as [up | gate]."""
    bias = params.gate_up_bias
    if bias is not None:
        bias = bias.roll(bias.shape[-1] // 2, -1)
    moved = replace(params, gate_up_bias=bias)
    return stage(x, rows, offsets, owner, own, moved, layer)


@mistake("combined", reference="maxtext#3699", shows="slots without an expert")
def bias_on_empty_slots(stage: Stage, part: Tensor, rows: Tensor, shape: Any) -> Tensor:
    """Slots without an expert contribute what the padding rows hold: a bias."""
    missing = shape[0] * shape[1] - len(rows)
    return stage(part, rows, shape) + (1.0 if missing else 0.0)
