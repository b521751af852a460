"""What the GEMMs see: x and the intermediate in the layer's block formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from oracle import bounds
from oracle.blocks import dequantize, quantize_tap
from oracle.params import Blocks
from oracle.spec import BlockFormat
from oracle.trace import Tap


def operand(
    name: str,
    values: Tap | None,
    format: BlockFormat,
    scale: torch.Tensor | None,
    given: Mapping[str, torch.Tensor],
) -> tuple[Tap, dict[str, Tap]]:
    """Values quantised to a block format and back, and the taps of their bytes.

    Shapes: values [R, K], or None where the bytes are given; scale f32[], a calibrated
    per-tensor scale. The taps are called `name`_codes and `name`_scales.

    Quantising what is exact is a contract of bytes and adds no radius; an uncertain
    value has every scale and code that it may reach. Given bytes are taken as they are.
    Inside a layer a NaN or infinity is no error of the caller: it propagates.
    """
    if format.nonfinite == "error":
        format = replace(format, nonfinite="propagate")
    codes, scales = given.get(f"{name}_codes"), given.get(f"{name}_scales")
    if codes is not None and scales is not None:
        blocks = Blocks(codes, scales, format, scale)
        seen = bounds.exactly(dequantize(blocks))
    else:
        assert values is not None
        blocks, seen = quantize_tap(values, format, global_scale=scale)
    bytes_ = {
        f"{name}_codes": Tap(blocks.codes),
        f"{name}_scales": Tap(blocks.scales),
    }
    return seen, bytes_
