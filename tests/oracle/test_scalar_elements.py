"""Element formats of the second oracle, against ml_dtypes, gfloat, numpy and OCP."""

import math
import random
import struct
from fractions import Fraction

import gfloat
import ml_dtypes
import numpy as np
import pytest
from gfloat import RoundMode
from gfloat import formats as gf

from oracle.scalar.elements import ELEMENTS, decode, encode, largest, round_to

WITNESS = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
}
CODES = {"e2m1": 16, "e2m3": 64, "e3m2": 64, "e4m3": 256, "e5m2": 256, "bf16": 1 << 16}
GFLOAT = {
    "e2m1": gf.format_info_ocp_e2m1,
    "e2m3": gf.format_info_ocp_e2m3,
    "e3m2": gf.format_info_ocp_e3m2,
    "e4m3": gf.format_info_ocp_e4m3,
    "e5m2": gf.format_info_ocp_e5m2,
}


def same(got, want):
    """Equal values, NaN equal to NaN, zeros of one sign."""
    got, want = float(got), float(want)
    if math.isnan(want):
        return math.isnan(got)
    return got == want and math.copysign(1, got) == math.copysign(1, want)


def hard_values(name, count, seed=0):
    """Values, midpoints of neighbours and their fp32 neighbours, and random ones."""
    generator = random.Random(seed)
    top = ELEMENTS[name].last
    codes = sorted({generator.randrange(top) for _ in range(count)} | {0, top - 1})
    values = [0.0, float(largest(name)) * 1.5]
    for code in codes:
        low, high = (Fraction(decode(c, name)) for c in (code, code + 1))
        for x in (low, (low + high) / 2):
            near = np.float32(float(x))
            values += [near, np.nextafter(near, np.inf), np.nextafter(near, -np.inf)]
    limit = float(largest(name))
    values += [generator.uniform(-1.1, 1.1) * limit for _ in range(count)]
    with np.errstate(over="ignore"):
        singles = np.array(values, np.float32)
    return [sign * float(x) for x in singles if np.isfinite(x) for sign in (1, -1)]


@pytest.mark.parametrize("name", CODES)
def test_scalar_decode_equals_ml_dtypes_for_every_code(name):
    width = np.uint16 if name == "bf16" else np.uint8
    codes = np.arange(CODES[name]).astype(width).view(WITNESS[name])
    with np.errstate(invalid="ignore"):
        want = codes.astype(np.float64)
    assert all(same(decode(code, name), x) for code, x in enumerate(want))


def test_scalar_decode_equals_numpy_for_fp16():
    want = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    assert all(same(decode(code, "fp16"), x) for code, x in enumerate(want))


def test_scalar_decode_equals_struct_for_fp32_and_fp64():
    generator = random.Random(1)
    for name, bits, form in (("fp32", 32, "<If"), ("fp64", 64, "<Qd")):
        for _ in range(300):
            code = generator.getrandbits(bits)
            (want,) = struct.unpack("<" + form[2], struct.pack("<" + form[1], code))
            assert same(decode(code, name), want)
            if not math.isnan(want):
                assert encode(want, name, saturate=False) == code


def test_scalar_e8m0_is_a_power_of_two_from_byte_zero():
    codes = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu)
    want = codes.astype(np.float64)
    assert all(same(decode(byte, "e8m0"), x) for byte, x in enumerate(want))
    assert decode(0, "e8m0") == Fraction(1, 2**127)
    assert [encode(decode(b, "e8m0"), "e8m0") for b in (0, 1, 254)] == [0, 1, 254]
    near = [1.5, 3.0, 0.75, 2.0**-127 * 1.5, 2.0**-128 * 1.5, 2.0**127 * 1.5, 1.4]
    cast = np.array(near, np.float32).astype(ml_dtypes.float8_e8m0fnu).view(np.uint8)
    assert [encode(x, "e8m0", saturate=False) for x in near] == cast.tolist()
    assert [encode(x, "e8m0") for x in (-2.5, 0.0, math.inf)] == [0x80, 0, 0xFE]


def test_scalar_fixed_point_values():
    assert [decode(c, "int8") for c in (-128, -1, 127)] == [-128, -1, 127]
    assert decode(127, "mxint8") == largest("mxint8") == Fraction(127, 64)
    assert [encode(x, "int4") for x in (-9.0, -7.5, 0.5, 1.5, 7.6)] == [-8, -8, 0, 2, 7]
    assert [encode(x, "int8", "half_away") for x in (-2.5, 2.5)] == [-3, 3]


@pytest.mark.parametrize("name", WITNESS)
def test_scalar_round_equals_ml_dtypes(name):
    for x in hard_values(name, 40):
        got = round_to(x, name, saturate=False)
        with np.errstate(over="ignore"):
            want = np.float32(x).astype(WITNESS[name])
        assert same(got, want), (x, got, want)


@pytest.mark.parametrize("name", GFLOAT)
@pytest.mark.parametrize(
    ("rounding", "mode"),
    [
        ("nearest_even", RoundMode.TiesToEven),
        ("half_away", RoundMode.TiesToAway),
        ("toward_zero", RoundMode.TowardZero),
    ],
)
@pytest.mark.parametrize("saturate", [True, False])
def test_scalar_round_equals_gfloat(name, rounding, mode, saturate):
    finite_only = not (ELEMENTS[name].nan or ELEMENTS[name].infinity)
    for x in hard_values(name, 12, seed=2):
        got = round_to(x, name, rounding, saturate)
        want = gfloat.round_float(GFLOAT[name], x, mode, sat=saturate or finite_only)
        assert same(got, want), (x, got, want)


def test_scalar_e2m1_ties():
    ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    want = {
        "nearest_even": [0, 2, 2, 4, 4, 6, 6],
        "half_away": [1, 2, 3, 4, 5, 6, 7],
        "half_toward_zero": [0, 1, 2, 3, 4, 5, 6],
        "toward_zero": [0, 1, 2, 3, 4, 5, 6],
    }
    for rounding, codes in want.items():
        assert [encode(x, "e2m1", rounding) for x in ties] == codes
        assert [encode(-x, "e2m1", rounding) for x in ties] == [c | 8 for c in codes]


def test_scalar_overflow_by_format():
    """Boundaries of OCP: 464 for E4M3, 61440 for E5M2, none for E2M1."""
    above = math.nextafter(464, 500)
    assert [encode(x, "e4m3", saturate=False) for x in (464, above)] == [0x7E, 0x7F]
    saturated = [encode(x, "e4m3") for x in (above, math.inf, -math.inf)]
    assert saturated == [0x7E, 0x7E, 0xFE]
    below = math.nextafter(61440, 0)
    assert [encode(x, "e5m2", saturate=False) for x in (below, 61440)] == [0x7B, 0x7C]
    assert encode(-math.inf, "e5m2") == 0xFB
    assert encode(-math.inf, "e5m2", saturate=False) == 0xFC
    assert encode(1e30, "e4m3", "toward_zero", saturate=False) == 0x7E
    assert encode(1e30, "e2m1", saturate=False) == 7
    assert encode(math.nan, "e4m3") == 0x7F
    assert [encode(math.nan, name) for name in ("e2m1", "int8")] == [7, 0]
    with pytest.raises(ValueError, match="element 'e1m2' is unknown"):
        encode(1.0, "e1m2")
