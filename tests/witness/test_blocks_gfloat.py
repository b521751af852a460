"""MX blocks against gfloat: its block quantiser takes the scale by the floor rule."""

import gfloat
import gfloat.formats
import numpy
import pytest
import torch

from oracle.blocks import dequantize, quantize

BLOCKS = {
    "mxfp4": gfloat.formats.format_info_mxfp4_e2m1,
    "mxfp6_e2m3": gfloat.formats.format_info_mxfp6_e2m3,
    "mxfp6_e3m2": gfloat.formats.format_info_mxfp6_e3m2,
    "mxfp8_e4m3": gfloat.formats.format_info_mxfp8_e4m3,
    "mxfp8_e5m2": gfloat.formats.format_info_mxfp8_e5m2,
    "mxint8": gfloat.formats.format_info_mxint8,
}


@pytest.mark.parametrize("family", BLOCKS)
def test_quantize_values(family):
    generator = torch.Generator().manual_seed(5)
    powers = torch.exp2(torch.randint(-60, 60, (24, 1), generator=generator).double())
    x = torch.randn(24, 32, generator=generator).double() * powers
    x[0] = powers[0] * torch.linspace(-7.99, 7.99, 32)
    theirs = numpy.stack(
        [
            gfloat.quantize_block(
                BLOCKS[family], row, gfloat.compute_scale_amax,
                gfloat.RoundMode.TiesToEven,
            )
            for row in x.numpy()
        ]
    )  # fmt: skip
    ours = dequantize(quantize(x, family))
    if family == "mxint8":
        # gfloat may round to the code -2, which has no positive partner.
        scale = theirs.min(1, keepdims=True) / -2
        theirs = numpy.where(theirs == -2 * scale, ours.numpy(), theirs)
    assert numpy.array_equal(ours.numpy(), theirs)
