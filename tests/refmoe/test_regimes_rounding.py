"""The rounding regime reaches what it is for: thresholds, ties, byte 0, zero blocks."""

from dataclasses import replace

import torch

from oracle.blocks import preset, quantize
from refmoe.parse import parse
from refmoe.plan import cells
from refmoe.problem import build


def _x(seed=0):
    line = f"quantize T=64 H=320 format=mxfp4 regime=rounding seed={seed}"
    return build(parse(line)).inputs["x"]


def test_rounding_reaches_least_scales_and_zero_blocks():
    x = _x()
    assert torch.equal(x.double(), x.double().to(torch.bfloat16).double())
    blocks = quantize(x, preset("mxfp4"))
    assert int(blocks.scales.min()) == 0
    assert (x.reshape(64, -1, 32) == 0).all(-1).any()


def test_rounding_tells_scale_rules_and_ties_apart():
    x = _x()
    for family in ("mxfp4", "mxfp8_e4m3"):
        scales = [
            quantize(x, preset(f"{family}:{rule}")).scales
            for rule in ("floor", "ceil", "even", "rceil")
        ]
        for index, one in enumerate(scales):
            for other in scales[:index]:
                assert not torch.equal(one, other)
    codes = quantize(x, preset("mxfp4")).codes
    away = quantize(x, replace(preset("mxfp4"), rounding="half_away")).codes
    assert not torch.equal(codes, away)


def test_rounding_is_confined_to_quantising_unless_asked_for():
    def drawn(confined):
        grid = cells(
            ("quantize", "moe"), ("gpt-oss-120b",), ("mxfp4",), ("rounding",),
            confined=confined,
        )  # fmt: skip
        return [cell.op for cell in grid if not cell.profile]

    assert drawn(True) == ["quantize"]
    assert drawn(False) == ["quantize", "moe"]
