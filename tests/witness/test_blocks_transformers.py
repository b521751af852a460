"""Block formats against transformers: MXFP4 and FP8 weights, both ways."""

import types

import pytest
import torch
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from oracle.blocks import dequantize, preset, quantize
from oracle.layouts.nibbles import pack
from oracle.params import Blocks


def _weight(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-8, 8, (*shape[:-1], 1), generator=generator)
    return torch.randn(shape, generator=generator) * torch.exp2(rows.float())


def test_dequantize_gpt_oss_experts():
    """convert_moe_packed_tensors returns [E, K, N] of [E, N, K / 32, 16] bytes."""
    blocks = quantize(_weight(3, 64, 96), "mxfp4:rceil")
    packed = pack(blocks.codes).unflatten(-1, (3, 16))
    for dtype in (torch.bfloat16, torch.float32):
        theirs = convert_moe_packed_tensors(packed, blocks.scales, dtype=dtype)
        assert torch.equal(theirs.mT.double(), dequantize(blocks))


def test_dequantize_gpt_oss_every_scale_below_nan():
    """Every byte whose largest value bf16 holds; 2^-128 is subnormal there."""
    scales = torch.arange(253).to(torch.uint8)[:, None]
    codes = torch.arange(16).to(torch.uint8).repeat(2).expand(253, -1)
    packed = pack(codes.contiguous())[None, :, None]
    theirs = convert_moe_packed_tensors(packed, scales[None], dtype=torch.bfloat16)
    ours = dequantize(Blocks(codes, scales, preset("mxfp4")))
    assert torch.equal(theirs[0].mT.double(), ours)
    assert torch.equal(theirs[0].mT.signbit(), ours.signbit())


def _dequantize_one(codes, scales):
    return Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)


def test_dequantize_deepseek_fp4_experts():
    blocks = quantize(_weight(64, 128, seed=1), "mxfp4")
    packed = pack(blocks.codes).view(torch.int8)
    theirs = _dequantize_one(packed, blocks.scales.view(torch.float8_e8m0fnu))
    assert torch.equal(theirs.double(), dequantize(blocks))


@pytest.mark.parametrize("recipe", ["fp32", "ue8m0", "ue8m0_fp32", "deepgemm"])
def test_dequantize_block_fp8(recipe):
    blocks = quantize(_weight(256, 384, seed=2), f"fp8_block_128:{recipe}")
    scales = blocks.scales
    if scales.dtype == torch.uint8:
        scales = scales.view(torch.float8_e8m0fnu)
    theirs = _dequantize_one(blocks.codes.view(torch.float8_e4m3fn), scales)
    assert torch.equal(theirs, dequantize(blocks, dtype=torch.float32))


def _fp8_quantize(weight, scale_fmt):
    config = types.SimpleNamespace(weight_block_size=(128, 128), scale_fmt=scale_fmt)
    quantizer = types.SimpleNamespace(quantization_config=config)
    found = Fp8Quantize(quantizer)._quantize_one("w.weight", weight)
    return found["w.weight"].view(torch.uint8), found["w.weight_scale_inv"]


def test_quantize_block_fp8():
    weight = _weight(2, 256, 384, seed=3)
    weight[0, :128, :128] = 0
    codes, scales = _fp8_quantize(weight, None)
    ours = quantize(weight, "fp8_block_128:transformers")
    assert torch.equal(ours.scales, scales)
    assert torch.equal(ours.codes, codes)


def test_quantize_block_fp8_ue8m0():
    """Its power of two comes from fp32 log2: equal away from 448 * 2^k."""
    weight = _weight(256, 384, seed=4)
    codes, scales = _fp8_quantize(weight, "ue8m0")
    ours = quantize(weight, "fp8_block_128:ue8m0")
    assert torch.equal(ours.scales, scales.view(torch.uint8))
    assert torch.equal(ours.codes, codes)
