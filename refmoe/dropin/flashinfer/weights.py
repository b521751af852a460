"""Weights and scales as FlashInfer has them, as the kernels take them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from oracle.blocks import preset
from oracle.params import Blocks
from oracle.spec import BlockFormat
from refmoe.kernels.launchers.formats import TYPES
from refmoe.kernels.launchers.operands import Matrix, Packed


def weights_of(
    dtype: torch.dtype, up: torch.Tensor, down: torch.Tensor,
    scales: list[torch.Tensor], grouped_fp4: bool, tiled_fp8: bool,
) -> tuple[tuple[Matrix, Matrix], str | BlockFormat]:  # fmt: skip
    """Both weights with their scales, and what x and the intermediate become.

    Shapes: up: [E, 2I, H], down: [E, H, I], two codes a byte if `grouped_fp4`; scales:
    see `cutlass_fused_moe`

    Raises NotImplementedError for kinds of weights without a kernel, ValueError for
    scales that do not go with them.
    """
    plain = TYPES.get(dtype)
    if plain is None:
        raise NotImplementedError(
            f"cutlass_fused_moe: input of {dtype} has no kernel here; give float32, "
            "float16 or bfloat16, which the modes quantise themselves"
        )
    if grouped_fp4 and tiled_fp8:
        raise ValueError(
            "cutlass_fused_moe: use_w4_group_scaling and use_deepseek_fp8_block_scale "
            "are two kinds of weights; set one of them"
        )
    mode, stored = "weights of input's type", dtype
    make: Callable[[torch.Tensor, torch.Tensor], Matrix] | None = None
    if grouped_fp4:
        mode, stored, make = "use_w4_group_scaling", torch.uint8, _interleaved
    elif tiled_fp8:
        mode, stored, make = "use_deepseek_fp8_block_scale", torch.float8_e4m3fn, _tiled
    elif up.dtype == torch.int8:
        mode, stored, make = "int8 weights", torch.int8, _channels
    if {up.dtype, down.dtype} != {stored}:
        raise NotImplementedError(
            f"cutlass_fused_moe: fc1 of {up.dtype} and fc2 of {down.dtype} have no "
            f"kernel here beside input of {dtype}; {mode} needs {stored}"
        )
    if len(scales) != (0 if make is None else 2):
        raise ValueError(
            f"cutlass_fused_moe: {mode} takes {0 if make is None else 2} quant_scales; "
            f"there are {len(scales)}"
        )
    if make is None:
        return (up, down), plain
    made = make(up, scales[0]), make(down, scales[1])
    return made, preset("fp8_group_128") if tiled_fp8 else plain


def _channels(weight: torch.Tensor, scales: torch.Tensor) -> Blocks:
    return Blocks(weight, scales[..., None].contiguous(), preset("int8_channel"))


def _tiled(weight: torch.Tensor, scales: torch.Tensor) -> Blocks:
    return Blocks(weight.view(torch.uint8), scales, preset("fp8_block_128"))


def _interleaved(weight: torch.Tensor, scales: torch.Tensor) -> Packed:
    """Interleaved codes; their folded scales, however their axes are grouped."""
    experts, rows, half = weight.shape
    if rows % 64 or half % 64:
        raise ValueError(
            f"cutlass_fused_moe: interleaved weights of {rows} x {2 * half} are no "
            "multiple of 64 x 128; pad them before they are interleaved"
        )
    folded = scales.contiguous().view(torch.uint8)
    if folded.numel() != weight.numel() // 16:
        raise ValueError(
            f"cutlass_fused_moe: quant_scales of {folded.numel()} bytes do not go with "
            f"interleaved weights of {weight.numel()}; give one for 32 codes, "
            f"{weight.numel() // 16}"
        )
    folded = folded.reshape(experts, rows // 64, half // 64, 16, 16)
    return Packed(weight.contiguous(), folded, preset("mxfp4"), "nibbles_sm90")
