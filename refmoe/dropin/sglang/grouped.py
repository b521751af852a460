"""SGLang's grouped MXFP8 quantise and grouped GEMM for Blackwell, on any GPU.

Scales lie in the 128x4 layout, each expert's region padded to 128 rows.
"""

from __future__ import annotations

import torch

from oracle.blocks import preset
from oracle.params import Blocks
from refmoe.kernels.launchers.backends import grouped_gemm
from refmoe.kernels.launchers.grouped import (
    TILE_ROWS,
    grouped_quantize,
    linear_scales,
)

#: E4M3 in blocks of 32 whose E8M0 scale is amax / 448 rounded up.
FORMAT = preset("mxfp8_e4m3:cublas_te")


def es_sm100_mxfp8_blockscaled_grouped_quant(
    input: torch.Tensor,
    tokens_per_expert: torch.Tensor,
    expert_offsets: torch.Tensor,
    blockscale_offsets: torch.Tensor,
    quant_output: torch.Tensor,
    scale_factor: torch.Tensor,
) -> None:
    """Fill quant_output and scale_factor with the rows of `input`, sorted by expert.

    Shapes:
        input: bf16 or fp16 [T, K]; tokens_per_expert, expert_offsets: i32[E], the rows
        of each expert and where they start; blockscale_offsets: i32[E], the row of
        scale_factor where its region starts
        quant_output: e4m3[T, K]; scale_factor: u8[rows, K / 32 rounded up to 4]

    Raises ValueError and TypeError for tensors that do not fit.
    """
    offsets = _ends(expert_offsets, tokens_per_expert)
    starts = _ends(blockscale_offsets, tokens_per_expert)
    tiled = scale_factor.view(torch.uint8)
    made = grouped_quantize(
        input, offsets, FORMAT, layout="128x4", starts=starts, scales=tiled
    )
    if quant_output.shape != made.codes.shape or quant_output.element_size() != 1:
        raise ValueError(
            f"grouped_quant: quant_output is {quant_output.dtype}"
            f"{tuple(quant_output.shape)}; give e4m3 {tuple(made.codes.shape)}"
        )
    quant_output.view(torch.uint8).copy_(made.codes)


def es_sm100_mxfp8_blockscaled_moe_grouped_gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    sfa: torch.Tensor,
    sfb: torch.Tensor,
    expert_offsets: torch.Tensor,
    blockscale_offsets: torch.Tensor,
    tokens_per_expert: torch.Tensor,
    workspace: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Each expert's tokens times its weight: d[t] = b[t] a[e]^T, [T, M] of `dtype`.

    Shapes:
        a: e4m3[E, M, K], weights; sfa: u8[E, rows, K / 32 rounded up to 4], rows being
        M rounded up to 128; b: e4m3[T, K]; sfb and the offsets as `grouped_quant`
        leaves them; workspace is not used

    Raises ValueError and TypeError for tensors that do not fit.
    """
    experts, width, _ = a.shape
    offsets = _ends(expert_offsets, tokens_per_expert)
    starts = _ends(blockscale_offsets, tokens_per_expert)
    own = torch.arange(experts + 1, dtype=torch.int32, device=a.device)
    padded = -(-width // TILE_ROWS) * TILE_ROWS
    across = a.shape[2] // 32
    tiled = sfa.view(torch.uint8).reshape(experts * padded, -1)
    w_scales = linear_scales(tiled, own * width, own * padded, experts * width, across)
    x_scales = linear_scales(sfb.view(torch.uint8), offsets, starts, len(b), across)
    weights = Blocks(
        a.view(torch.uint8), w_scales.reshape(experts, width, across), FORMAT
    )
    x = Blocks(b.view(torch.uint8), x_scales, FORMAT)
    return grouped_gemm(x, weights, offsets, dtype=dtype)


def _ends(starts: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """[E] starts and the end of the last, i32[E + 1]."""
    return torch.cat((starts, starts[-1:] + counts[-1:])).int()
