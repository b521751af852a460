"""Quantise rows sorted by expert, scales as rows or in each expert's 128x4 region."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from oracle.blocks import preset
from oracle.params import Blocks
from oracle.spec import BlockFormat
from refmoe.kernels.foresight import foreseen
from refmoe.kernels.launch import Kernel, aligned, check
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
from refmoe.kernels.launchers.global_scale import both_directions
from refmoe.kernels.launchers.permute import IDS, padded_starts
from refmoe.kernels.launchers.quantize import quantize

ScaleLayout = Literal["linear", "128x4"]
#: Rows that a region of scales in the 128x4 layout is padded to, and blocks of a row.
TILE_ROWS, TILE_BLOCKS = 128, 4
_FILE = "grouped.cu"
_THREADS = 128


@foreseen
def grouped_quantize(
    x: torch.Tensor,
    offsets: torch.Tensor,
    format: BlockFormat | str,
    *,
    layout: ScaleLayout = "linear",
    starts: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
    naive: bool = False,
) -> Blocks:
    """Blocks of permuted rows; a global scale, where the format has one, per expert.

    Shapes:
        x: bf16, fp16 or fp32 [R, K]; offsets: i32 or i64 [E + 1], from 0
        codes: [R, K]; global_scale: f32[E]
        scales: [R, K / block]; under layout 128x4 u8[P, K / block rounded up to 4],
        each expert's region padded with zeros to 128 rows
        starts: of offsets' type [E + 1], the row of `scales` where each region starts,
        a multiple of 128; None: one region after the other

    `scales` is a buffer to fill, needed with `starts`; without it P is the most rows
    that any offsets can need. Rows past offsets[E] are left unwritten.

    Raises ValueError for formats whose blocks span several rows (where their regions
    end would have to be read back from the device) and for a layout that does not fit.
    """
    format = preset(format) if isinstance(format, str) else format
    check("grouped_quantize", "x", x, tuple(TYPES), (None, None))
    check("grouped_quantize", "offsets", offsets, tuple(IDS), (None,), x.device)
    if format.block[0] != 1:
        raise ValueError(
            f"grouped_quantize: blocks of {format.name} are {format.block} and span "
            "rows; take a format with one row per block"
        )
    if layout == "linear" and not format.global_scale and not naive:
        return quantize(x, format)
    grid = Geometry.of("grouped_quantize", x.shape, format)
    struct = format_struct(format, 1, grid.block_columns)
    device, experts = x.device, len(offsets) - 1
    codes = torch.empty(x.shape, dtype=code_dtype(format), device=device)
    if layout == "linear":
        scales = torch.empty(
            grid.scales(x.shape), dtype=scale_dtype(format), device=device
        )
    else:
        starts, scales = _regions(format, grid, offsets, starts, scales)
    index = IDS[offsets.dtype]
    wholes, decode = None, None
    if format.global_scale:
        amaxes = torch.zeros(experts, dtype=torch.int32, device=device)
        Kernel(_FILE, f"grouped_amax<{index}>")(
            len(x), _THREADS, x, amaxes, offsets, np.int32(experts), struct,
            grid.columns, type_code(x.dtype), device=device,
        )  # fmt: skip
        decode = torch.empty(experts, dtype=torch.float32, device=device)
        wholes = both_directions(amaxes, None, decode, struct)
    lanes = grid.lanes(x.element_size()) if aligned(VECTOR, x) and not naive else 0
    given = (
        x, codes, scales, offsets, starts, np.int32(experts), wholes, struct,
        grid.columns,
    )  # fmt: skip
    if lanes:
        options = min(lanes, SCALING_LANES), index
        Kernel(_FILE, instance("grouped_lanes", x.dtype, format, *options))(
            len(x), _THREADS, *given, device=device
        )
    else:
        Kernel(_FILE, f"grouped_naive<{ROUNDINGS[format.rounding]}, {index}>")(
            len(x), _THREADS, *given, type_code(x.dtype), device=device
        )
    return Blocks(codes, scales, format, decode)


def linear_scales(
    tiled: torch.Tensor, offsets: torch.Tensor, starts: torch.Tensor, rows: int,
    across: int,
) -> torch.Tensor:  # fmt: skip
    """Scales below one another, u8[rows, across], of regions in the 128x4 layout.

    Shapes: tiled: u8[P, across rounded up to 4]; offsets and starts: i32 or i64 [E + 1]

    Rows past offsets[E] are left unwritten.
    """
    width = -(-across // TILE_BLOCKS) * TILE_BLOCKS
    check("linear_scales", "tiled", tiled, (torch.uint8,), (None, width))
    device, dtypes = tiled.device, (offsets.dtype,)
    check("linear_scales", "offsets", offsets, tuple(IDS), (None,), device)
    check("linear_scales", "starts", starts, dtypes, (len(offsets),), device)
    linear = torch.empty((rows, across), dtype=torch.uint8, device=device)
    Kernel(_FILE, f"linear_scales<{IDS[offsets.dtype]}>")(
        rows, _THREADS, tiled, linear, offsets, starts, np.int32(len(offsets) - 1),
        across, device=device,
    )  # fmt: skip
    return linear


def _regions(
    format: BlockFormat, grid: Geometry, offsets: torch.Tensor,
    starts: torch.Tensor | None, scales: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Where each expert's region starts, and a zeroed buffer for all of them."""
    dtype = scale_dtype(format)
    if dtype != torch.uint8:
        raise ValueError(
            f"grouped_quantize: scales of {format.name} are {format.scale}; the 128x4 "
            "layout holds bytes, e8m0 or e4m3"
        )
    width = -(-grid.across // TILE_BLOCKS) * TILE_BLOCKS
    if starts is not None and scales is None:
        raise ValueError(
            "grouped_quantize: starts without scales; pass the buffer they refer to"
        )
    if starts is None:
        starts = padded_starts(offsets, TILE_ROWS)
    else:
        shape = (len(offsets),)
        check(
            "grouped_quantize",
            "starts",
            starts,
            (offsets.dtype,),
            shape,
            offsets.device,
        )
    if scales is None:
        most = min(len(offsets) - 1, grid.rows) * (TILE_ROWS - 1) + grid.rows
        rows = -(-most // TILE_ROWS) * TILE_ROWS
        scales = torch.empty((rows, width), dtype=dtype, device=offsets.device)
    check("grouped_quantize", "scales", scales, (dtype,), (None, width), offsets.device)
    return starts, scales.zero_()
