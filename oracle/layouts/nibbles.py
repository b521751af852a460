"""Two 4-bit codes in a byte."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from oracle.layouts import require
from oracle.spec import choose

NibbleOrder = Literal["low_first", "high_first"]


def pack(codes: torch.Tensor, order: NibbleOrder = "low_first") -> torch.Tensor:
    """Pack codes 2i and 2i + 1 into byte i; "low_first": code 2i in the low nibble.

    Shapes: codes u8[..., K] of 0 to 15 -> u8[..., K / 2]

    low_first: OCP MX producers, GPT-OSS, DeepSeek-V4, cuBLAS, Triton, CUTLASS.
    Raises ValueError for an odd K or a code above 15, TypeError for other dtypes
    (signed INT4 codes: see `oracle.layouts.int4.excess_8`).

    >>> [hex(b) for b in pack(torch.tensor([1, 2, 15, 0], dtype=torch.uint8)).tolist()]
    ['0x21', '0xf']
    """
    choose("pack", "order", order, get_args(NibbleOrder))
    require.dtype("pack", codes, torch.uint8)
    require.axes("pack", codes, 1)
    require.multiple("pack", "codes", codes.shape[-1], 2)
    if codes.numel() and int(codes.max()) > 15:
        raise ValueError(
            f"pack: code {int(codes.max())} needs more than 4 bits; give 0 to 15"
        )
    first, second = codes[..., 0::2], codes[..., 1::2]
    low, high = (first, second) if order == "low_first" else (second, first)
    return low | (high << 4)


def unpack(packed: torch.Tensor, order: NibbleOrder = "low_first") -> torch.Tensor:
    """Undo `pack`.

    Shapes: packed u8[..., B] -> codes u8[..., 2 B]
    """
    choose("unpack", "order", order, get_args(NibbleOrder))
    require.dtype("unpack", packed, torch.uint8)
    require.axes("unpack", packed, 1)
    low, high = packed & 15, packed >> 4
    pair = (low, high) if order == "low_first" else (high, low)
    return torch.stack(pair, dim=-1).flatten(-2)
