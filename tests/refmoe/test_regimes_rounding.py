"""What tells roundings apart: thresholds, ties, byte 0, zero blocks, two roundings."""

from dataclasses import replace

import pytest
import torch

from oracle.blocks import dequantize, preset, quantize
from oracle.formats import decode, get, round_to
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


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp8_e5m2"])
def test_rounding_reaches_subnormal_codes_of_fp8(name):
    """Catches a regime that ends above them: all are met, and ties between them."""
    x, form = _x(), preset(name)
    codes = quantize(x, form).codes
    least = get(form.element).least_normal
    subnormal = [c for c in range(128) if 0 < float(_value(c, form)) < least]
    assert set(subnormal) <= set(codes.unique().tolist())
    away = quantize(x, replace(form, rounding="half_away")).codes
    assert (codes != away)[_value(codes, form).abs() < least].any()


def _value(codes, form):
    return decode(torch.as_tensor(codes, dtype=torch.uint8), form.element)


def test_rounding_lies_beside_ties_in_fp32():
    """Catches codes that are rounded by way of a 16-bit type."""
    line = "quantize T=33 H=96 format=mxfp8_e4m3 dtype=fp32 regime=rounding"
    x = build(parse(line)).inputs["x"]
    narrow = x.to(torch.bfloat16)
    assert not torch.equal(x, narrow.float())
    form = preset("mxfp8_e4m3")
    assert not torch.equal(quantize(x, form).codes, quantize(narrow, form).codes)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["fp8_token", "int8_token", "int4_group_32"])
def test_codes_tell_one_rounding_from_two(name, dtype):
    """Catches values that are made in fp32 and rounded to 16 bits from there."""
    line = f"dequantize T=256 H=64 format={name} regime=codes"
    exact = dequantize(build(parse(line)).inputs["blocks"])
    once, twice = round_to(exact, dtype), round_to(round_to(exact, "fp32"), dtype)
    assert (once != twice)[~exact.isnan()].any()


def test_codes_of_a_gemm_have_a_nan_in_some_rows():
    """Catches a decoder that loses NaN: in most rows every code is finite."""
    line = "grouped_gemm T=4 H=64 I=64 E=4 k=2 weights=mxfp8_e4m3 regime=codes"
    codes = build(parse(line)).inputs["weights"].codes
    lost = decode(codes, "e4m3").isnan().sum(-1)
    assert lost.max() == 1
    assert 0 < float(lost.double().mean()) < 0.25


def test_rounding_is_confined_to_quantising_unless_asked_for():
    def drawn(confined):
        grid = cells(
            ("quantize", "moe"), ("gpt-oss-120b",), ("mxfp4",), ("rounding",),
            confined=confined,
        )  # fmt: skip
        return [cell.op for cell in grid if not cell.profile]

    assert drawn(True) == ["quantize"]
    assert drawn(False) == ["quantize", "moe"]
