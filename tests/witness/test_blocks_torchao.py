"""Block formats against torchao: every scale rule it has, NVFP4, INT8, INT4, FP8.

Where torchao departs, the departure is asserted in full: which blocks, and what it does
there. `oracle/vectors/blocks.json` holds one of each with its reference.
"""

from dataclasses import replace

import pytest
import torch
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.constants import DTYPE_FP6_E2M3, DTYPE_FP6_E3M2
from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx
from torchao.prototype.mx_formats.nvfp4_tensor import (
    nvfp4_quantize,
    per_tensor_amax_to_scale,
)
from torchao.quantization.quant_primitives import (
    MappingType,
    _choose_scale_float8,
    _quantize_affine_float8,
    choose_qparams_affine,
    quantize_affine,
)

from oracle.blocks import dequantize, preset, quantize
from oracle.formats import decode, encode, get
from oracle.layouts.nibbles import pack, unpack
from oracle.params import Blocks

ELEMENTS = {
    "mxfp4": torch.float4_e2m1fn_x2,
    "mxfp6_e2m3": DTYPE_FP6_E2M3,
    "mxfp6_e3m2": DTYPE_FP6_E3M2,
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
}
RULES = ("floor", "ceil", "even", "rceil")


def _to_mx(x, family, rule):
    mode = ScaleCalculationMode[rule.upper()]
    scales, codes = to_mx(x.contiguous(), ELEMENTS[family], 32, mode)
    codes = codes.view(torch.uint8)
    codes = unpack(codes) if family == "mxfp4" else codes
    return scales.view(torch.uint8), codes


def _compare(x, family, rule):
    """Blocks that differ from torchao's: bool[R, K / 32], and both results."""
    ours = quantize(x, f"{family}:{rule}")
    scales, codes = _to_mx(x, family, rule)
    different = (ours.codes != codes).unflatten(-1, (-1, 32)).any(-1)
    return different | (ours.scales != scales), ours, scales, codes


def _random(dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(128, 256, generator=generator)
    powers = torch.randint(-110, 100, (128, 8, 1), generator=generator)
    scaled = x.unflatten(-1, (-1, 32)) * torch.exp2(powers.float())
    return scaled.flatten(-2).to(dtype)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", ELEMENTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_quantize_random_blocks(family, rule, dtype):
    different, *_ = _compare(_random(dtype), family, rule)
    assert not different.any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", ELEMENTS)
def test_quantize_every_bf16_amax(family, rule):
    """Each positive bf16 as amax over small and halved values; byte 0 apart."""
    amax = decode(torch.arange(1, 0x7F80), "bf16")
    fillers = torch.tensor([1.0, -0.5, 0.25, 0.75, -0.0, 0.3125, 2.0**-6, -(2.0**-9)])
    x = (amax[:, None] * fillers.repeat(4).double()).to(torch.bfloat16)
    different, ours, scales, codes = _compare(x, family, rule)
    assert torch.equal(ours.scales, scales)
    # At byte 0 torchao divides by 2^-126 (rceil: by 1) where the byte means 2^-127.
    at_zero = scales[:, 0] == 0
    divisor = 1.0 if rule == "rceil" else 2.0**-126
    as_recorded = encode(x[at_zero].double() / divisor, preset(family).element)
    assert torch.equal(codes[at_zero], as_recorded)
    assert at_zero.any()
    assert not different[~at_zero].any()


def _next(x, steps):
    return (x.view(torch.int32) + steps).view(torch.float32)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", ELEMENTS)
def test_quantize_amax_beside_every_threshold(family, rule):
    """fp32 amax within two ulps of 2^k, of the largest value and of the even rule's."""
    entry = get(preset(family).element)
    mantissas = torch.tensor(
        [1.0, entry.maximum / 2.0**entry.maximum_exponent, 1.5, 1.75, 1.875, 1.9375]
    )
    powers = torch.exp2(torch.arange(-100, 101, dtype=torch.float32))
    centre = (mantissas[:, None] * powers).flatten()
    amax = torch.cat([_next(centre, step) for step in (-2, -1, 0, 1, 2)])
    x = torch.zeros(len(amax), 32)
    x[:, 0], x[:, 1], x[:, 2] = amax, -amax / 2, amax / 8
    different, ours, scales, _ = _compare(x, family, rule)
    if rule != "rceil":
        assert not different.any()
        return
    # torchao's rceil takes fp32's log2 of amax / maximum, which rounds to k just above
    # 2^k: exactly those blocks are one too small.
    ratio = amax / entry.maximum
    power = torch.log2(ratio).round()
    assert torch.equal(
        different[:, 0], (torch.log2(ratio) == power) & (ratio > torch.exp2(power))
    )
    assert torch.equal(scales[different] + 1, ours.scales[different])
    assert 0 < different.sum() < len(amax) / 5


@pytest.mark.parametrize("family", ELEMENTS)
def test_quantize_every_tie(family):
    """All values, ties and their neighbours under a scale of one."""
    element = preset(family).element
    grid = decode(torch.arange(2 ** get(element).bits), element)
    grid = grid[grid.isfinite()].unique().float()
    ties = (grid[1:] + grid[:-1]) / 2
    values = torch.cat([grid, ties, _next(ties, 1), _next(ties, -1)])
    values = torch.nn.functional.pad(values, (0, -len(values) % 31))
    top = get(element).maximum
    x = torch.cat([torch.full((len(values) // 31, 1), top), values.view(-1, 31)], 1)
    for rule in ("floor", "even", "rceil"):
        different, ours, *_ = _compare(x, family, rule)
        assert not different.any()
        assert (ours.scales == 127).all()


@pytest.mark.parametrize("family", ELEMENTS)
def test_dequantize_every_code_under_every_scale(family):
    element = preset(family).element
    count = 2 ** get(element).bits
    codes = torch.arange(count).to(torch.uint8).repeat(max(1, 32 // count))
    codes = codes.expand(256, -1).contiguous()
    scales = torch.arange(256).to(torch.uint8)[:, None].expand(-1, codes.shape[1] // 32)
    scales = scales.contiguous()
    theirs = to_dtype(
        pack(codes) if family == "mxfp4" else _as_element(codes, family),
        scales.view(torch.float8_e8m0fnu), ELEMENTS[family], 32, torch.float32,
    )  # fmt: skip
    blocks = Blocks(codes, scales, preset(family))
    ours = dequantize(blocks, dtype=torch.float32)
    assert torch.equal(ours.nan_to_num(7.7), theirs.nan_to_num(7.7))
    assert torch.equal(ours.isnan(), theirs.isnan())
    rounded = dequantize(blocks).to(torch.float32)
    assert torch.equal(ours.nan_to_num(7.7), rounded.nan_to_num(7.7))


def _as_element(codes, family):
    kind = ELEMENTS[family]
    return codes.view(kind) if isinstance(kind, torch.dtype) else codes


@pytest.mark.parametrize("spread", [0, 6])
def test_quantize_nvfp4(spread):
    generator = torch.Generator().manual_seed(spread)
    x = torch.randn(128, 512, generator=generator)
    x *= torch.exp2(torch.randint(-spread, spread + 1, x.shape, generator=generator))
    for given in (x, x.bfloat16()):
        scale = per_tensor_amax_to_scale(given.abs().max())
        scales, codes = nvfp4_quantize(given, per_tensor_scale=scale)
        ours = quantize(given, "nvfp4:torchao")
        assert ours.global_scale == scale
        assert torch.equal(ours.scales, scales.view(torch.uint8))
        assert torch.equal(ours.codes, unpack(codes))
        again = quantize(given, "nvfp4:torchao", global_scale=scale)
        assert torch.equal(again.codes, ours.codes)


def test_quantize_nvfp4_single_level():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(64, 256, generator=generator) * 100
    x[0] = 0
    scales, codes = nvfp4_quantize(x)
    ours = quantize(x, "nvfp4:torchao_single")
    assert ours.global_scale is None
    assert torch.equal(ours.scales, scales.view(torch.uint8))
    assert torch.equal(ours.codes, unpack(codes))


def _tiny(exponent, dtype):
    """Three rows of blocks with amax 1.75 * 2^exponent and less, down to zeros."""
    amax = 1.75 * 2.0**exponent
    fillers = [1.0, -0.5, 0.25, -0.75, 0.0, -0.0, 2.0**-5, -(2.0**-9)] * 2
    rows = torch.tensor([1.0, 2.0**-7, 0.0], dtype=torch.float64)[:, None]
    return (rows * torch.tensor(fillers) * amax).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantize_nvfp4_every_tiny_amax(dtype):
    """An infinite (1 / decode) / s saturates all but zeros, which torchao makes NaN."""
    least = -149 if dtype is torch.float32 else -133
    infinite = set()
    for exponent in range(least, -89):
        x = _tiny(exponent, dtype)
        scale = per_tensor_amax_to_scale(x.abs().max())
        ours = quantize(x, "nvfp4:torchao")
        if scale == 0:  # torchao's blocks then decode to zeros or NaN
            assert exponent < -138
            assert ours.global_scale == 2.0**-149
            scale = ours.global_scale
        scales, packed = nvfp4_quantize(x, per_tensor_scale=scale)
        codes = unpack(packed)
        assert ours.global_scale == scale
        assert torch.equal(ours.scales, scales.view(torch.uint8))
        operand = (1 / scale) / scales.float()
        nan = (x == 0) & operand.isinf()
        assert torch.equal(ours.codes[~nan], codes[~nan])
        assert torch.equal(ours.codes[nan], x[nan].signbit().to(torch.uint8) * 8)
        # x86 makes a negative NaN of 0 * Inf, others a positive one.
        assert set(codes[nan].tolist()) <= {3, 11}
        saturated = (x != 0) & operand.isinf()
        assert (ours.codes[saturated] & 7 == 7).all()
        infinite.add((bool(nan.any()), bool(saturated.any())))
    assert infinite == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantize_nvfp4_single_level_every_tiny_amax(dtype):
    """The block scale stops at 2^-6: codes shrink to zeros, none is infinite."""
    least = -149 if dtype is torch.float32 else -133
    for exponent in range(least, 4):
        x = _tiny(exponent, dtype)
        scales, packed = nvfp4_quantize(x)
        ours = quantize(x, "nvfp4:torchao_single")
        assert torch.equal(ours.scales, scales.view(torch.uint8))
        assert torch.equal(ours.codes, unpack(packed))


def _affine(x, block, low, high):
    """torchao's symmetric integers: scale in fp32, x times its reciprocal."""
    scale, zero = choose_qparams_affine(
        x, MappingType.SYMMETRIC, block, torch.int8, low, high,
        eps=0.0, scale_dtype=torch.float32,
    )  # fmt: skip
    codes = quantize_affine(x, block, scale, zero, torch.int8, low, high)
    return scale.reshape(len(x), -1), codes


def test_quantize_int8_token():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(96, 640, generator=generator) * 3
    scales, codes = _affine(x, (1, 640), -127, 127)
    ours = quantize(x, "int8_token:torchao")
    assert torch.equal(ours.scales, scales)
    assert torch.equal(ours.codes, codes)


@pytest.mark.parametrize("size", [32, 128])
def test_quantize_int4_groups(size):
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(64, 512, generator=generator)
    scales, codes = _affine(x, (1, size), -8, 7)
    ours = quantize(x, f"int4_group_{size}:torchao")
    assert torch.equal(ours.scales, scales)
    assert torch.equal(ours.codes, codes)


@pytest.mark.parametrize(
    "name,block",
    [("fp8_tensor", (96, 640)), ("fp8_token", (1, 640)), ("fp8_group_128", (1, 128))],
)
def test_quantize_fp8_scales(name, block):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(96, 640, generator=generator) * 5
    # Of a bf16 tensor torchao divides amax in bf16.
    for kind, stored in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        given = x.to(kind)
        scale = _choose_scale_float8(given, list(block), torch.float8_e4m3fn)
        codes = _quantize_affine_float8(given, scale, torch.float8_e4m3fn)
        ours = quantize(given, replace(preset(name), scale=stored))
        assert torch.equal(ours.scales.float(), scale.reshape(ours.scales.shape))
        assert torch.equal(ours.codes, codes.view(torch.uint8))
