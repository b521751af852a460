"""Operands of the GEMMs as struct Operand: plain tensors, blocks, packed weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from oracle.params import Blocks
from oracle.spec import BlockFormat
from oracle.spec.blocks import ScaleType
from refmoe.kernels.launch import check
from refmoe.kernels.launchers.formats import (
    TYPES,
    Geometry,
    Struct,
    code_dtype,
    scale_dtype,
)

#: struct Operand of operand.cuh.
_OPERAND = np.dtype(
    [(name, "u8") for name in ("elements", "scales", "wholes")]
    + [(name, "i8") for name in ("rows", "depth", "down", "across")]
    + [(name, "i4") for name in (
        "stored", "scale_type", "block_rows", "block_columns", "whole_step",
        "scales_sm90",
    )]
)  # fmt: skip
#: The enumerators of Stored, in their order.
STORED = (
    "bf16", "fp16", "fp32", "e2m1", "e2m3", "e3m2", "e4m3", "e5m2", "int8", "int4",
    "mxint8", "nibbles", "nibbles_sm90",
)  # fmt: skip
SCALES: tuple[ScaleType, ...] = ("e8m0", "e4m3", "fp32", "bf16", "fp16")

Packing = Literal["nibbles", "nibbles_sm90"]


@dataclass(frozen=True, slots=True)
class Packed:
    """FP4 blocks [E, N, K], two codes a byte, made once for all calls by `prepare`.

    Shapes:
        codes: u8[E, N, K / 2]; scales: u8[E, N, K / 32], or under ``nibbles_sm90``
        u8[E, N / 64, K / 128, 16, 16] (`oracle.layouts.sm90_mixed`)
        global_scale: f32[E] or f32[], where the format has one

    N and K may exceed the layer's sizes: padding holds code 0.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    format: BlockFormat
    packing: Packing = "nibbles"
    global_scale: torch.Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """Shape of the matrices that the codes stand for."""
        *lead, columns = self.codes.shape
        return torch.Size((*lead, columns * 2))


Matrix = torch.Tensor | Blocks | Packed


def stored(matrix: Matrix) -> str:
    """How the elements of a matrix lie, a name of STORED."""
    if isinstance(matrix, Packed):
        return matrix.packing
    if isinstance(matrix, Blocks):
        return matrix.format.element
    return TYPES[matrix.dtype]


def device_of(matrix: Matrix) -> torch.device:
    return matrix.device if isinstance(matrix, torch.Tensor) else matrix.codes.device


def check_matrix(
    op: str, name: str, matrix: object, axes: int, device: torch.device | None = None
) -> None:
    """Raise unless a kernel may read `matrix` as it lies.

    Raises TypeError and ValueError naming the tensor that does not fit.
    """
    if isinstance(matrix, torch.Tensor):
        check(op, name, matrix, tuple(TYPES), (None,) * axes, device)
        return
    if not isinstance(matrix, Blocks | Packed):
        kind = type(matrix).__name__
        raise TypeError(f"{op}: {name} is a {kind}; give a tensor or Blocks")
    codes = matrix.codes
    dtype = torch.uint8 if isinstance(matrix, Packed) else code_dtype(matrix.format)
    check(op, f"{name}.codes", codes, (dtype,), (None,) * axes, device)
    shape = Geometry.of(op, matrix.shape, matrix.format).scales(codes.shape)
    if isinstance(matrix, Packed) and matrix.packing == "nibbles_sm90":
        *lead, rows, across = shape
        shape = (*lead, rows // 64, across // 4, 16, 16)
    dtypes = (scale_dtype(matrix.format),)
    check(op, f"{name}.scales", matrix.scales, dtypes, shape, codes.device)
    _check_whole(op, name, matrix)


def _check_whole(op: str, name: str, matrix: Blocks | Packed) -> None:
    whole, lead = matrix.global_scale, matrix.codes.shape[:-2]
    if not matrix.format.global_scale:
        return
    if whole is None:
        raise ValueError(
            f"{op}: {name} is {matrix.format.name}, which needs a global scale; it has "
            "none"
        )
    if whole.numel() != 1 and whole.shape != lead:
        raise ValueError(
            f"{op}: {name}.global_scale has shape {tuple(whole.shape)}; give one "
            f"number or one per leading index {tuple(lead)}"
        )
    device = matrix.codes.device
    check(op, f"{name}.global_scale", whole, (torch.float32,), whole.shape, device)


def operand_struct(matrix: Matrix) -> Struct:
    """As struct Operand; the matrix must outlive the launch."""
    *_, rows, depth = matrix.shape
    kind = STORED.index(stored(matrix))
    if isinstance(matrix, torch.Tensor):
        values = (matrix.data_ptr(), 0, 0, rows, depth, 0, 0, kind, 0, 1, 1, 0, 0)
        return np.array([values], _OPERAND)
    grid = Geometry.of("operand", matrix.shape, matrix.format)
    whole = matrix.global_scale if matrix.format.global_scale else None
    values = (
        matrix.codes.data_ptr(), matrix.scales.data_ptr(),
        0 if whole is None else whole.data_ptr(), rows, depth, grid.down, grid.across,
        kind, SCALES.index(matrix.format.scale), grid.block_rows, grid.block_columns,
        int(whole is not None and whole.numel() > 1),
        int(isinstance(matrix, Packed) and matrix.packing == "nibbles_sm90"),
    )  # fmt: skip
    return np.array([values], _OPERAND)
