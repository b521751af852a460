"""Formats and blocks give on a GPU the bytes that they give on a CPU."""

from dataclasses import replace

import pytest
import torch

from oracle.blocks import (
    PRESETS,
    admissible_blocks,
    dequantize,
    quantize,
    quantize_tap,
)
from oracle.formats import FORMATS, decode, encode, get, round_to
from oracle.trace import Tap

pytestmark = pytest.mark.gpu

ROUNDINGS = ("nearest_even", "half_away", "half_toward_zero", "toward_zero")
DISTINCT = sorted(
    {replace(format, name=""): name for name, format in PRESETS.items()}.values()
)


def _hard_values():
    """Random bits over the exponents of fp32 and a bit more, zeros, Inf and NaN."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**63), 2**63 - 1, (200_000,), generator=generator)
    field = torch.randint(1023 - 160, 1023 + 132, bits.shape, generator=generator)
    values = ((bits & ~(0x7FF << 52)) | (field << 52)).view(torch.float64)
    values[::2] = values[::2].to(torch.float32).to(torch.float64)
    ends = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan])
    return torch.cat([values, ends.double()])


def _same(first, second):
    assert first.dtype == second.dtype
    first = first.cpu()
    if first.is_floating_point():
        signs = first.signbit() == second.signbit()
        assert (signs | first.isnan()).all()
        first, second = first.nan_to_num(7e300), second.nan_to_num(7e300)
    assert torch.equal(first, second)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_formats_same_on_cuda(name, rounding):
    values = _hard_values()
    for saturate in (True, False):
        _same(
            round_to(values.cuda(), name, rounding=rounding, saturate=saturate),
            round_to(values, name, rounding=rounding, saturate=saturate),
        )
        codes = encode(values, name, rounding, saturate)
        _same(encode(values.cuda(), name, rounding, saturate), codes)
    _same(decode(codes.cuda(), name), decode(codes, name))
    assert get(name).storage == codes.dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", DISTINCT)
def test_blocks_same_on_cuda(name, dtype):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(256, 1024, generator=generator, dtype=torch.float64)
    powers = torch.randint(-100, 90, (256, 32, 1), generator=generator)
    x = (x.unflatten(1, (32, 32)) * torch.exp2(powers.double())).flatten(1).to(dtype)
    x[3] = 0
    x[4, ::7] = -0.0
    here, there = quantize(x, name), quantize(x.cuda(), name)
    _same(there.codes, here.codes)
    _same(there.scales, here.scales)
    if here.global_scale is not None:
        _same(there.global_scale, here.global_scale)
    for kind in (torch.float64, torch.float32):
        _same(dequantize(there, dtype=kind), dequantize(here, dtype=kind))


@pytest.mark.parametrize("name", DISTINCT)
def test_quantize_tap_same_on_cuda(name):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(16, 256, generator=generator, dtype=torch.float64)
    radius = x.abs() * 1e-3
    blocks, here = quantize_tap(Tap(x, radius), name)
    _, there = quantize_tap(Tap(x.cuda(), radius.cuda()), name)
    _same(there.value, here.value)
    _same(there.worst, here.worst)
    moved = quantize(x.cuda(), name)
    codes, scales = admissible_blocks(Tap(x.cuda(), radius.cuda()), moved)
    assert codes.is_cuda
    assert codes.all()
    assert scales.all()
    assert blocks.codes.device.type == "cpu"
