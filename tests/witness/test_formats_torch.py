"""Element formats against torch's own casts and torchao's sub-byte ones."""

import pytest
import torch
from torchao.prototype.mx_formats.kernels import (
    f4_unpacked_to_f32,
    f6_e2m3_unpacked_to_f32,
    f6_e3m2_unpacked_to_f32,
    f32_to_f4_unpacked,
    f32_to_f6_e2m3_unpacked,
    f32_to_f6_e3m2_unpacked,
)

from oracle.formats import decode, encode, round_to

SUB_BYTE = {
    "e2m1": (f32_to_f4_unpacked, f4_unpacked_to_f32),
    "e2m3": (f32_to_f6_e2m3_unpacked, f6_e2m3_unpacked_to_f32),
    "e3m2": (f32_to_f6_e3m2_unpacked, f6_e3m2_unpacked_to_f32),
}


def _strided(step):
    bits = torch.arange(-(2**31), 2**31, step, dtype=torch.int64).to(torch.int32)
    values = bits.view(torch.float32)
    return values[~values.isnan()]


def test_encode_e4m3_strided_fp32():
    """Clamped first: whether torch's cast saturates changed between its releases."""
    values = _strided(1999)
    theirs = values.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)
    assert torch.equal(encode(values, "e4m3"), theirs)


def test_encode_e5m2_strided_fp32():
    values = _strided(1999)
    theirs = values.to(torch.float8_e5m2).view(torch.uint8)
    assert torch.equal(encode(values, "e5m2", saturate=False), theirs)


@pytest.mark.parametrize("name", SUB_BYTE)
def test_encode_sub_byte_strided_fp32(name):
    values = _strided(4999)
    assert torch.equal(encode(values, name), SUB_BYTE[name][0](values))


@pytest.mark.parametrize("name", SUB_BYTE)
def test_decode_sub_byte_every_code(name):
    codes = torch.arange(16 if name == "e2m1" else 64, dtype=torch.uint8)
    theirs = SUB_BYTE[name][1](codes).to(torch.float64)
    ours = decode(codes, name)
    assert torch.equal(ours, theirs)
    assert torch.equal(ours.signbit(), theirs.signbit())


@pytest.mark.parametrize(
    "name,dtype",
    [
        ("e4m3", torch.float8_e4m3fn),
        ("e5m2", torch.float8_e5m2),
        ("e8m0", torch.float8_e8m0fnu),
    ],
)
def test_decode_every_byte(name, dtype):
    codes = torch.arange(256).to(torch.uint8)
    theirs = codes.view(dtype).to(torch.float32).to(torch.float64)
    assert torch.equal(decode(codes, name).nan_to_num(7e40), theirs.nan_to_num(7e40))


@pytest.mark.parametrize(
    "name,dtype", [("fp32", torch.float32), ("fp16", torch.float16)]
)
@pytest.mark.parametrize("low,high", [(-160, 130), (-26, 17), (-1040, 1023)])
def test_round_to_random_float64(name, dtype, low, high):
    generator = torch.Generator().manual_seed(low)
    bits = torch.randint(-(2**63), 2**63 - 1, (1 << 18,), generator=generator)
    low = max(low + 1023, 0)
    field = torch.randint(low, high + 1023, bits.shape, generator=generator)
    values = ((bits & ~(0x7FF << 52)) | (field << 52)).view(torch.float64)
    if name == "fp16":
        # torch goes from double to half by way of float: keep what float holds.
        values = values.to(torch.float32).to(torch.float64)
    theirs = values.to(dtype).to(torch.float64)
    ours = round_to(values, name)
    assert torch.equal(ours.view(torch.int64), theirs.view(torch.int64))


def test_decode_fp32_patterns():
    bits = torch.arange(-(2**31), 2**31, 65521, dtype=torch.int64).to(torch.int32)
    theirs = bits.view(torch.float32).to(torch.float64)
    ours = decode(bits, "fp32")
    assert torch.equal(ours.isnan(), theirs.isnan())
    kept = ~ours.isnan()
    assert torch.equal(ours[kept].view(torch.int64), theirs[kept].view(torch.int64))
    back = encode(ours, "fp32", saturate=False)
    assert torch.equal(back[kept], bits[kept])
