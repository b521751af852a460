"""Dequantise: codes and scales back to values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from oracle.params import Blocks
from oracle.spec import BlockFormat
from refmoe.kernels.arguments import Argument
from refmoe.kernels.launch import Kernel, aligned, blocks_for, check
from refmoe.kernels.launchers.formats import (
    TYPES,
    VECTOR,
    Geometry,
    code_dtype,
    format_struct,
    scale_dtype,
    type_code,
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
    device = codes.device
    fits = aligned(VECTOR // dtype.itemsize, codes) and not naive
    how = _plan(codes.shape, dtype, format, fits)
    check(
        "dequantize", "scales", blocks.scales, (how.scales_type,), how.scales, device
    )  # fmt: skip
    wholes = _wholes(blocks, how.leads)
    values = torch.empty(codes.shape, dtype=dtype, device=device)
    how.kernel(
        how.blocks, how.threads, codes, blocks.scales, wholes, values, *how.more,
        device=device,
    )  # fmt: skip
    return values


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a call works out from shape, type and format alone."""

    leads: int
    scales: tuple[int, ...]
    scales_type: torch.dtype
    kernel: Kernel
    blocks: int
    threads: int
    more: tuple[Argument, ...]


@lru_cache(maxsize=1024)
def _plan(
    shape: torch.Size, dtype: torch.dtype, format: BlockFormat, wide: bool
) -> _Plan:
    grid = Geometry.of("dequantize", shape, format)
    struct = format_struct(format, grid.block_rows, grid.block_columns)
    more: tuple[Argument, ...] = (struct.tobytes(), grid.struct().tobytes())
    expression, blocks, threads = "dequantize_naive", 0, _THREADS
    vector = grid.vector(dtype.itemsize)
    if wide and vector > 1:
        vectors = grid.columns // vector
        threads = 1 << (blocks_for(vectors, 4) - 1).bit_length() if vectors else 32
        threads = min(max(threads, 32), _THREADS)
        chunks = blocks_for(vectors, 4 * threads)
        expression = f"dequantize_vectors<{TYPES[dtype]}, element::{format.element}>"
        blocks, more = grid.leads * grid.rows * chunks, (*more, np.int32(chunks))
    else:
        blocks, more = blocks_for(grid.elements, _THREADS), (*more, type_code(dtype))
    return _Plan(
        grid.leads, grid.scales(shape), scale_dtype(format),
        Kernel("dequantize.cu", expression), blocks, threads, more,
    )  # fmt: skip


def _wholes(blocks: Blocks, leads: int) -> torch.Tensor | None:
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
    return scale.reshape(-1).expand(leads).contiguous()
