"""Quantise: which kernel takes which block format and shape."""

from __future__ import annotations

import torch

from oracle.blocks import preset
from oracle.params import Blocks
from oracle.spec import BlockFormat
from refmoe.kernels.launch import Kernel, blocks_for, check
from refmoe.kernels.launchers.formats import (
    TYPES,
    Geometry,
    Struct,
    code_dtype,
    format_struct,
    instance,
    scale_dtype,
)
from refmoe.kernels.launchers.global_scale import amaxes_of, global_scales

FILE = "quantize.cu"
_THREADS = 256


def quantize(
    x: torch.Tensor,
    format: BlockFormat | str,
    *,
    global_scale: torch.Tensor | float | None = None,
    naive: bool = False,
) -> Blocks:
    """Codes and scales of `x` under `format`, bit for bit those of `oracle.blocks`.

    Shapes: x bf16, fp16 or fp32 [..., N, K] or [K], contiguous -> codes of that shape,
    one a byte; scales with both axes counted in blocks

    A block with NaN or Inf gets the NaN scale and codes 0 (``nonfinite`` error and
    propagate: nothing is raised from the device), or saturates. `naive` takes the plain
    kernel, which does a block a thread.

    Raises TypeError for other types of x, ValueError for shapes that do not divide into
    blocks and for a global scale that the format lacks.
    """
    format = preset(format) if isinstance(format, str) else format
    check("quantize", "x", x, tuple(TYPES), tuple(x.shape))
    grid = Geometry.of("quantize", x.shape, format)
    struct = format_struct(format, grid.block_rows, grid.block_columns)
    codes = torch.empty(x.shape, dtype=code_dtype(format), device=x.device)
    scales = torch.empty(grid.scales(x), dtype=scale_dtype(format), device=x.device)
    wholes, decode = None, None
    if format.global_scale:
        wholes, decode = global_scales(x, format, grid, struct, global_scale, naive)
    elif global_scale is not None:
        raise ValueError(
            f"quantize: {format.name} has no global scale; leave global_scale out"
        )
    if grid.elements:
        _encode(x, codes, scales, wholes, format, grid, struct, naive)
    return Blocks(codes, scales, format, decode)


def _encode(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor,
    wholes: torch.Tensor | None, format: BlockFormat, grid: Geometry, struct: Struct,
    naive: bool,
) -> None:  # fmt: skip
    """Fill codes and scales with the kernel that fits the blocks."""
    size = grid.block_rows * grid.block_columns
    vector = grid.vector(x)
    whole_tensor = grid.blocks == grid.leads and grid.per_lead > 16 * _THREADS

    def run(name: str, *more: object) -> Kernel:
        return Kernel(FILE, instance(name, x, format, *more))

    if not naive and grid.lanes(x):
        run("quantize_groups", "i64")(
            blocks_for(grid.elements, _THREADS * vector), _THREADS, x, codes, scales,
            wholes, struct, grid.elements, grid.per_lead, device=x.device,
        )  # fmt: skip
    elif not naive and whole_tensor and wholes is None:
        run("quantize_whole", vector)(
            (blocks_for(grid.per_lead, _THREADS * vector), grid.leads), _THREADS,
            x, amaxes_of(x, format, grid, lanes=1, drop=False), codes, scales, struct,
            grid.per_lead, device=x.device,
        )  # fmt: skip
    elif not naive and size >= _THREADS:
        run("quantize_tiles", vector)(
            grid.blocks, _THREADS, x, codes, scales, wholes, struct, grid.struct(),
            device=x.device,
        )  # fmt: skip
    else:
        run("quantize_naive")(
            blocks_for(grid.blocks, 64), 64, x, codes, scales, wholes, struct,
            grid.struct(), device=x.device,
        )  # fmt: skip
