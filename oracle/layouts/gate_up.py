"""Orders of the gate and up rows of GEMM1's weight, scales and bias."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from oracle.layouts import require
from oracle.layouts.rearrange import rearrange
from oracle.spec import choose

GateUpOrder = Literal[
    "gate_up", "up_gate", "interleaved", "interleaved_up_gate", "groups_8", "groups_64"
]

#: Rows of one run, 0 being all of a half, and whether gate rows come first.
_ORDERS: dict[str, tuple[int, bool]] = {
    "gate_up": (0, True),  # vLLM, DeepGEMM, transformers; canonical here
    "up_gate": (0, False),  # TensorRT-LLM and FlashInfer CUTLASS
    "interleaved": (1, True),  # g0 u0 g1 u1: GPT-OSS checkpoints, triton_kernels
    "interleaved_up_gate": (1, False),  # u0 g0 u1 g1: trtllm-gen
    "groups_8": (8, True),  # g0..7 u0..7 g8..15: DeepGEMM's mega MoE
    "groups_64": (64, False),  # u0..63 g0..63: CuteDSL
}


def arrange(x: torch.Tensor, order: GateUpOrder, axis: int = -2) -> torch.Tensor:
    """From canonical rows [gate(I); up(I)] to `order`, along `axis`.

    Shapes: x [..., 2I, ...] of any dtype -> same
    Raises ValueError where 2I is odd or I is no multiple of the order's runs.

    >>> arrange(torch.tensor([0, 1, 10, 11]), "interleaved", axis=0).tolist()
    [0, 10, 1, 11]
    """
    run, gate_first = _runs(x, order, axis)
    rows = x.movedim(axis, -1)
    if not gate_first:
        rows = rows.roll(rows.shape[-1] // 2, -1)
    rows = rearrange(rows, "(half t r)", "(t half r)", half=2, r=run)
    return rows.movedim(-1, axis).contiguous()


def canonical(x: torch.Tensor, order: GateUpOrder, axis: int = -2) -> torch.Tensor:
    """Undo `arrange`. Shapes: x [..., 2I, ...] of any dtype -> same."""
    run, gate_first = _runs(x, order, axis)
    rows = rearrange(x.movedim(axis, -1), "(t half r)", "(half t r)", half=2, r=run)
    if not gate_first:
        rows = rows.roll(rows.shape[-1] // 2, -1)
    return rows.movedim(-1, axis).contiguous()


def _runs(x: torch.Tensor, order: GateUpOrder, axis: int) -> tuple[int, bool]:
    choose("gate_up", "order", order, get_args(GateUpOrder))
    require.axes("gate_up", x, -axis if axis < 0 else axis + 1)
    run, gate_first = _ORDERS[order]
    require.multiple("gate_up", "rows", x.shape[axis], 2 * max(run, 1))
    return run or max(x.shape[axis] // 2, 1), gate_first
