"""What the matrix units see: dequantised, rounded, and how elements are stored."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from oracle import bounds
from oracle.blocks import dequantize, preset, quantize
from oracle.experts import grouped_gemm, weight_tap
from oracle.formats import get, round_to
from oracle.numerics import ACCUMULATORS, Numerics
from oracle.operands import operand
from oracle.trace import Tap


def weights(seed: int = 0, rows: int = 16, depth: int = 256) -> torch.Tensor:
    return torch.randn(rows, depth, generator=torch.Generator().manual_seed(seed))


def test_weight_tap_rounds_dequantised_blocks_where_declared():
    blocks = quantize(weights(), "int8_token")
    exact = dequantize(blocks)
    assert torch.equal(weight_tap(blocks, Numerics()).value, exact)
    rounded = weight_tap(blocks, Numerics(dequantized="bf16"))
    assert torch.equal(rounded.value, round_to(exact, "bf16"))
    assert not torch.equal(rounded.value, exact)
    assert rounded.exact
    # Plain weights are what they are.
    plain = weight_tap(exact, Numerics(dequantized="bf16"))
    assert torch.equal(plain.value, exact)


def test_weight_tap_picks_rows():
    blocks, rows = quantize(weights(), "mxfp4"), torch.tensor([3, 1])
    got = weight_tap(blocks, Numerics(), rows)
    assert torch.equal(got.value, dequantize(blocks)[rows])
    plain = weight_tap(dequantize(blocks), Numerics(), rows)
    assert torch.equal(got.value, plain.value)


@pytest.mark.parametrize("unit", ["ffma", "hmma_hopper", "qgmma_hopper", "tcgen05_fp4"])
def test_operands_tell_their_least_normal_value_to_units_that_take_codes(unit):
    numerics = Numerics(accumulate=unit)
    codes = ACCUMULATORS[unit].codes
    blocks = quantize(weights() * 2.0**5, "mxfp8_e4m3")
    scale = 2.0 ** (int(blocks.scales.max()) - 127)
    least = get("e4m3").least_normal * scale if codes else 0.0
    assert weight_tap(blocks, numerics).least_normal == least
    x = bounds.exactly(weights() * 2.0**5)
    seen, _ = operand("x", x, preset("mxfp8_e4m3"), None, {}, numerics)
    assert seen.least_normal == least
    assert seen.map(lambda t: t[2:3]).least_normal == least
    integers = quantize(weights(), "int8_token")
    assert weight_tap(integers, numerics).least_normal == 0.0


def test_taps_of_16_bit_types_tell_their_least_normal_value():
    half = torch.ones(2, dtype=torch.float16)
    assert bounds.exactly(half).least_normal == 2.0**-14
    assert bounds.exactly(half.bfloat16()).least_normal == 2.0**-126
    assert bounds.exactly(half.double()).least_normal == 0.0
    rounded = bounds.rounded(Tap(half.double()), "fp16", Numerics())
    assert rounded.least_normal == 2.0**-14


def test_subnormal_fp16_rows_widen_the_bounds_of_truncating_units():
    """Rows far below 2^-14 are aligned as if they were at it."""
    x = weights(1).half() * torch.tensor(2.0**-18, dtype=torch.float16)
    w = weights(2).half()
    for unit, wider in (("hmma_ampere", True), ("ffma", False)):
        numerics = Numerics(accumulate=unit)
        told = bounds.matmul(bounds.exactly(x), bounds.exactly(w), numerics)
        taps = [replace(bounds.exactly(t), least_normal=0.0) for t in (x, w)]
        untold = bounds.matmul(*taps, numerics)
        assert bool((told.worst > untold.worst).all()) is wider


def test_grouped_gemm_of_blocks_is_that_of_their_values():
    stacked = torch.stack([weights(seed) for seed in range(3)])
    blocks = quantize(stacked, "mxfp4")
    offsets = torch.tensor([0, 2, 2, 5])
    x = bounds.exactly(weights(9, rows=5))
    numerics = Numerics(accumulate="hmma_hopper")
    got = grouped_gemm(x, blocks, offsets, numerics)
    want = grouped_gemm(x, dequantize(blocks), offsets, numerics)
    assert torch.equal(got.value, want.value)
    assert torch.equal(got.worst, want.worst)
