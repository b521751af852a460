"""DeepGEMM's layouts of block scales: rows fastest (MN-major), aligned for TMA."""

from __future__ import annotations

import torch

from oracle.layouts import require
from oracle.layouts.bits import reinterpret
from oracle.layouts.edges import cut, extend, raised
from oracle.layouts.rearrange import rearrange


def mn_major_scales(scales: torch.Tensor, pad: float = 0) -> torch.Tensor:
    """SM90: scales with rows fastest, their number raised to fill 16 bytes.

    Shapes: scales f32[..., M, K] -> f32[..., K, Mp], Mp a multiple of 4 (of 16 / b
    where an element has b bytes)

    DeepGEMM takes the view ``.mT[..., :M, :]`` of it, of strides (1, Mp).
    """
    aligned = 16 // scales.element_size()
    return extend("deep_gemm", scales, aligned, 1, pad).mT.contiguous()


def k_major_scales(stored: torch.Tensor, rows: int) -> torch.Tensor:
    """Undo `mn_major_scales`. Shapes: stored f32[..., K, Mp] -> f32[..., rows, K]."""
    return _rows(stored, rows, 16 // stored.element_size())


def pack_scales(scales: torch.Tensor, pad: int = 0) -> torch.Tensor:
    """SM100: four E8M0 scales along K in a word, rows fastest and a multiple of 4.

    Shapes: scales u8[..., M, K] -> i32[..., ceil(K / 4), Mp]

    Byte j, lowest first, of word [i, m] is scale (m, 4 i + j), or `pad` past the edges.
    DeepGEMM takes the view ``.mT[..., :M, :]`` of it, of strides (1, Mp).
    """
    require.dtype("deep_gemm", scales, torch.uint8)
    padded = extend("deep_gemm", scales, 4, 4, pad)
    return reinterpret(padded, torch.int32).mT.contiguous()


def unpack_scales(stored: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Undo `pack_scales`.

    Shapes: stored i32[..., ceil(columns / 4), Mp] -> u8[..., rows, columns]
    """
    require.dtype("deep_gemm", stored, torch.int32)
    require.axes("deep_gemm", stored, 2)
    require.size("deep_gemm", "stored words", stored.shape[-2], -(-columns // 4))
    return cut(reinterpret(_rows(stored, rows, 4), torch.uint8), rows, columns)


def transpose_for_utccp(stored: torch.Tensor) -> torch.Tensor:
    """Within every 128 rows of packed scales, row 32 c + l moves to 4 l + c.

    Shapes: stored i32[..., K / 4, M], M a multiple of 128 -> same

    What tensor memory's copy instruction (UTCCP, 32 x 128 bits) expects: DeepGEMM's
    mega MoE asks for it in the weights' scales.
    """
    require.dtype("deep_gemm", stored, torch.int32)
    require.axes("deep_gemm", stored, 1)
    require.multiple("deep_gemm", "rows", stored.shape[-1], 128)
    return rearrange(stored, "(m c l)", "(m l c)", c=4, l=32)


def transpose_from_utccp(stored: torch.Tensor) -> torch.Tensor:
    """Undo `transpose_for_utccp`. Shapes: stored i32[..., K / 4, M] -> same."""
    require.dtype("deep_gemm", stored, torch.int32)
    require.axes("deep_gemm", stored, 1)
    require.multiple("deep_gemm", "rows", stored.shape[-1], 128)
    return rearrange(stored, "(m l c)", "(m c l)", c=4, l=32)


def _rows(stored: torch.Tensor, rows: int, aligned: int) -> torch.Tensor:
    require.axes("deep_gemm", stored, 2)
    require.size("deep_gemm", "stored rows", stored.shape[-1], raised(rows, aligned))
    return stored.mT[..., :rows, :].contiguous()
