"""Every layout by name, so that a port can declare what its tensors look like."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from oracle.layouts import (
    deep_gemm,
    gate_up,
    hopper,
    int4,
    marlin,
    nibbles,
    s0e5m3,
    scale_tiles,
    sm90_mixed,
    trtllm_gen,
)

#: codes: u8[..., N, K], 4-bit codes of 0 to 15, one a byte. packed: u8[..., N, K / 2],
#: two codes a byte, low nibble first. scales: [..., N, K / block]. rows: any dtype.
Takes = Literal["codes", "packed", "scales", "rows"]
Function = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class Layout:
    """A bijection of one kind of tensor: ``inverse(forward(x), x.shape)`` equals x.

    `multiple` is what the last two axes of x must be multiples of, at the default
    options. Both functions take the family's options as keywords (``tile=64``).
    """

    name: str
    takes: Takes
    forward: Function
    inverse: Function
    multiple: tuple[int, int]
    used_by: str


def get(name: str) -> Layout:
    """The layout called `name`; ValueError names the nearest ones if there is none.

    >>> get("sm90_fp4").multiple
    (16, 32)
    """
    if name in LAYOUTS:
        return LAYOUTS[name]
    near = difflib.get_close_matches(name, LAYOUTS, n=3, cutoff=0.4) or list(LAYOUTS)
    raise ValueError(f"layout {name!r} is unknown; did you mean {', '.join(near)}?")


def _alone(inverse: Function) -> Function:
    """An inverse that needs no shape."""
    return lambda y, shape, **options: inverse(y, **options)


def _sized(inverse: Function) -> Function:
    """An inverse that needs the rows and columns, and no padding byte."""
    return lambda y, shape, pad=0, **options: inverse(y, *shape[-2:], **options)


def _wide(inverse: Function) -> Function:
    """An inverse that needs the columns, and no padding byte."""
    return lambda y, shape, pad=0, **options: inverse(y, columns=shape[-1], **options)


def _rows(order: gate_up.GateUpOrder, run: int, used_by: str) -> Layout:
    forward = partial(gate_up.arrange, order=order)
    inverse = _alone(partial(gate_up.canonical, order=order))
    return Layout(order, "rows", forward, inverse, (2 * run, 1), used_by)


def _mixed(kind: sm90_mixed.MixedKind, used_by: str) -> Layout:
    forward = partial(sm90_mixed.interleave_weights, kind=kind)
    inverse = _alone(partial(sm90_mixed.deinterleave_weights, kind=kind))
    return Layout(f"sm90_{kind}", "packed", forward, inverse, (16, 32), used_by)


def _nibbles(order: nibbles.NibbleOrder, used_by: str) -> Layout:
    forward = partial(nibbles.pack, order=order)
    inverse = _alone(partial(nibbles.unpack, order=order))
    return Layout(f"nibbles_{order}", "codes", forward, inverse, (1, 2), used_by)


def _nvfp4_scales(scales: torch.Tensor, rescale: int = 0) -> torch.Tensor:
    return marlin.permute_scales(s0e5m3.encode(scales, rescale))


def _e4m3_scales(permuted: torch.Tensor, rescale: int = 0) -> torch.Tensor:
    return s0e5m3.decode(marlin.restore_scales(permuted), rescale)


#: No rule: the layout pads.
_ANY = (1, 1)

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        _nibbles("low_first", "every MXFP4 and NVFP4 producer read so far"),
        _nibbles("high_first", "none known: the mistake to tell from low_first"),
        _rows("gate_up", 1, "canonical; vLLM, DeepGEMM, transformers"),
        _rows("up_gate", 1, "TensorRT-LLM and FlashInfer CUTLASS"),
        _rows("interleaved", 1, "GPT-OSS checkpoints, triton_kernels"),
        _rows("interleaved_up_gate", 1, "trtllm-gen, before the row shuffle"),
        _rows("groups_8", 8, "DeepGEMM mega MoE"),
        _rows("groups_64", 64, "FlashInfer CuteDSL"),
        Layout(
            "scales_128x4", "scales",
            scale_tiles.swizzle_128x4, _sized(scale_tiles.unswizzle_128x4),
            _ANY, "cuBLAS, CUTLASS, FlashInfer, torchao; triton_kernels on Blackwell",
        ),
        Layout(
            "scales_8x4", "scales",
            scale_tiles.swizzle_8x4, _sized(scale_tiles.unswizzle_8x4),
            _ANY, "FlashInfer for few tokens",
        ),
        Layout(
            "scales_128x4_grouped", "scales",
            scale_tiles.swizzle_grouped, _wide(scale_tiles.unswizzle_grouped),
            _ANY, "grouped quantise of SGLang, vLLM and CUTLASS",
        ),
        _mixed("fp4", "FlashInfer cutlass_fused_moe, sm_90: MXFP4 weights, bf16 x"),
        _mixed("fp4_fp8", "FlashInfer cutlass_fused_moe, sm_90: MXFP4 weights, FP8 x"),
        _mixed("int4", "FlashInfer cutlass_fused_moe, sm_90: INT4 weights, FP8 x"),
        Layout(
            "sm90_scales", "scales",
            sm90_mixed.interleave_scales, _alone(sm90_mixed.deinterleave_scales),
            (64, 4), "FlashInfer cutlass_fused_moe, sm_90",
        ),
        Layout(
            "hopper_values", "packed",
            hopper.swizzle_values, _sized(hopper.unswizzle_values),
            _ANY, "triton_kernels on sm_90 (mma=3) and sm_80 (mma=2)",
        ),
        Layout(
            "hopper_scales", "scales",
            hopper.swizzle_scales, _sized(hopper.unswizzle_scales),
            _ANY, "triton_kernels on sm_90",
        ),
        Layout(
            "marlin_weights", "codes",
            marlin.pack_weights, _alone(marlin.unpack_weights),
            (64, 32), "Marlin, in vLLM and SGLang: FP4 and INT4 weights",
        ),
        Layout(
            "marlin_scales", "scales",
            marlin.permute_scales, _alone(marlin.restore_scales),
            (64, 2), "Marlin: MXFP4 scales",
        ),
        Layout(
            "marlin_nvfp4_scales", "scales",
            _nvfp4_scales, _alone(_e4m3_scales),
            (64, 2), "Marlin: NVFP4 scales, as S0E5M3",
        ),
        Layout(
            "marlin_bias", "rows",
            marlin.permute_bias, _alone(marlin.restore_bias),
            (1, 32), "Marlin: bias along its last axis",
        ),
        Layout(
            "deep_gemm_sm90_scales", "scales",
            deep_gemm.mn_major_scales,
            lambda y, shape, pad=0: deep_gemm.k_major_scales(y, shape[-2]),
            _ANY, "DeepGEMM on sm_90: fp32 scales, MN-major and aligned for TMA",
        ),
        Layout(
            "deep_gemm_sm100_scales", "scales",
            deep_gemm.pack_scales, _sized(deep_gemm.unpack_scales),
            _ANY, "DeepGEMM on sm_100: E8M0 scales",
        ),
        Layout(
            "deep_gemm_utccp_scales", "scales",
            lambda x: deep_gemm.transpose_for_utccp(deep_gemm.pack_scales(x)),
            lambda y, shape: deep_gemm.unpack_scales(
                deep_gemm.transpose_from_utccp(y), shape[-2], shape[-1]
            ),
            (128, 1), "DeepGEMM mega MoE: the weights' E8M0 scales",
        ),
        Layout(
            "int4_compressed_tensors", "codes",
            int4.pack_compressed_tensors, _wide(int4.unpack_compressed_tensors),
            _ANY, "compressed-tensors pack-quantized checkpoints",
        ),
        Layout(
            "int4_gptq", "codes",
            int4.pack_gptq, _alone(int4.unpack_gptq), (1, 8), "GPTQ checkpoints",
        ),
        Layout(
            "int4_gptq_zeros", "codes",
            int4.pack_gptq_zeros, _alone(int4.unpack_gptq_zeros),
            (8, 1), "GPTQ checkpoints: zero points",
        ),
        Layout(
            "int4_awq", "codes",
            int4.pack_awq, _alone(int4.unpack_awq), (8, 1), "AWQ checkpoints",
        ),
        Layout(
            "trtllm_gen_rows", "rows",
            trtllm_gen.shuffle_rows, _alone(trtllm_gen.unshuffle_rows),
            (32, 1), "trtllm-gen weights, scales and biases",
        ),
        Layout(
            "trtllm_gen_block_major", "rows",
            trtllm_gen.block_major,
            lambda y, shape, columns=128: trtllm_gen.row_major(y),
            (1, 128), "trtllm-gen weights, BlockMajorK",
        ),
    )
}  # fmt: skip
