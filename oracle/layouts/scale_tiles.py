"""Tiled layouts of block scales for tensor cores: 128x4 and 8x4, dense and grouped.

128x4 ("32_4_4", "swizzled"): cuBLAS block-scaled matmul documentation; tcgen05.mma's
scale factors. Used by cuBLAS, CUTLASS, TransformerEngine, FlashInfer, torchao.
"""

from __future__ import annotations

import torch

from oracle.layouts import require
from oracle.layouts.edges import cut, extend, raised
from oracle.layouts.rearrange import rearrange


def swizzle_128x4(
    scales: torch.Tensor, pad: int = 0, column_multiple: int = 4
) -> torch.Tensor:
    """Lay scales out in tiles of 128 rows by 4 columns.

    Shapes: scales u8[..., M, K] -> u8[..., Mp * Kp]; Mp and Kp are M and K raised to
    multiples of 128 and `column_multiple` (4; triton_kernels pads to 8)

    Byte (m, k) stands at offset (m // 128) * (Kp // 4) * 512 + (k // 4) * 512
    + (m % 32) * 16 + (m % 128 // 32) * 4 + k % 4; all others hold `pad`. Vendors pad
    with 0, which decodes as 2^-127 or 0: no kernel may read it into a result.
    """
    require.multiple("swizzle_128x4", "column_multiple", column_multiple, 4)
    require.dtype("swizzle_128x4", scales, torch.uint8)
    padded = extend("swizzle_128x4", scales, 128, column_multiple, pad)
    return rearrange(padded, "(m c l) (k s)", "(m k l c s)", c=4, l=32, s=4)


def unswizzle_128x4(
    tiles: torch.Tensor, rows: int, columns: int, column_multiple: int = 4
) -> torch.Tensor:
    """Undo `swizzle_128x4`, dropping the padding.

    Shapes: tiles u8[..., Mp * Kp] -> u8[..., rows, columns]
    """
    k = _tiles("unswizzle_128x4", tiles, rows, columns, 128, column_multiple)
    source, target = "(m k l c s)", "(m c l) (k s)"
    full = rearrange(tiles, source, target, k=k, c=4, l=32, s=4)
    return cut(full, rows, columns)


def swizzle_8x4(scales: torch.Tensor, pad: int = 0) -> torch.Tensor:
    """Lay scales out in tiles of 8 rows by 4 columns (FlashInfer, for few tokens).

    Shapes: scales u8[..., M, K] -> u8[..., Mp * Kp], M raised to 8 and K to 4

    Byte (m, k) stands at offset (m // 8) * (Kp // 4) * 32 + (k // 4) * 32 + (m % 8) * 4
    + k % 4; all others hold `pad`.
    """
    require.dtype("swizzle_8x4", scales, torch.uint8)
    padded = extend("swizzle_8x4", scales, 8, 4, pad)
    return rearrange(padded, "(m l) (k s)", "(m k l s)", l=8, s=4)


def unswizzle_8x4(tiles: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Undo `swizzle_8x4`, dropping the padding.

    Shapes: tiles u8[..., Mp * Kp] -> u8[..., rows, columns]
    """
    k = _tiles("unswizzle_8x4", tiles, rows, columns, 8, 4)
    full = rearrange(tiles, "(m k l s)", "(m l) (k s)", k=k, l=8, s=4)
    return cut(full, rows, columns)


def blockscale_offsets(offsets: torch.Tensor) -> torch.Tensor:
    """First row of each expert's region when every region is padded to 128 rows.

    Shapes: offsets i64[E + 1], as `oracle.experts.permute` gives -> i64[E + 1]

    >>> blockscale_offsets(torch.tensor([0, 1, 1, 130])).tolist()
    [0, 128, 128, 384]
    """
    require.axes("blockscale_offsets", offsets, 1)
    counts = offsets.diff()
    if offsets.shape[0] == 0 or int(offsets[0]) or bool((counts < 0).any()):
        raise ValueError(
            f"blockscale_offsets: offsets {offsets.tolist()} must start at 0 and not "
            "decrease; give E + 1 of them"
        )
    starts = torch.zeros_like(offsets)
    starts[1:] = ((counts + 127) // 128 * 128).cumsum(0)
    return starts


def swizzle_grouped(
    scales: torch.Tensor, offsets: torch.Tensor, pad: int = 0
) -> torch.Tensor:
    """128x4 tiles of rows grouped by expert, each expert's region on its own.

    Shapes: scales u8[R, K], offsets i64[E + 1] -> u8[Rp * Kp], Rp = the last of
    `blockscale_offsets`

    A region equals `swizzle_128x4` of the expert's rows alone. An expert without rows
    takes no room.
    """
    require.axes("swizzle_grouped", scales, 2)
    rows = _destinations("swizzle_grouped", offsets, scales.shape[0])
    starts = blockscale_offsets(offsets)
    spread = scales.new_full((int(starts[-1]), scales.shape[1]), pad)
    spread[rows] = scales
    return swizzle_128x4(spread, pad)


def unswizzle_grouped(
    tiles: torch.Tensor, offsets: torch.Tensor, columns: int
) -> torch.Tensor:
    """Undo `swizzle_grouped`, dropping the padding.

    Shapes: tiles u8[Rp * Kp], offsets i64[E + 1] -> u8[R, columns]
    """
    rows = _destinations("unswizzle_grouped", offsets, int(offsets[-1]))
    total = int(blockscale_offsets(offsets)[-1])
    return unswizzle_128x4(tiles, total, columns)[rows]


def _destinations(layout: str, offsets: torch.Tensor, rows: int) -> torch.Tensor:
    """Row of the padded regions at which each row of the grouped tensor stands."""
    starts = blockscale_offsets(offsets)
    require.size(layout, "rows", rows, int(offsets[-1]))
    shift = (starts - offsets)[:-1].repeat_interleave(offsets.diff())
    return torch.arange(rows, device=offsets.device) + shift


def _tiles(
    layout: str, tiles: torch.Tensor, rows: int, columns: int, height: int, width: int
) -> int:
    """Tiles along K, once the run of bytes has the right length."""
    require.dtype(layout, tiles, torch.uint8)
    require.axes(layout, tiles, 1)
    columns = raised(columns, width)
    require.size(layout, "bytes", tiles.shape[-1], raised(rows, height) * columns)
    return columns // 4
