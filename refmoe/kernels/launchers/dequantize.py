"""Dequantise: codes and scales back to values."""

from __future__ import annotations

import torch

from oracle.params import Blocks
from refmoe.kernels.launch import Kernel, blocks_for, check
from refmoe.kernels.launchers.formats import (
    TYPES,
    Geometry,
    code_dtype,
    format_struct,
    scale_dtype,
)

_THREADS = 256


def dequantize(
    blocks: Blocks, *, dtype: torch.dtype = torch.float32, naive: bool = False
) -> torch.Tensor:
    """The values that `blocks` stand for, rounded once to `dtype`.

    Shapes: codes [..., N, K] or [K], one a byte -> fp32, bf16 or fp16 of that shape

    A NaN scale makes its whole block NaN; an E8M0 byte of 0 is 2^-127. `naive` takes
    the plain kernel, which does a value a thread.

    Raises TypeError for other dtypes, ValueError where codes and scales do not fit.
    """
    format, codes = blocks.format, blocks.codes
    if dtype not in TYPES:
        raise TypeError(f"dequantize: dtype={dtype}; take float32, bfloat16 or float16")
    check("dequantize", "codes", codes, (code_dtype(format),), codes.shape)
    grid = Geometry.of("dequantize", codes.shape, format)
    device = codes.device
    dtypes, shape = (scale_dtype(format),), grid.scales(codes)
    check("dequantize", "scales", blocks.scales, dtypes, shape, device)
    wholes = _wholes(blocks, grid)
    values = torch.empty(codes.shape, dtype=dtype, device=device)
    vector = grid.vector(codes)
    struct = format_struct(format, grid.block_rows, grid.block_columns)
    name = f"{TYPES[dtype]}, element::{format.element}"
    arguments = (codes, blocks.scales, wholes, values, struct, grid.struct())
    if naive or vector == 1:
        kernel = Kernel("dequantize.cu", f"dequantize_naive<{name}>")
        kernel(blocks_for(grid.elements, _THREADS), _THREADS, *arguments, device=device)
    else:
        kernel = Kernel("dequantize.cu", f"dequantize_vectors<{name}, {vector}>")
        across = blocks_for(grid.columns, _THREADS * vector)
        rows = grid.leads * grid.rows
        kernel((rows, across), _THREADS, *arguments, device=device)
    return values


def _wholes(blocks: Blocks, grid: Geometry) -> torch.Tensor | None:
    """The global scale of each leading index, f32[leads]."""
    if not blocks.format.global_scale:
        return None
    scale = blocks.global_scale
    if scale is None:
        raise ValueError(
            f"dequantize: {blocks.format.name} needs a global scale; the blocks have "
            "none"
        )
    lead = blocks.codes.shape[:-2]
    if scale.numel() != 1 and scale.shape != lead:
        raise ValueError(
            f"dequantize: global_scale has shape {tuple(scale.shape)}; give one number "
            f"or one per leading index {tuple(lead)}"
        )
    device = blocks.codes.device
    check("dequantize", "global_scale", scale, (torch.float32,), scale.shape, device)
    return scale.reshape(-1).expand(grid.leads).contiguous()
