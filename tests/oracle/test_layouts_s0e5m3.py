"""S0E5M3 scales, over every code."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle.layouts import s0e5m3

EVERY = torch.arange(127, dtype=torch.uint8)


def _e4m3(code: int) -> Fraction:
    exponent, mantissa = code >> 3, code & 7
    if exponent == 0:
        return Fraction(mantissa, 8 * 2**6)
    return Fraction(8 + mantissa, 8) * Fraction(2) ** (exponent - 7)


def _read_as_bf16(code: int) -> Fraction:
    """What a kernel makes of a code that becomes bf16 by shifts.

    The top bit is the exponent's own, then its lowest four, then the mantissa's three.
    """
    exponent = (code >> 7 << 7) + (code >> 3 & 15)
    if exponent == 0:
        return Fraction(code & 7, 8) * Fraction(2) ** -126
    return Fraction(8 + (code & 7), 8) * Fraction(2) ** (exponent - 127)


@pytest.mark.parametrize("rescale", [0, 1])
def test_s0e5m3_holds_the_value_exactly(rescale: int) -> None:
    stored = s0e5m3.encode(EVERY, rescale)
    assert torch.equal(s0e5m3.decode(stored, rescale), EVERY)
    for code, got in zip(EVERY.tolist(), stored.tolist(), strict=True):
        value = Fraction(8 + (got & 7)) * Fraction(2) ** ((got >> 3) - 18) if got else 0
        assert value == _e4m3(code) * 2 ** (7 + rescale)


def test_s0e5m3_is_what_fp16_arithmetic_stores_below_its_overflow() -> None:
    values = EVERY.view(torch.float8_e4m3fn).to(torch.float16) * 128
    upper = (values.view(torch.int16) << 1).view(torch.uint8)[1::2]
    assert torch.equal(s0e5m3.encode(EVERY), upper)


@given(st.lists(st.integers(0, 126), min_size=1))
def test_s0e5m3_rescaled_scales_are_read_rightly_as_bf16(codes: list[int]) -> None:
    scales = torch.tensor(codes, dtype=torch.uint8)
    rescale = s0e5m3.rescale_of(scales)
    top = max(map(_e4m3, codes))
    if top * 2 ** (7 + rescale) >= 2**17:
        with pytest.raises(ValueError, match="lower rescale"):
            s0e5m3.encode(scales, rescale)
        return
    for code, got in zip(codes, s0e5m3.encode(scales, rescale).tolist(), strict=True):
        assert _read_as_bf16(got) == _e4m3(code) * 2 ** (7 + rescale)


def test_s0e5m3_subnormal_scales_are_lost_without_a_rescale() -> None:
    stored = s0e5m3.encode(torch.tensor([7], dtype=torch.uint8))
    assert _read_as_bf16(int(stored)) < _e4m3(7) * Fraction(2) ** -100


@pytest.mark.parametrize(("activation", "bias"), [("bf16", 126), ("fp16", 14)])
@given(st.floats(2.0**-20, 2.0, width=32), st.integers(0, 3))
def test_global_scale_makes_up_for_codes_and_rescale(
    activation: str, bias: int, value: float, rescale: int
) -> None:
    scale = torch.tensor([value])
    folded = s0e5m3.global_scale(scale, activation, rescale)
    want = Fraction(value) * Fraction(2) ** (bias - 7 - rescale)
    assert Fraction(folded.item()) == want
    assert torch.equal(s0e5m3.original_global_scale(folded, activation, rescale), scale)


@pytest.mark.parametrize("code", [0x7F, 0x80, 0xB8, 0xFF])
def test_s0e5m3_refuses_negative_and_nan(code: int) -> None:
    with pytest.raises(ValueError, match=f"scale code 0x{code:02x} is negative or NaN"):
        s0e5m3.encode(torch.tensor([code], dtype=torch.uint8))


def test_s0e5m3_refuses_codes_that_no_scale_has() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    for rescale in (0, 1):
        made = set(s0e5m3.encode(EVERY, rescale).tolist())
        for code in set(every.tolist()) - made:
            with pytest.raises(ValueError, match="encodes no E4M3 scale"):
                s0e5m3.decode(every[code : code + 1], rescale)
