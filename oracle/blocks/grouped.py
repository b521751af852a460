"""Quantise the rows of all experts, each expert's region on its own."""

from __future__ import annotations

from itertools import pairwise

import torch

from oracle.blocks.presets import preset
from oracle.blocks.quantize import dequantize, quantize
from oracle.params import Blocks
from oracle.spec import BlockFormat


def grouped_quantize(
    x: torch.Tensor, offsets: torch.Tensor, format: BlockFormat | str
) -> Blocks:
    """Blocks of permuted rows; none reaches across two experts.

    Shapes: x [R, K]; offsets i64[E + 1], 0 to R -> codes [R, K]; scales: the experts'
    scales one below the other; global_scale f32[E] where the format has one

    A format with one scale for all rows has one row of scales per expert, experts
    without rows included.

    Raises ValueError where offsets decrease or do not run from 0 to R, and where a
    region does not divide into blocks.
    """
    format = preset(format) if isinstance(format, str) else format
    edges = _edges(offsets, x)
    if format.block[0] == 1 and not format.global_scale:
        return quantize(x, format)
    parts = [_region(x[start:stop], format) for start, stop in pairwise(edges)]
    scale = None
    if format.global_scale:
        scale = torch.stack([_global(part) for part in parts])
    return Blocks(
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scales for part in parts]),
        format,
        scale,
    )


def grouped_dequantize(blocks: Blocks, offsets: torch.Tensor) -> torch.Tensor:
    """The values of grouped blocks: f64[R, K], undoing `grouped_quantize`."""
    format = blocks.format
    edges = _edges(offsets, blocks.codes)
    rows = format.block[0]
    if rows == 1 and not format.global_scale:
        return dequantize(blocks)
    values, start_scale = [], 0
    for expert, (start, stop) in enumerate(pairwise(edges)):
        count = -(-(stop - start) // rows) if rows else 1
        scales = blocks.scales[start_scale : start_scale + count]
        start_scale += count
        if start == stop:
            continue
        whole = None if blocks.global_scale is None else blocks.global_scale[expert]
        values.append(
            dequantize(Blocks(blocks.codes[start:stop], scales, format, whole))
        )
    nothing = blocks.codes.new_zeros(0, blocks.codes.shape[1], dtype=torch.float64)
    return torch.cat([*values, nothing])


def _region(x: torch.Tensor, format: BlockFormat) -> Blocks:
    """One expert's blocks; without rows it keeps the scale that all rows share."""
    if len(x) or format.block[0] != 0:
        return quantize(x, format)
    blocks = quantize(x.new_zeros(1, x.shape[1]), format)
    return Blocks(blocks.codes[:0], blocks.scales, format, blocks.global_scale)


def _global(blocks: Blocks) -> torch.Tensor:
    """The global scale, present because the format declares one."""
    assert blocks.global_scale is not None
    return blocks.global_scale


def _edges(offsets: torch.Tensor, x: torch.Tensor) -> list[int]:
    """The offsets as integers, checked against the rows of `x`."""
    if x.ndim != 2:
        raise ValueError(
            f"grouped: x has shape {tuple(x.shape)}; give the permuted rows [R, K]"
        )
    if offsets.ndim != 1 or len(offsets) < 2 or offsets.is_floating_point():
        raise ValueError(
            f"grouped: offsets have shape {tuple(offsets.shape)} and {offsets.dtype}; "
            "give i64[E + 1]"
        )
    edges = [int(edge) for edge in offsets]
    if edges[0] != 0 or edges[-1] != len(x) or edges != sorted(edges):
        raise ValueError(
            f"grouped: offsets {edges} must rise from 0 to the {len(x)} rows of x; "
            "cut x to offsets[-1] rows"
        )
    return edges
