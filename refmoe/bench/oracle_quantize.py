"""The oracle's MX quantisers against torchao's, 4096 x 4096 bf16, in one process."""

from __future__ import annotations

from functools import partial

import torch

from oracle.blocks import dequantize, quantize
from refmoe.bench.measure import Row, compare

SIZE = 4096
#: Ours over torchao's: what quantising may cost.
TARGETS = {"mxfp4": 1.0, "mxfp8_e4m3": 3.0}
DEQUANTIZE_TARGET = 2.0


def run() -> list[Row]:
    """Both formats under the floor and rceil rules, and back to float64 and float32.

    torchao decodes to float32; float64 is what the oracle decodes to by default.
    Raises ModuleNotFoundError where torchao is missing.
    """
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx

    elements = {
        "mxfp4": torch.float4_e2m1fn_x2,
        "mxfp8_e4m3": torch.float8_e4m3fn,
    }
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE, SIZE, generator=generator).to(torch.bfloat16)
    rows = []
    for family, element in elements.items():
        for rule in ("floor", "rceil"):
            mode = ScaleCalculationMode[rule.upper()]
            rows.append(
                compare(
                    f"quantize {family}:{rule}",
                    partial(quantize, x, f"{family}:{rule}"),
                    partial(to_mx, x, element, 32, mode),
                    TARGETS[family],
                )
            )
        blocks = quantize(x, family)
        scales, codes = to_mx(x, element, 32, ScaleCalculationMode.FLOOR)
        for dtype in (torch.float64, torch.float32):
            rows.append(
                compare(
                    f"dequantize {family} to {str(dtype).removeprefix('torch.')}",
                    partial(dequantize, blocks, dtype=dtype),
                    partial(to_dtype, codes, scales, element, 32, torch.float32),
                    DEQUANTIZE_TARGET,
                )
            )
    return rows
