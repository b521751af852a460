"""Weights and scales of TensorRT-LLM's mixed-input MoE GEMM on Hopper.

FlashInfer calls them interleave_moe_weights_for_sm90_mixed_gemm and
interleave_moe_scales_for_sm90_mixed_gemm; `cutlass_fused_moe` takes nothing else for
W4A16 (MXFP4) and W4A8 (INT4, MXFP4) weights.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from oracle.layouts import bits, require
from oracle.layouts.rearrange import rearrange
from oracle.spec import choose

MixedKind = Literal["fp4", "fp4_fp8", "int4"]

#: Rows: 8 h + r of a tile of 16. Bytes: 32 p + the rest. A word of the target holds the
#: bytes of rows r and r + 8 that one thread feeds to two matrix instructions.
_SOURCE: dict[str, str] = {
    "fp4": "(t h r) (p a b z q)",
    "int4": "(t h r) (p a b q u)",
}
_TARGET: dict[str, str] = {
    "fp4": "(t b r) (p a q z h)",
    "int4": "(t b r) (p a q h u)",
}
_SIZES: dict[str, dict[str, int]] = {
    "fp4": {"h": 2, "r": 8, "a": 2, "b": 2, "z": 2, "q": 4},
    "int4": {"h": 2, "r": 8, "a": 2, "b": 2, "q": 4, "u": 2},
}
_FIELDS: dict[str, tuple[bits.Field, ...] | None] = {
    "fp4": bits.FP4_FOR_BF16, "fp4_fp8": bits.FP4_FOR_FP8, "int4": None
}  # fmt: skip


def interleave_weights(packed: torch.Tensor, kind: MixedKind = "fp4") -> torch.Tensor:
    """Interleave packed 4-bit weights, two codes a byte, the low nibble first.

    Shapes: packed u8[..., N, K / 2] -> same; N a multiple of 16, K of 64

    fp4: bytes (r, c), (r + 8, c), (r, c + 4), (r + 8, c + 4), r in the lower half of a
    tile of 16 rows and c = 32 p + 8 m + q, form a little-endian word; its bits move as
    `bits.FP4_FOR_BF16` says; it stands at row r + 8 (m % 2), byte 32 p + 16 (m // 2)
    + 4 q. int4: the 16-bit units l of rows r and r + 8 (unit 16 p + l) stand side by
    side at row r + 8 (l % 8 // 4), unit 16 p + 8 (l // 8) + 2 (l % 4). fp4_fp8: as
    int4, with `bits.FP4_FOR_FP8` on each such pair of units.
    Raises ValueError for other shapes or kinds.
    """
    moved = _permute(packed, kind, _SOURCE, _TARGET)
    fields = _FIELDS[kind]
    return moved if fields is None else bits.move(moved, fields)


def deinterleave_weights(
    interleaved: torch.Tensor, kind: MixedKind = "fp4"
) -> torch.Tensor:
    """Undo `interleave_weights`. Shapes: interleaved u8[..., N, K / 2] -> same."""
    choose("sm90_mixed", "kind", kind, get_args(MixedKind))
    fields = _FIELDS[kind]
    if fields is not None:
        interleaved = bits.move(interleaved, bits.inverse(fields))
    return _permute(interleaved, kind, _TARGET, _SOURCE)


def _permute(
    x: torch.Tensor, kind: MixedKind, source: dict[str, str], target: dict[str, str]
) -> torch.Tensor:
    choose("sm90_mixed", "kind", kind, get_args(MixedKind))
    require.dtype("sm90_mixed", x, torch.uint8)
    require.axes("sm90_mixed", x, 2)
    require.multiple("sm90_mixed", "rows", x.shape[-2], 16)
    require.multiple("sm90_mixed", "bytes per row (K / 2)", x.shape[-1], 32)
    moves = "fp4" if kind == "fp4" else "int4"
    return rearrange(x, source[moves], target[moves], **_SIZES[moves])


def interleave_scales(scales: torch.Tensor, group: int = 32) -> torch.Tensor:
    """Fold the scales of every 64 rows by 128 columns of weights into runs of 16 bytes.

    Shapes: scales [..., N, K / group] of u8 (MXFP4: group 32) or a 2-byte type (INT4:
    group 128) -> [..., N / 64, K / 128, F, C]; C elements fill 16 bytes, F = 64 / (C
    group / 128); N a multiple of 64, K of 128

    MXFP4: out[n // 64, k // 4, n % 16, n % 64 // 16 * 4 + k % 4] = scales[n, k].
    """
    slices, groups = _fold("interleave_scales", scales, group)
    require.axes("interleave_scales", scales, 2)
    require.multiple("interleave_scales", "rows", scales.shape[-2], 64)
    require.multiple("interleave_scales", "scale columns", scales.shape[-1], groups)
    return rearrange(
        scales, "(n s f) (k g)", "(n) (k) (f) (s g)", s=slices, f=64 // slices, g=groups
    )


def deinterleave_scales(folded: torch.Tensor, group: int = 32) -> torch.Tensor:
    """Undo `interleave_scales`.

    Shapes: folded [..., N / 64, K / 128, F, C] -> [..., N, K / group]
    """
    slices, groups = _fold("deinterleave_scales", folded, group)
    require.axes("deinterleave_scales", folded, 4)
    return rearrange(
        folded, "(n) (k) (f) (s g)", "(n s f) (k g)", s=slices, f=64 // slices, g=groups
    )


def _fold(layout: str, scales: torch.Tensor, group: int) -> tuple[int, int]:
    """How many slices of the 64 rows, and scale columns of the 128, share 16 bytes."""
    choose(layout, "bytes per scale", scales.element_size(), (1, 2))
    columns = 16 // scales.element_size()
    allowed = tuple(g for g in (16, 32, 64, 128) if 128 // g <= columns)
    choose(layout, "group", group, allowed)
    return columns * group // 128, 128 // group
