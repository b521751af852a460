"""NVFP4: E2M1 codes under E4M3 block scales under one fp32 scale of the tensor.

With A = amax of the tensor, a = amax of the block, and every operation rounded to fp32,
`encode` = 2688 / A (6 * 448 = 2688) maps the tensor into range and `decode` undoes it.
Implementations agree on that much; each `recipe` orders the operations differently, and
the last bit of a product moves codes and block scales:

========== ============================== ============================ ================
recipe     block scale s, before E4M3     x meets                      block with s = 0
========== ============================== ============================ ================
paper      (a / 6) encode                 x (1 / (s decode))           codes 0
te         a (encode (1 / 6))             x (1 / (s decode))           largest code
flashinfer encode (a (1 / 6))             x (1 / (s decode))           codes 0
torchao    (a / 6) / decode, >= 2^-6      x ((1 / decode) / s)         cannot be
modelopt   a / (6 decode), >= 2^-9        x / (s decode)               cannot be
========== ============================== ============================ ================

torchao and modelopt define decode = A / 2688; the others 1 / encode. Sources: arXiv
2509.25149, appendix B (paper); the reference quantisers of Transformer Engine,
FlashInfer and vLLM (one recipe), torchao and Model Optimizer.

What x meets is held to fp32's largest number, except under torchao, where it may be
infinite (decode <= 2^-128, or little above it under a small s): then every x but zero
has the largest code. There torchao's own zeros become NaN, whose code depends on the
processor; here they stay zeros. Under modelopt s decode may underflow to zero: then
every x has the largest code, and zeros, NaN again, the positive one on any processor.
`decode` itself is held to 2^-149; Model Optimizer's own becomes zero, its scales NaN.
"""

from __future__ import annotations

import torch

from oracle.blocks.whole import FP32_MAX, Whole, fp32
from oracle.formats import decode as decode_element
from oracle.formats import encode as encode_element
from oracle.formats import get
from oracle.spec import BlockFormat

_LEAST_SCALE = {"torchao": 2.0**-6, "modelopt": 2.0**-9}


def block_bytes(amax: torch.Tensor, whole: Whole, format: BlockFormat) -> torch.Tensor:
    """E4M3 byte of each block's scale, saturated to 448.

    Shapes: amax f64[G, C]; whole f64[G, 1] -> u8[G, C]
    """
    six = amax.new_tensor(format.maximum or get(format.element).maximum)
    if format.recipe == "te":
        scale = fp32(amax * fp32(whole.encode * fp32(1 / six)))
    elif format.recipe == "flashinfer":
        scale = fp32(whole.encode * fp32(amax * fp32(1 / six)))
    elif format.recipe == "torchao":
        scale = fp32(fp32(amax / six) / whole.decode)
    elif format.recipe == "modelopt":
        scale = fp32(amax / fp32(six * whole.decode))
    else:
        scale = fp32(fp32(amax / six) * whole.encode)
    least = _LEAST_SCALE.get(format.recipe)
    if least is not None:
        scale = scale.clamp(min=least)
    return encode_element(scale, "e4m3")


def block_operand(
    stored: torch.Tensor, whole: Whole, format: BlockFormat
) -> torch.Tensor:
    """What x is multiplied by (``modelopt``: divided by) under each block scale."""
    scale = decode_element(stored, "e4m3")
    if format.recipe == "torchao":
        operand = fp32(fp32(1 / whole.decode) / scale)
    else:
        operand = fp32(scale * whole.decode)
        if multiplies(format):
            operand = fp32(1 / operand).clamp(max=FP32_MAX)
    if format.recipe == "te":
        return operand
    nothing = 0.0 if multiplies(format) else torch.inf
    return operand.masked_fill(scale == 0, nothing)


def multiplies(format: BlockFormat) -> bool:
    """Whether x is multiplied by the operand, not divided by it."""
    return format.recipe != "modelopt"
