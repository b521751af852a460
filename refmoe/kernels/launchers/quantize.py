"""Quantise: which kernel takes which block format and shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from oracle.blocks import preset
from oracle.params import Blocks
from oracle.spec import BlockFormat
from refmoe.kernels.arguments import Argument
from refmoe.kernels.foresight import foreseen
from refmoe.kernels.launch import Kernel, aligned, blocks_for, check
from refmoe.kernels.launchers.formats import (
    ROUNDINGS,
    SCALING_LANES,
    TYPES,
    VECTOR,
    Geometry,
    code_dtype,
    format_struct,
    instance,
    scale_dtype,
    type_code,
)
from refmoe.kernels.launchers.global_scale import amaxes_of, global_scales

FILE = "quantize.cu"
#: Vectors that a thread block takes at once, four a thread.
CHUNK = 1024
_THREADS, _MOST_THREADS = 256, 512


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call works out from the shape of x and its format alone.

    `lanes` hold a block of one row (0: other blocks), `vector` values go into a load,
    `amaxes` says that the kernel wants each leading index' amax in place of its scale.
    The kernel gets x, codes, scales, one of those, and `more`.
    """

    grid: Geometry
    scales: tuple[int, ...]
    codes_type: torch.dtype
    scales_type: torch.dtype
    lanes: int
    vector: int
    kernel: Kernel
    blocks: int
    threads: int
    amaxes: bool
    more: tuple[Argument, ...]


@lru_cache(maxsize=1024)
def plan(
    shape: torch.Size, dtype: torch.dtype, format: BlockFormat, wide: bool, naive: bool
) -> Plan:
    """The kernel for a tensor of this shape, and its launch.

    `wide`: it starts at a multiple of 16 bytes; `naive`: take the plain kernel.
    """
    grid = Geometry.of("quantize", shape, format)
    lanes = grid.lanes(dtype.itemsize) if wide and not naive else 0
    vector = grid.vector(dtype.itemsize) if wide else 1
    size = grid.block_rows * grid.block_columns
    whole = grid.down == grid.across == 1 and grid.per_lead > 16 * _THREADS
    whole = whole and not (lanes or naive or format.global_scale)
    chunks = blocks_for(grid.per_lead, CHUNK * vector)
    struct = format_struct(format, grid.block_rows, grid.block_columns).tobytes()
    by_chunk = struct, grid.per_lead, np.int32(chunks)
    by_block = struct, grid.struct().tobytes()

    def planned(
        blocks: int, threads: int, kernel: Kernel, more: tuple[Argument, ...]
    ) -> Plan:
        return Plan(
            grid, grid.scales(shape), code_dtype(format),
            scale_dtype(format), lanes, vector, kernel, blocks, threads, whole, more,
        )  # fmt: skip

    def instantiated(name: str, *options: object) -> Kernel:
        return Kernel(FILE, instance(name, dtype, format, *options))

    if lanes:
        kernel = instantiated("quantize_groups", min(lanes, SCALING_LANES), "i64")
        return planned(grid.leads * chunks, _THREADS, kernel, by_chunk)
    if naive or size < _THREADS:
        kernel = Kernel(FILE, f"quantize_naive<{ROUNDINGS[format.rounding]}>")
        more = (*by_block, type_code(dtype))
        return planned(blocks_for(grid.blocks, 64), 64, kernel, more)
    if whole:
        kernel = instantiated("quantize_whole", vector)
        return planned(grid.leads * chunks, _THREADS, kernel, by_chunk)
    threads = 1 << (blocks_for(size, 4 * vector) - 1).bit_length()
    threads = min(max(threads, 32), _MOST_THREADS)
    return planned(
        grid.blocks, threads, instantiated("quantize_tiles", vector), by_block
    )


@foreseen
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
    check("quantize", "x", x, tuple(TYPES), x.shape)
    how = plan(x.shape, x.dtype, format, aligned(VECTOR, x), naive)
    device = x.device
    codes = torch.empty(x.shape, dtype=how.codes_type, device=device)
    scales = torch.empty(how.scales, dtype=how.scales_type, device=device)
    wholes, decode = None, None
    if format.global_scale:
        wholes, decode = global_scales(x, format, how, global_scale)
    elif global_scale is not None:
        raise ValueError(
            f"quantize: {format.name} has no global scale; leave global_scale out"
        )
    if how.grid.elements:
        if how.amaxes:
            wholes = amaxes_of(x, format, how, drop=False)
        how.kernel(
            how.blocks, how.threads, x, codes, scales, wholes, *how.more, device=device
        )
    return Blocks(codes, scales, format, decode)
