"""The expert that every token visits: the same GEMMs, with one expert."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.params import Blocks, Params
from oracle.spec import Layer
from refmoe.kernels.launch import Kernel, blocks_for
from refmoe.kernels.launchers.backends import Backend
from refmoe.kernels.launchers.experts import DTYPES, requantized, taken
from refmoe.kernels.launchers.gemm import Gemm
from refmoe.kernels.launchers.operands import Matrix

#: What the sum of routed and shared experts is multiplied by.
FACTORS = {"average": 0.5, "rsqrt2": 0.5**0.5}


def shared_expert(
    x: torch.Tensor,
    gammas: torch.Tensor,
    params: Params,
    layer: Layer,
    gemm: Backend,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The shared expert's output f32[T, H], and its gate f32[T] where it has one.

    Shapes: x: [T, H]; gammas: f32[T, count], the router's weights of shared experts

    A GEMM with block weights takes x, and the intermediate of the layer's type, as the
    routed experts' do: quantised, but never weighted first.
    """
    shared, width = layer.shared, params.shared_gate_up
    assert shared is not None
    assert width is not None
    assert params.shared_down is not None
    tokens, device = len(x), x.device
    seen: Matrix = x
    if isinstance(width, Blocks):
        seen = taken(x, layer.activations, params.x_scale)
    # One expert with all tokens; made on the device, for a graph to capture.
    offsets = torch.full((2,), tokens, dtype=torch.int32, device=device)
    offsets[:1].zero_()
    weighted = shared.combine == "weighted"
    hidden = gemm(
        Gemm(
            seen, _alone(width), offsets, DTYPES[layer.dtype],
            weights=gammas if weighted else None,
            per_row=shared.count if weighted else 1,
            activation=shared.activation or layer.activation,
        )
    )  # fmt: skip
    rows: Matrix = hidden
    if isinstance(params.shared_down, Blocks):
        rows = requantized(hidden, params, layer)
    down = gemm(Gemm(rows, _alone(params.shared_down), offsets, torch.float32))
    if shared.combine != "gated":
        return down, None
    assert params.shared_gate is not None
    row = params.shared_gate[None, None]
    gate = gemm(Gemm(x, row, offsets, torch.float32)).reshape(-1)
    Kernel("rows.cu", "sigmoid_values")(
        blocks_for(tokens, 256), 256, gate, tokens, device=device
    )
    return down, gate


def _alone(weight: torch.Tensor | Blocks) -> Matrix:
    """A weight [N, K] as that of one expert, [1, N, K]."""
    if isinstance(weight, torch.Tensor):
        return weight[None]
    scale = weight.global_scale
    return replace(
        weight, codes=weight.codes[None], scales=weight.scales[None],
        global_scale=None if scale is None else scale.reshape(1),
    )  # fmt: skip
