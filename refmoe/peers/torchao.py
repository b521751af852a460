"""torchao's quantisers as a port: MXFP4, MXFP6 and MXFP8 under every rule, NVFP4.

Codes come back one to a byte, scales as bytes. Where torchao leaves the format on some
kind of input (zeros under a global scale, infinity), the port refuses that by name:
`tests/peers/test_torchao_port.py` holds what it does there.
"""

from __future__ import annotations

from typing import Any

import torch

from oracle.blocks import preset
from oracle.numerics import Numerics
from oracle.params import Blocks
from oracle.spec import BlockFormat
from refmoe.peers.require import require

name = "torchao"
device = "cpu"
numerics = Numerics()

_ELEMENTS = ("e2m1", "e2m3", "e3m2", "e4m3", "e5m2")
_RULES = ("floor", "ceil", "even", "rceil")


def supports(case: Any) -> bool | str:
    """Only formats that torchao has, blocks filled to the end."""
    if case.op not in ("quantize", "dequantize"):
        return True
    format = preset(case.format)
    reason = _unsupported(format)
    width = format.block[1]
    if reason is None and case.layer.hidden % width:
        reason = f"H={case.layer.hidden}; torchao needs a multiple of {width}"
    if reason is None and case.op == "dequantize" and format.global_scale:
        reason = "torchao multiplies both scales in fp32 first, which rounds twice"
    if reason is None and format.scale == "e4m3" and case.T == 0:
        reason = "T=0; torchao's NVFP4 cannot reshape a tensor without rows"
    return reason or True


def quantize(x: torch.Tensor, format: BlockFormat) -> tuple[torch.Tensor, ...]:
    """Codes and scales of x [..., K], and the global scale where the format has one.

    Raises ValueError for formats that torchao lacks, for infinities (an MX block of
    which gets a finite scale), and for an all-zero tensor under a global scale.
    """
    reason = _unsupported(format)
    if reason is not None:
        raise ValueError(f"torchao does not support {format.name}: {reason}")
    if format.scale != "e4m3" and bool(x.isinf().any()):
        raise ValueError(
            "torchao gives a block with an infinity the scale of 2^128, where the "
            "format makes it NaN; give finite numbers and NaN"
        )
    return _nvfp4(x, format) if format.scale == "e4m3" else _mx(x, format)


def dequantize(blocks: Blocks) -> torch.Tensor:
    """The values f32[..., K] that MX blocks stand for."""
    reason = _unsupported(blocks.format)
    if reason is not None or blocks.format.scale != "e8m0":
        raise ValueError(f"torchao does not dequantise {blocks.format.name}: {reason}")
    element = blocks.format.element
    codes = blocks.codes.contiguous()
    pack = _module("kernels").pack_uint4
    data = pack(codes) if element == "e2m1" else codes
    if element in ("e4m3", "e5m2"):
        data = data.view(_dtype(element))
    values: torch.Tensor = _module("mx_tensor").to_dtype(
        data, blocks.scales, _dtype(element), blocks.format.block[1], torch.float32
    )
    return values


def _unsupported(format: BlockFormat) -> str | None:
    rows, _ = format.block
    if rows != 1 or format.element not in _ELEMENTS:
        return f"it has no {format.element} codes in blocks of {format.block}"
    plain = (
        format.rounding == "nearest_even" and format.keep_negative_zero
        and not format.minimum_byte and not format.amax_floor
        and format.zero_scale is None and format.maximum is None
        and format.nonfinite != "saturate"
    )  # fmt: skip
    if not plain:
        return "it rounds to nearest even and has no floors"
    if format.scale == "e4m3":
        fits = format.element == "e2m1" and format.recipe == "torchao"
        return None if fits else "its NVFP4 orders operations by the recipe 'torchao'"
    if format.scale != "e8m0" or format.scale_rule not in _RULES:
        return f"it has no {format.scale_rule} {format.scale} scales here"
    return None


def _mx(x: torch.Tensor, format: BlockFormat) -> tuple[torch.Tensor, torch.Tensor]:
    mode = _module("config").ScaleCalculationMode[format.scale_rule.upper()]
    width = format.block[1]
    element = _dtype(format.element)
    scales, data = _module("mx_tensor").to_mx(x.contiguous(), element, width, mode)
    scales = scales.view(torch.uint8)
    codes = data.view(torch.uint8)
    if format.element == "e2m1":
        codes = _module("kernels").unpack_uint4(data)
    return codes, scales


def _nvfp4(x: torch.Tensor, format: BlockFormat) -> tuple[torch.Tensor, ...]:
    nvfp4 = _module("nvfp4_tensor")
    width = format.block[1]
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    whole = None
    if format.global_scale:
        amax = rows.abs().amax() if rows.numel() else rows.new_zeros(())
        if amax == 0:
            raise ValueError(
                "an all-zero tensor has the global scale 0 in torchao, and NaN codes; "
                "give one non-zero value"
            )
        whole = nvfp4.per_tensor_amax_to_scale(amax)
    scales, data = nvfp4.nvfp4_quantize(rows, width, whole)
    codes = _module("kernels").unpack_uint4(data).view(x.shape)
    scales = scales.view(torch.uint8).view(*x.shape[:-1], x.shape[-1] // width)
    return (codes, scales) if whole is None else (codes, scales, whole)


def _module(name: str) -> Any:
    return require(f"torchao.prototype.mx_formats.{name}", "peers")


def _dtype(element: str) -> Any:
    """torchao's name of an element type."""
    constants = _module("constants")
    return {
        "e2m1": torch.float4_e2m1fn_x2,
        "e2m3": constants.DTYPE_FP6_E2M3,
        "e3m2": constants.DTYPE_FP6_E3M2,
        "e4m3": torch.float8_e4m3fn,
        "e5m2": torch.float8_e5m2,
    }[element]
