"""The layer from parts that could live on different ranks: dispatch, experts, finalise.

Here the experts see rows and where each expert's start, no token; elsewhere the first
GEMM finds the rows of x itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from oracle.params import Blocks, Params
from oracle.spec import Layer
from refmoe.kernels.launchers.experts import (
    Local,
    Rows,
    check_experts,
    prepared_rows,
    taken,
)
from refmoe.kernels.launchers.operands import Matrix
from refmoe.kernels.launchers.permute import Sorted, gather, sort_slots


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What arrives at the experts of one rank, and the way back.

    Shapes: rows.x: [P, H], by expert; weights: f32[P, 1]
    """

    rows: Rows
    weights: torch.Tensor
    made: Sorted


def dispatch(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, params: Params,
    layer: Layer, local: Local = None, *, late: bool = False,
) -> Dispatched:  # fmt: skip
    """Rows of x for every slot of a local expert, in the experts' order.

    x is quantised first, or `late`: at the experts, where a scale of the whole of x
    knows only what arrived. Weighted rows (weight_on='input') always are.

    Raises TypeError and ValueError as `experts` does, and for blocks of several rows,
    which cannot travel apart.
    """
    check_experts(x, ids, weights, params, layer, local)
    weights = weights.float()
    made = sort_slots(ids, layer.experts, local=local)
    own = gather(weights.reshape(-1, 1), made.rows, 1)
    if layer.weight_on == "input":
        return Dispatched(prepared_rows(x, weights, made, params, layer), own, made)
    k, form, scale = weights.shape[1], layer.activations, params.x_scale
    if late:
        arrived = taken(gather(x, made.rows, k), form, scale)
    else:
        arrived = _gathered(taken(x, form, scale), made.rows, k)
    return Dispatched(Rows(arrived, None), own, made)


def _gathered(x: Matrix, slots: torch.Tensor, choices: int) -> Matrix:
    """Rows of x [T, H], their scales with them."""
    if isinstance(x, torch.Tensor):
        return gather(x, slots, choices)
    assert isinstance(x, Blocks)
    rows = x.format.block[0]
    if rows > 1:
        raise ValueError(
            f"dispatch: blocks of {x.format.name} are {x.format.block} and span rows "
            "that go to different experts; take a format with one row per block"
        )
    codes, scales = gather(x.codes, slots, choices), x.scales
    if rows == 1:
        scales = gather(scales, slots, choices)
    return replace(x, codes=codes, scales=scales)
