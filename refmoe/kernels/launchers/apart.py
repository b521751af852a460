"""GEMMs that do the product alone: bias, activation and weight come after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch

from oracle.params import Blocks
from refmoe.kernels.foresight import computed
from refmoe.kernels.launchers.activate import activate_rows
from refmoe.kernels.launchers.dequantize import dequantize
from refmoe.kernels.launchers.gemm import Gemm
from refmoe.kernels.launchers.operands import Matrix, Packed
from refmoe.kernels.launchers.permute import owners_of
from refmoe.kernels.launchers.tensor_cores import tensor_cores

#: x [R, K] times w [N, K] transposed: f32 or f64 [R, N].
Multiply = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def activated_apart(gemm: Gemm) -> torch.Tensor:
    """Tensor cores for the product alone: gate and up pass through memory in fp32."""
    gemm.check()
    bare = replace(
        gemm, dtype=torch.float32, bias=None, weights=None, activation=None,
        columns=None,
    )  # fmt: skip
    return finish(gemm, tensor_cores(bare))


def by_expert(gemm: Gemm, multiply: Multiply) -> torch.Tensor:
    """One product per expert with rows, each by `multiply`.

    Reads the offsets back, so that a graph cannot capture it.

    Raises ValueError for weights that are interleaved for another kernel.
    """
    gemm.check()
    x = values(gemm.x)
    shape = (gemm.rows, gemm.w.shape[1])
    if x.is_meta:
        # One expert's weights launch what all of them do.
        values(_expert(gemm.w, 0))
        return finish(gemm, torch.empty(shape, dtype=torch.float32, device=x.device))
    if gemm.slots is not None:
        x = x[(gemm.slots // gemm.choices).clamp_min(0)]
    sums = torch.zeros(shape, dtype=torch.float32, device=gemm.device)
    for expert, (start, stop) in enumerate(pairwise(gemm.offsets.tolist())):
        if start < stop:
            w = values(_expert(gemm.w, expert))[:, : x.shape[1]]
            sums[start:stop] = multiply(x[start:stop], w.contiguous())
    return finish(gemm, sums)


def values(matrix: Matrix) -> torch.Tensor:
    """The values of a matrix: exact in fp64 for integer codes, else rounded to fp32."""
    if isinstance(matrix, torch.Tensor):
        return matrix
    if isinstance(matrix, Packed):
        if matrix.packing != "nibbles":
            raise ValueError(
                "grouped_gemm: weights are interleaved for another kernel; prepare "
                "them with packing='nibbles'"
            )
        pairs = matrix.codes
        codes = computed(
            lambda: torch.stack((pairs & 15, pairs >> 4), -1).flatten(-2), pairs,
            matrix.shape, pairs.dtype,
        )  # fmt: skip
        matrix = Blocks(codes, matrix.scales, matrix.format, matrix.global_scale)
    codes, scales, format = matrix.codes, matrix.scales, matrix.format
    if format.element == "int8" and format.block == (1, 0):
        return computed(
            lambda: codes.double() * scales.double(), codes, codes.shape, torch.float64
        )
    return dequantize(matrix)


def finish(gemm: Gemm, sums: torch.Tensor) -> torch.Tensor:
    """Bias, activation and weight on sums f32[R, rows of w], as grouped.cuh does them.

    Rows past the last offset become 0.
    """
    found = owners_of(gemm.offsets, gemm.rows)
    owner = computed(lambda: found.clamp_min(0), found, found.shape, found.dtype)
    shape, halves = (gemm.rows, gemm.width), 2 if gemm.gated else 1
    result = computed(
        lambda: _biased(gemm, sums, owner), owner, (shape[0], halves * shape[1]),
        torch.float32,
    )  # fmt: skip
    if gemm.activation is not None:
        result = activate_rows(
            result, gemm.activation, gemm.constants, owner, dtype=torch.float32
        )
    return computed(lambda: _weighted(gemm, result, found), found, shape, gemm.dtype)


def _biased(gemm: Gemm, sums: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """The columns of the sums that the result takes, gate first, with their bias."""
    if gemm.bias is not None:
        sums = sums + gemm.bias.float()[owner]
    gate, up = gemm.starts
    parts = [sums[:, up : up + gemm.width]]
    if gemm.gated:
        parts.insert(0, sums[:, gate : gate + gemm.width])
    return torch.cat(parts, 1)


def _weighted(gemm: Gemm, result: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """The rows that have an expert by their weights, the others 0."""
    if gemm.weights is not None:
        slots = torch.arange(gemm.rows, device=gemm.device)
        if gemm.slots is not None:
            slots = gemm.slots.clamp_min(0)
        own = gemm.weights.reshape(-1, gemm.per_row)[slots]
        each = max(gemm.width // gemm.per_row, 1)
        result = result * own.repeat_interleave(each, dim=1)
    return result.where((owner >= 0)[:, None], 0.0).to(gemm.dtype)


def _expert(w: Matrix, expert: int) -> Matrix:
    if isinstance(w, torch.Tensor):
        return w[expert]
    scale = w.global_scale
    if scale is not None and scale.ndim:
        scale = scale[expert]
    return replace(
        w, codes=w.codes[expert], scales=w.scales[expert], global_scale=scale
    )
