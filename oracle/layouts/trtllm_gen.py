"""Row order and block order of trtllm-gen's weights on Blackwell.

For GEMM1, rows are first put in the order "interleaved_up_gate" of `gate_up`, then
shuffled; scales and bias take the same rows, scales then `scale_tiles.swizzle_128x4`.
"""

from __future__ import annotations

import torch

from oracle.layouts import require
from oracle.layouts.rearrange import rearrange


def shuffle_rows(x: torch.Tensor, tile: int = 128, axis: int = -2) -> torch.Tensor:
    """Deal out the rows of every block of 32 or 16, as the epilogue gathers them.

    Shapes: x [..., M, ...] of any dtype, M a multiple of 32 (16) -> same

    Row 4 a + b of a block moves to 8 b + a. Blocks have 32 rows where the epilogue's
    `tile` is a multiple of 128; else 16, row 2 a + b moving to 8 b + a.
    """
    block, rows = _rows(x, tile, axis)
    moved = rearrange(rows, "(m a b)", "(m b a)", a=8, b=block // 8)
    return moved.movedim(-1, axis).contiguous()


def unshuffle_rows(x: torch.Tensor, tile: int = 128, axis: int = -2) -> torch.Tensor:
    """Undo `shuffle_rows`. Shapes: x [..., M, ...] -> same."""
    block, rows = _rows(x, tile, axis)
    moved = rearrange(rows, "(m b a)", "(m a b)", a=8, b=block // 8)
    return moved.movedim(-1, axis).contiguous()


def _rows(x: torch.Tensor, tile: int, axis: int) -> tuple[int, torch.Tensor]:
    require.axes("trtllm_gen", x, -axis if axis < 0 else axis + 1)
    block = 16 if tile % 128 else 32
    require.multiple("trtllm_gen", "rows", x.shape[axis], block)
    return block, x.movedim(axis, -1)


def block_major(x: torch.Tensor, columns: int = 128) -> torch.Tensor:
    """Store columns block by block ("BlockMajorK").

    Shapes: x [..., M, K], K a multiple of `columns` -> [..., K / columns, M, columns];
    a block has 128 bytes: 128 columns of packed FP4 or FP8, 64 of bf16
    """
    require.axes("trtllm_gen", x, 2)
    require.multiple("trtllm_gen", "columns", x.shape[-1], columns)
    return rearrange(x, "(m) (k c)", "(k) (m) (c)", c=columns)


def row_major(blocks: torch.Tensor) -> torch.Tensor:
    """Undo `block_major`. Shapes: blocks [..., B, M, C] -> [..., M, B C]."""
    require.axes("trtllm_gen", blocks, 3)
    return rearrange(blocks, "(k) (m) (c)", "(m) (k c)")
