"""PyTorch's own grouped GEMM and FP8 casts as a port."""

from __future__ import annotations

from typing import Any

import torch

from oracle.blocks import preset
from oracle.numerics import Numerics
from oracle.params import Blocks
from oracle.spec import BlockFormat
from refmoe.supports import Supports

name = "torch"
version = torch.__version__
device = "cpu"
#: Sums in fp32, rounded once to the type of the operands. CPUs that multiply bf16
#: themselves (AVX512-BF16) take subnormal operands and results as zero.
numerics = Numerics(subnormals="flush")

#: Rows past the last offset are never written, and columns must lie together.
_TAKES = Supports(
    memory=("contiguous", "strided", "offset"), slots=("all", "some", "twice")
)
_CASTS = {
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "int8": torch.int8,
}
_SCALES = {"e8m0": torch.float8_e8m0fnu, "e4m3": torch.float8_e4m3fn}


def supports(case: Any) -> bool | str:
    """Rows of whole 16-byte words; FP8 and INT8 elements."""
    if case.op == "dequantize":
        return _unsupported(preset(case.format)) or True
    reason = _TAKES.reason(case)
    if reason is not None:
        return reason
    layer = case.layer
    size = {"bf16": 2, "fp16": 2, "fp32": 4}.get(layer.dtype)
    if size is None or not isinstance(layer.weights, str):
        return f"weights={layer.weights}; torch has plain fp32, bf16 and fp16 here"
    if layer.weights != layer.dtype:
        return f"weights={layer.weights!r}; torch wants both operands of one type"
    for axis in (layer.hidden, layer.intermediate):
        if axis * size % 16:
            return f"rows of {axis * size} bytes; torch wants a multiple of 16"
    return True


def grouped_gemm(
    x: torch.Tensor, weights: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """Each expert's rows times its weight, transposed; rows past the last offset are
    whatever the memory held.

    Shapes: x [R, K]; weights [E, N, K]; offsets i[E + 1] -> [R, N]
    """
    ends = offsets[1:].to(torch.int32)
    run = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm
    out: torch.Tensor = run(x, weights.mT, offs=ends)
    return out


def dequantize(blocks: Blocks) -> torch.Tensor:
    """code * scale [* global scale] by torch's casts to fp32: f32[..., K]."""
    reason = _unsupported(blocks.format)
    if reason is not None:
        raise ValueError(f"torch does not dequantise {blocks.format.name}: {reason}")
    element, scale = blocks.format.element, blocks.format.scale
    cast = _CASTS[element]

    values = blocks.codes.view(cast).float()
    scales = blocks.scales
    if scale in _SCALES:
        scales = scales.view(_SCALES[scale])
    scales = scales.float()
    for axis, size in zip((-2, -1), blocks.format.block, strict=True):
        length = values.shape[axis]
        scales = scales.repeat_interleave(size or length, axis)
        scales = scales.narrow(axis, 0, length)
    return values * scales


def _unsupported(format: BlockFormat) -> str | None:
    if _CASTS.get(format.element) is None:
        return f"torch casts no {format.element}"
    if format.global_scale:
        return "two scales round twice"
    return None
