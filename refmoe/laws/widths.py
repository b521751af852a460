"""The law of widths: zeros behind the hidden and the intermediate axis add nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import pad

from oracle.params import Blocks, Params
from oracle.spec import Layer
from refmoe.case import Case
from refmoe.laws.relation import Agreement, Launch, Law, Side, Steps, each
from refmoe.laws.rows import formats
from refmoe.port import Port
from refmoe.problem import Problem

#: Both axes grow to a multiple, so that a tile that was cut short is whole.
_TILE = 64
#: The scale of a block of zeros is 1.
_ONE = {"e8m0": 127, "e4m3": 0x38}


def _steps(problem: Problem, port: Port) -> Steps:
    first, second = Launch("as given", problem), Launch("padded", _padded(problem))
    yield from each(first, second)
    # A grouped GEMM reduces over H; elsewhere the result has that axis.
    kept = None if problem.case.op == "grouped_gemm" else problem.layer.hidden
    return [Agreement(Side((first,)), Side((second,), columns=kept))]


def _padded(problem: Problem) -> Problem:
    layer, op = problem.layer, problem.case.op
    larger = replace(layer, hidden=_larger(layer, layer.hidden))
    if op in ("experts", "moe"):
        larger = replace(larger, intermediate=_larger(layer, layer.intermediate))
    inputs: dict[str, Any] = dict(problem.inputs)
    axes = ("x", "weights") if op == "grouped_gemm" else ("x",)
    for name in ("x", "up", "down") if op == "omni_experts" else axes:
        inputs[name] = _along(inputs[name], -1, larger.hidden)
    case, params = problem.case.but(H=larger.hidden), problem.params
    if op != "omni_experts":
        case = case.but(I=larger.intermediate)
        params = _params(params, layer, larger)
    return problem.but(case=case, layer=larger, params=params, inputs=inputs)


def _larger(layer: Layer, size: int) -> int:
    """The next multiple of a tile and of every block."""
    sizes = [part for form in formats(layer) for part in form.block if part]
    step = math.lcm(_TILE, *sizes)
    return (size // step + 1) * step


def _params(params: Params, layer: Layer, larger: Layer) -> Params:
    hidden, wide = larger.hidden, larger.intermediate
    gated = 2 if layer.activation.gated else 1

    def hidden_last(value: Any) -> Any:
        return None if value is None else _along(value, -1, hidden)

    def halves(value: Any, axis: int) -> Any:
        """Gate and up each to their new size."""
        return None if value is None else _along(value, axis, wide, gated)

    down, shared_down = _along(params.down, -1, wide), params.shared_down
    if shared_down is not None:
        shared_down = _along(shared_down, -2, hidden)
    return replace(
        params,
        gate_up=hidden_last(halves(params.gate_up, -2)),
        down=_along(down, -2, hidden),
        gate_up_bias=halves(params.gate_up_bias, -1),
        down_bias=hidden_last(params.down_bias),
        shared_gate_up=hidden_last(params.shared_gate_up),
        shared_down=shared_down,
        shared_gate=hidden_last(params.shared_gate),
    )


def _along(value: Any, axis: int, size: int, parts: int = 1) -> Any:
    """Each of the equal `parts` of an axis raised to `size` with zeros."""
    if isinstance(value, torch.Tensor):
        return _filled(value, axis, size, parts, 0)
    assert isinstance(value, Blocks)
    block = value.format.block[axis]
    scales = value.scales
    if block:
        one = _ONE.get(value.format.scale, 1)
        scales = _filled(scales, axis, -(-size // block), parts, one)
    return replace(
        value, codes=_filled(value.codes, axis, size, parts, 0), scales=scales
    )


def _filled(
    tensor: torch.Tensor, axis: int, size: int, parts: int, value: float
) -> torch.Tensor:
    behind = [0, 0] * (-1 - axis)
    pieces = tensor.chunk(parts, axis)
    return torch.cat(
        [
            pad(piece, [*behind, 0, size - piece.shape[axis]], value=value)
            for piece in pieces
        ],
        axis,
    )


def _unfit(case: Case, port: Port) -> str | None:
    layer = case.layer
    for form in formats(layer):
        if form.block[0] > 1 and form.ragged and layer.intermediate % form.block[0]:
            return f"gate and up share blocks of {form.name}"
        if 0 in form.block and form is layer.weights:
            return f"blocks of {form.name} span an axis that would grow"
    return None


ZERO_PADDING = Law(
    "zero_padding",
    "zeros behind H and I, in x and in the weights, change nothing",
    ("experts", "moe", "grouped_gemm", "omni_experts"),
    _steps,
    _unfit,
    "columns_behind_the_last_tile",
    ((9, 96, 128), (18, 160, 64)),
)
