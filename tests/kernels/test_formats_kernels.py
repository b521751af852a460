"""The kernels' element formats against the oracle's, exhaustively where finite."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import get_args

import pytest
import torch

from oracle import formats
from oracle.spec import Rounding
from refmoe.kernels.launch import Kernel, blocks_for

FLOATS = ("e2m1", "e2m3", "e3m2", "e4m3", "e5m2")
ELEMENTS = (*FLOATS, "int8", "int4", "mxint8")
ROUNDINGS = {
    "nearest_even": "kNearestEven",
    "half_away": "kHalfAway",
    "half_toward_zero": "kHalfTowardZero",
    "toward_zero": "kTowardZero",
}


def through(expression: str, given: torch.Tensor, result: torch.dtype) -> torch.Tensor:
    out = torch.empty(given.shape, dtype=result)
    count = given.numel()
    kernel = Kernel("convert.cu", expression)
    kernel(blocks_for(count, 256), 256, given, out, count, device=given.device)
    return out


def every_bf16() -> torch.Tensor:
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    return bits.view(torch.bfloat16).to(torch.float32)


def around_boundaries(name: str) -> torch.Tensor:
    """Every value of a format, every midpoint, and both fp32 neighbours of each."""
    codes = torch.arange(2 ** formats.get(name).bits, dtype=torch.int32)
    values = formats.decode(codes, name)
    values = values[values.isfinite()].unique()
    points = torch.cat([values, (values[1:] + values[:-1]) / 2]).to(torch.float32)
    infinity = torch.tensor(torch.inf)
    near = [points, points.nextafter(infinity), points.nextafter(-infinity)]
    return torch.cat([*near, torch.tensor([1e-45, -1e-45, 3e38, -0.0])])


def test_encode_covers_every_rounding_of_the_oracle() -> None:
    assert set(ROUNDINGS) == set(get_args(Rounding))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", ELEMENTS)
def test_encode_equals_oracle(name: str, rounding: Rounding, emulated: None) -> None:
    values = torch.cat([every_bf16(), around_boundaries(name)])
    expression = f"encode_elements<element::{name}, {ROUNDINGS[rounding]}>"
    codes = through(expression, values, formats.get(name).storage)
    torch.testing.assert_close(
        codes, formats.encode(values, name, rounding), rtol=0, atol=0
    )


@pytest.mark.parametrize("four", ["true", "false"])
@pytest.mark.parametrize("short", ["true", "false"])
@pytest.mark.parametrize("name", ELEMENTS)
def test_encode_finite_equals_oracle(
    name: str, short: str, four: str, emulated: None
) -> None:
    """The short way of the fast kernels: any fp32, or at most 11 significant bits."""
    values = every_bf16()
    if short == "true":
        halves = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
        halves = halves.view(torch.float16).float()
        values = torch.cat([values, halves, halves * 2.0**-10, halves * 2.0**-13])
    else:
        values = torch.cat([values, around_boundaries(name)])
    values = values[values.isfinite()]
    expression = f"encode_finite_elements<element::{name}, {short}, {four}>"
    codes = through(expression, values, formats.get(name).storage)
    torch.testing.assert_close(codes, formats.encode(values, name), rtol=0, atol=0)


def test_quotient_is_correctly_rounded(emulated: None) -> None:
    """Wherever a code can come of it: quotients from 2^-12, in the safe range."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 2**23, (2, 200_000), generator=generator)
    edges = torch.tensor([0, 1, 2, 2**22 - 1, 2**22, 2**22 + 1, 2**23 - 2, 2**23 - 1])
    bits[:, : len(edges) ** 2] = torch.cartesian_prod(edges, edges).T
    s, q = (1 + bits / 2.0**23).float()
    s = s * 2.0 ** torch.randint(-79, 79, s.shape, generator=generator).float()
    q = q * 2.0 ** torch.randint(-12, 10, s.shape, generator=generator).float()
    x = s * q * torch.where(bits[0] % 2 == 0, 1.0, -1.0)
    got = torch.empty_like(x)
    Kernel("convert.cu", "quotient_elements<false>")(
        blocks_for(len(x), 256), 256, x, s, got, len(x), device=x.device
    )
    assert torch.equal(got, (x.double() / s.double()).float())
    assert torch.equal(got, x / s)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_quotient_is_correctly_rounded(
    dtype: torch.dtype, emulated: None
) -> None:
    """One step for dividends of few bits, signs of zeros too."""
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(0, 2**23, (200_000,), generator=generator)
    s = (1 + bits / 2.0**23).float()
    s = s * 2.0 ** torch.randint(-20, 20, s.shape, generator=generator).float()
    codes = torch.randint(-(2**15), 2**15, s.shape, generator=generator)
    x = codes.to(torch.int16).view(dtype).float()
    x[:2] = torch.tensor([0.0, -0.0])
    wanted = x / s
    fits = x.isfinite() & wanted.isfinite() & ((x == 0) | (wanted.abs() > 2.0**-20))
    x, s, wanted = x[fits], s[fits], wanted[fits]
    got = torch.empty_like(x)
    Kernel("convert.cu", "quotient_elements<true>")(
        blocks_for(len(x), 256), 256, x, s, got, len(x), device=x.device
    )
    assert torch.equal(got.view(torch.int32), wanted.view(torch.int32))


#: Every dividend of `bits` significant bits over every divisor: none may differ.
EVERY_QUOTIENT = """
#include <cmath>
#include <cstring>
extern "C" long wrong(unsigned bits) {
  long count = 0;
  for (unsigned dividend = 1u << (bits - 1); dividend < 1u << bits; ++dividend) {
    unsigned here = 0;
    for (unsigned fraction = 0; fraction < 1u << 23; ++fraction) {
      const unsigned word = 0x3F800000u | fraction;
      float s, x = float(dividend);
      std::memcpy(&s, &word, 4);
      const float r = 1.0f / s, q = x * r;
      here += std::fma(-std::fma(q, s, -x), r, q) != x / s;
    }
    count += here;
  }
  return count;
}
"""


@pytest.mark.long
@pytest.mark.parametrize("bits", [8, 11])
def test_short_quotient_is_proved(
    bits: int, tmp_path: Path, host_compiler: str
) -> None:
    """The exhaustive proof behind quotient<true>: exponents only shift its cases."""
    source, library = tmp_path / "every.cpp", tmp_path / "every.so"
    source.write_text(EVERY_QUOTIENT)
    options = ["-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run(
        [host_compiler, *options, str(source), "-o", str(library)], check=True
    )
    proof = ctypes.CDLL(str(library)).wrong
    proof.restype = ctypes.c_long
    assert proof(bits) == 0


@pytest.mark.parametrize("name", ELEMENTS)
def test_decode_equals_oracle(name: str, emulated: None) -> None:
    codes = torch.arange(2 ** formats.get(name).bits, dtype=torch.int32).to(torch.uint8)
    got = through(f"decode_elements<element::{name}>", codes, torch.float32)
    want = formats.decode(codes, name)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=0, equal_nan=True)
    finite = want.isfinite()
    assert torch.equal(got[finite].signbit(), want[finite].signbit())


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_widen_and_round_are_inverse_on_every_code(
    name: str, dtype: torch.dtype, emulated: None
) -> None:
    codes = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    values = through(f"widen_elements<{name}>", codes, torch.float32)
    want = codes.to(torch.float64)
    torch.testing.assert_close(values.double(), want, rtol=0, atol=0, equal_nan=True)
    back = through(f"round_elements<{name}>", values, dtype)
    kept = ~codes.isnan()
    assert torch.equal(back.view(torch.int16)[kept], codes.view(torch.int16)[kept])
    assert bool(back[~kept].isnan().all())


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_round_equals_oracle_at_boundaries(
    name: str, dtype: torch.dtype, emulated: None
) -> None:
    values = around_boundaries(name)
    got = through(f"round_elements<{name}>", values, dtype)
    want = formats.round_to(values.double(), name)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=0)
    assert torch.equal(got.signbit(), want.signbit())
