"""The two oracles give every value the same code, and every code the same value."""

import math
import sys
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oracle import formats
from oracle.scalar import elements

NAMES = list(formats.FORMATS)
ROUNDINGS = ("nearest_even", "half_away", "half_toward_zero", "toward_zero")
#: Codes above this many bits are drawn, not enumerated.
ENUMERATED = 8


def number(value):
    """A float64 of either oracle's value; NaN by class."""
    return "nan" if math.isnan(value) else (float(value), math.copysign(1, value))


def finite_codes(name):
    """Positive finite codes of a format, as a range."""
    return range(elements.element(name).last + 1)


@st.composite
def near_boundaries(draw, name):
    """A value, a midpoint of two, a float64 next to either, of either sign."""
    codes = finite_codes(name)
    code = draw(st.integers(0, len(codes) - 2) | st.just(len(codes) - 2))
    low, high = (Fraction(elements.decode(c, name)) for c in (code, code + 1))
    beyond = min(2 * high - low, Fraction(sys.float_info.max))
    x = float(draw(st.sampled_from([low, high, (low + high) / 2, beyond])))
    x = draw(st.sampled_from([x, math.nextafter(x, 0), math.nextafter(x, math.inf)]))
    return draw(st.sampled_from([x, -x, x * 1.5]))


@pytest.mark.parametrize(
    "name", [n for n in NAMES if formats.get(n).bits <= ENUMERATED]
)
def test_scalar_formats_agree_on_every_code(name):
    entry = formats.get(name)
    codes = range(2**entry.bits)
    if entry.kind == "integer":
        codes = range(-(2 ** (entry.bits - 1)), 2 ** (entry.bits - 1))
    kind = torch.int8 if entry.kind == "integer" else torch.uint8
    values = formats.decode(torch.tensor(list(codes)).to(kind), name).tolist()
    for code, value in zip(codes, values, strict=True):
        assert number(value) == number(elements.decode(code, name))


@pytest.mark.parametrize("name", [n for n in NAMES if formats.get(n).bits > ENUMERATED])
@given(data=st.data())
def test_scalar_formats_agree_on_wide_codes(name, data):
    bits = formats.get(name).bits
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=20))
    signed = [c - (c >> (bits - 1) << bits) for c in codes]
    values = formats.decode(torch.tensor(signed, dtype=torch.int64), name).tolist()
    assert [number(v) for v in values] == [
        number(elements.decode(c, name)) for c in codes
    ]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, derandomize=True)
@given(data=st.data())
def test_scalar_formats_agree_on_rounding(name, data):
    """Every rounding, saturating or not, for values at and beside every boundary."""
    floats = st.floats(width=64) | near_boundaries(name)
    xs = data.draw(st.lists(floats, min_size=1, max_size=12))
    tensor = torch.tensor(xs, dtype=torch.float64)
    entry = formats.get(name)
    for rounding in ROUNDINGS:
        for saturate in (True, False):
            codes = formats.encode(tensor, name, rounding, saturate).tolist()
            rounded = formats.round_to(
                tensor, name, rounding=rounding, saturate=saturate
            ).tolist()
            for x, code, value in zip(xs, codes, rounded, strict=True):
                want = elements.encode(x, name, rounding, saturate)
                meant = elements.decode(want, name)
                where = (x, rounding, saturate)
                if math.isnan(meant):
                    read = formats.decode(torch.tensor([code]).to(entry.storage), name)
                    assert read.isnan().all(), where
                else:
                    assert code % 2**entry.bits == want % 2**entry.bits, where
                if not math.isnan(x):
                    assert number(value) == number(meant), where


@example(x=Fraction(1, 3))
@given(x=st.fractions(min_value=-400, max_value=400))
def test_scalar_formats_agree_on_the_nearest_value_of_a_fraction(x):
    """A float64 of a fraction rounds as the fraction does, unless it sits on a tie."""
    for name in ("e2m1", "e4m3", "bf16"):
        near = float(x)
        rounded = float(
            formats.round_to(torch.tensor([near], dtype=torch.float64), name)
        )
        if elements.round_to(near, name) == elements.round_to(x, name):
            assert rounded == elements.round_to(x, name)
        else:
            assert Fraction(near) != x
