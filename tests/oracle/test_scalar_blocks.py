"""Blocks of the second oracle, against the byte tables that follow from each rule."""

import math
from fractions import Fraction

import pytest
import torch
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import to_mx

from oracle.scalar.blocks import dequantize, quantize
from oracle.scalar.elements import decode
from oracle.scalar.scales import power_above, power_below, significant
from oracle.spec import BlockFormat


def after(x):
    return float(torch.nextafter(torch.tensor(x), torch.tensor(math.inf)))


def before(x):
    return float(torch.nextafter(torch.tensor(x), torch.tensor(0.0)))


RULES = ("floor", "ceil", "even", "rceil")
#: Block, then scale byte and leading codes under floor, ceil, even and rceil, worked
#: out by hand from OCP MX v1.0 section 6.3 and the definitions of the other rules.
E2M1 = [
    ([4.0, 1.0], "7f|62 7f|62 7f|62 7f|62"),
    ([5.0, 1.0], "7f|62 80|41 7f|62 7f|62"),
    ([after(6.0), 1.0, 0.25], "7f|720 80|510 7f|720 80|510"),
    ([before(7.0), 1.0, 0.25], "7f|720 80|510 7f|720 80|510"),
    ([7.0, 1.0, 0.25], "7f|720 80|610 80|610 80|610"),
    ([before(1024.0)], "86|7 87|6 87|6 87|6"),
    ([after(6 * 2.0**100), 2.0**100], "e3|72 e4|51 e3|72 e4|51"),
    ([0.0], "00|0 00|0 00|0 00|0"),
    ([-0.0], "00|8 00|8 00|8 00|8"),
    ([2.0**-126, -(2.0**-127)], "00|4a 00|4a 00|4a 00|4a"),
    ([2.0**128 - 2.0**104, 1e38, -1.0], "fc|748 fd|628 fd|628 fd|628"),
]
E4M3 = [
    ([448.0, 1.0], "7f|7e38 80|7630 7f|7e38 7f|7e38"),
    ([after(448.0), 1.0], "7f|7e38 80|7630 7f|7e38 80|7630"),
    ([480.0, 1.0], "7f|7e38 80|7730 7f|7e38 80|7730"),
    ([496.0, 1.0], "7f|7e38 80|7830 80|7830 80|7830"),
    ([512.0, 1.0], "80|7830 80|7830 80|7830 80|7830"),
    ([before(1024.0), 1.0], "80|7e30 81|7828 81|7828 81|7828"),
    ([2.0**-120, 2.0**-121], "00|7068 00|7068 00|7068 00|7068"),
]


def bytes_of(block, format):
    """Scale and leading codes as the table writes them."""
    padded = block + [0.0] * (32 - len(block))
    blocks = quantize([padded], format)
    width = 1 if format.element == "e2m1" else 2
    codes = "".join(f"{code:0{width}x}" for code in blocks.codes[0][: len(block)])
    return f"{blocks.scales[0][0]:02x}|{codes}"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("element", "table"), [("e2m1", E2M1), ("e4m3", E4M3)])
def test_scalar_quantize_equals_the_tables(element, table, rule):
    format = BlockFormat("mx", element, scale_rule=rule)
    for block, row in table:
        assert bytes_of(block, format) == row.split()[RULES.index(rule)], block


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("element", ["e2m1", "e4m3"])
def test_scalar_quantize_equals_torchao(element, rule):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(24, 32, generator=generator, dtype=torch.bfloat16)
    x *= 2.0 ** torch.randint(-20, 20, (24, 1), generator=generator)
    kind = torch.float4_e2m1fn_x2 if element == "e2m1" else torch.float8_e4m3fn
    mode = ScaleCalculationMode[rule.upper()]
    scale, data = to_mx(x, kind, 32, mode)
    blocks = quantize(x.tolist(), BlockFormat("mx", element, scale_rule=rule))
    assert blocks.scales == scale.view(torch.uint8).reshape(24, 1).tolist()
    codes = data.view(torch.uint8)
    if element == "e2m1":
        codes = torch.stack([codes & 15, codes >> 4], -1).reshape(24, 32)
    assert blocks.codes == codes.tolist()


def test_scalar_scale_pieces():
    assert [power_below(Fraction(x)) for x in (1, 1.5, 2, 0.75)] == [0, 0, 1, -1]
    assert [power_above(Fraction(x)) for x in (1, 1.5, 2, 0.75)] == [0, 1, 1, 0]
    assert significant(Fraction(7), 1) == 8
    assert significant(Fraction(6.99), 1) == 6


def test_scalar_quantize_divides_in_fp32():
    """Block FP8: scale fp32(amax / 448), codes of fp32(x / scale)."""
    format = BlockFormat("fp8", "e4m3", (1, 4), "fp32", "divide")
    x = [0.1, -3.0, 1.0, 0.3]
    blocks = quantize([x], format)
    scale = torch.tensor(3.0) / 448
    want = (torch.tensor(x, dtype=torch.float64) / scale.double()).float()
    assert blocks.scales == [[Fraction(float(scale))]]
    assert blocks.codes == [want.to(torch.float8_e4m3fn).view(torch.uint8).tolist()]


def test_scalar_dequantize_takes_ragged_tiles_and_nan_scales():
    format = BlockFormat("mx", "e2m1", (2, 3), ragged=True)
    x = [[1.0, 2.0, 3.0, 4.0], [0.5, -6.0, 1.5, -0.0], [8.0, 16.0, 0.0, 12.0]]
    blocks = quantize(x, format)
    assert [len(row) for row in blocks.scales] == [2, 2]
    assert dequantize(blocks, format) == x
    blocks.scales[0][1] = 255
    assert math.isnan(dequantize(blocks, format)[0][3])
    assert math.isnan(decode(255, "e8m0"))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[1.0] * 31], "does not divide into blocks"),
        ([[math.nan] * 32], "block holds nan"),
    ],
)
def test_scalar_quantize_refuses(x, message):
    with pytest.raises(ValueError, match=message):
        quantize(x, BlockFormat("mx", "e2m1"))
