"""Containers of 4-bit integer weights: compressed-tensors, GPTQ, AWQ.

All hold eight unsigned nibbles in an int32, the first in the lowest bits. Signed codes
of -8 to 7 are stored plus 8 (`excess_8`).
"""

from __future__ import annotations

import torch

from oracle.layouts import nibbles, require
from oracle.layouts.bits import reinterpret
from oracle.layouts.edges import cut, extend, raised
from oracle.layouts.rearrange import rearrange


def excess_8(codes: torch.Tensor) -> torch.Tensor:
    """Signed codes plus 8. Shapes: codes i8[...] of -8 to 7 -> u8[...] of 0 to 15.

    Raises ValueError for a code outside -8 to 7.
    """
    require.dtype("excess_8", codes, torch.int8)
    bad = (codes < -8) | (codes > 7)
    if bool(bad.any()):
        raise ValueError(f"excess_8: code {int(codes[bad][0])} is outside -8 to 7")
    return (codes + 8).view(torch.uint8)


def from_excess_8(stored: torch.Tensor) -> torch.Tensor:
    """Undo `excess_8`. Shapes: stored u8[...] of 0 to 15 -> i8[...] of -8 to 7."""
    require.dtype("from_excess_8", stored, torch.uint8)
    return stored.view(torch.int8) - 8


def pack_compressed_tensors(codes: torch.Tensor) -> torch.Tensor:
    """compressed-tensors "pack-quantized": eight codes along K in a word.

    Shapes: codes u8[..., N, K] -> i32[..., N, ceil(K / 8)], the last word filled with 0
    """
    require.dtype("int4", codes, torch.uint8)
    return _words(extend("int4", codes, 1, 8))


def unpack_compressed_tensors(words: torch.Tensor, columns: int) -> torch.Tensor:
    """Undo `pack_compressed_tensors`.

    Shapes: words i32[..., N, ceil(columns / 8)] -> codes u8[..., N, columns]
    """
    codes = _nibbles(words)
    require.size("int4", "codes per row", codes.shape[-1], raised(columns, 8))
    return cut(codes, codes.shape[-2], columns)


def pack_gptq(codes: torch.Tensor) -> torch.Tensor:
    """GPTQ qweight: eight codes along K in a word, K leading.

    Shapes: codes u8[..., N, K] -> i32[..., K / 8, N]; K a multiple of 8
    """
    require.axes("int4", codes, 2)
    require.multiple("int4", "columns", codes.shape[-1], 8)
    return _words(codes).mT.contiguous()


def unpack_gptq(words: torch.Tensor) -> torch.Tensor:
    """Undo `pack_gptq`. Shapes: words i32[..., K / 8, N] -> codes u8[..., N, K]."""
    return _nibbles(words.mT)


def pack_gptq_zeros(zeros: torch.Tensor) -> torch.Tensor:
    """GPTQ qzeros, version 1: zero points minus 1 (mod 16), eight along N in a word.

    Shapes: zeros u8[..., N, G] of 0 to 15 -> i32[..., G, N / 8]; N a multiple of 8
    """
    require.axes("int4", zeros, 2)
    require.multiple("int4", "rows", zeros.shape[-2], 8)
    require.dtype("int4", zeros, torch.uint8)
    return _words((zeros.mT + 15) & 15)


def unpack_gptq_zeros(words: torch.Tensor) -> torch.Tensor:
    """Undo `pack_gptq_zeros`. Shapes: words i32[..., G, N / 8] -> u8[..., N, G]."""
    return ((_nibbles(words) + 1) & 15).mT.contiguous()


def pack_awq(codes: torch.Tensor) -> torch.Tensor:
    """AWQ qweight (and, of zero points, qzeros): eight codes along N in a word.

    Shapes: codes u8[..., N, K] -> i32[..., K, N / 8]; N a multiple of 8

    The nibbles of a word, lowest first, are its rows 0, 2, 4, 6, 1, 3, 5, 7.
    """
    require.axes("int4", codes, 2)
    require.multiple("int4", "rows", codes.shape[-2], 8)
    ordered = rearrange(codes, "(n a b) (k)", "(k) (n b a)", a=4, b=2)
    return _words(ordered)


def unpack_awq(words: torch.Tensor) -> torch.Tensor:
    """Undo `pack_awq`. Shapes: words i32[..., K, N / 8] -> codes u8[..., N, K]."""
    return rearrange(_nibbles(words), "(k) (n b a)", "(n a b) (k)", a=4, b=2)


def _words(codes: torch.Tensor) -> torch.Tensor:
    return reinterpret(nibbles.pack(codes), torch.int32)


def _nibbles(words: torch.Tensor) -> torch.Tensor:
    require.dtype("int4", words, torch.int32)
    require.axes("int4", words, 2)
    return nibbles.unpack(reinterpret(words, torch.uint8))
